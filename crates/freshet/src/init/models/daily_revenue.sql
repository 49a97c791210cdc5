{{ config(materialized='table') }}

select
    cast(o.ordered_at as date) as day,
    c.country,
    count(*) as orders,
    sum(o.amount) as revenue
from {{ ref('stg_orders') }} as o
join {{ ref('customers') }} as c on c.customer_id = o.customer_id
where o.status <> '{{ var("cancelled_status") }}'
group by 1, 2
