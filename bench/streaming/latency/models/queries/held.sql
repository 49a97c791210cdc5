-- A join whose right side is the state that is to be large.
select e.id, e.sent, right(h.text, 4) as tail
from {{ source('topics', 'events') }} as e
join {{ source('topics', 'held') }} as h on e.key = h.key
