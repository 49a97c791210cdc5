-- A row here is a sale on a day that no file belongs to yet.
select store_id, sale_date
from {{ ref('daily_sales') }}
where sale_date > date '2027-12-31'
