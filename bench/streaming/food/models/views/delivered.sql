select order_id, courier_id, event_time from {{ source('delivery', 'couriers') }} where event = 'delivered'
