select order_id, city, amount, event_time from {{ source('delivery', 'orders') }} where status = 'placed'
