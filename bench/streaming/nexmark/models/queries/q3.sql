-- Nexmark q3: who sells in category 10 in three states; a regular join of inputs that only grow.
select p.name, p.city, p.state, a.id
from {{ ref('auction') }} as a
inner join {{ ref('person') }} as p on a.seller = p.id
where a.category = 10 and (p.state = 'OR' or p.state = 'ID' or p.state = 'CA')
