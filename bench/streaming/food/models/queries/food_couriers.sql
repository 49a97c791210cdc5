-- Each order with its delivery within 45 minutes, or none.
select p.order_id, p.city, p.amount, p.event_time as placed_at, d.courier_id, d.event_time as delivered_at
from {{ ref('placed') }} as p
left join {{ ref('delivered') }} as d
on p.order_id = d.order_id
    and d.event_time between p.event_time and p.event_time + interval '45' minute
