{{ config(materialized='view') }}

select
    s.region,
    d.sale_date,
    count(distinct d.store_id) as stores,
    sum(d.transactions) as transactions,
    sum(d.revenue) as revenue
from {{ ref('daily_sales') }} as d
join {{ ref('stores') }} as s on s.store_id = d.store_id
group by s.region, d.sale_date
