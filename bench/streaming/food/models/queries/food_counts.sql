-- Order events by minute, city and status.
select city, status, window_start, window_end, count(*) as orders, sum(amount) as amount
from table(tumble(table {{ source('delivery', 'orders') }}, descriptor(event_time), interval '1' minute))
group by city, status, window_start, window_end
