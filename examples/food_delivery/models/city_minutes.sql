-- Placed orders of each city by the minute.
{{ config(materialized='ephemeral') }}
select
    city,
    window_start as minute,
    window_end as minute_end,
    window_time as counted_at,
    count(*) as events,
    count(*) filter (where status = 'placed') as placed
from table(tumble(table {{ ref('stg_orders') }}, descriptor(event_time), interval '1' minute))
group by city, window_start, window_end, window_time
