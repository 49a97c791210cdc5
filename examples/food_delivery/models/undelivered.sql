-- Orders that no courier delivered within 45 minutes, once that is certain.
{{ config(materialized='stream', state_ttl='6h') }}
select o.order_id, o.city, o.event_time as placed_at
from {{ ref('stg_orders') }} as o
left join (
    select order_id, event_time from {{ source('food', 'couriers') }} where event = 'delivered'
) as c
    on o.order_id = c.order_id
    and c.event_time between o.event_time and o.event_time + interval '45' minute
where o.status = 'placed' and c.order_id is null
