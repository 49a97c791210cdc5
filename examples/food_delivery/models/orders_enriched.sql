-- Orders with what was known of restaurant and customer at their time. An order goes on without it.
{{ config(materialized='stream', state_ttl='6h') }}
select
    o.order_id,
    o.city,
    o.status,
    o.amount,
    o.event_time,
    r.name as restaurant,
    r.cuisine,
    o.amount * r.commission as commission,
    c.name as customer,
    c.tier,
    case when r.restaurant_id is null or c.customer_id is null then 'FAILED' else 'OK' end
        as enrichment_status
from {{ ref('stg_orders') }} as o
left join {{ source('food', 'restaurants') }} for system_time as of o.event_time as r
    on o.restaurant_id = r.restaurant_id
left join {{ source('food', 'customers') }} for system_time as of o.event_time as c
    on o.customer_id = c.customer_id
