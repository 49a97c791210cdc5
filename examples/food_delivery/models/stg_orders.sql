-- Each step of an order once, whatever the apps repeat.
{{ config(materialized='ephemeral') }}
select order_id, customer_id, restaurant_id, city, status, amount, event_time
from (
    select *, row_number() over (partition by order_id, status order by event_time) as nth
    from {{ source('food', 'orders') }}
)
where nth = 1
