-- Events of each city and status by the minute.
{{ config(
    materialized='stream',
    state_ttl='6h',
    sinks=[
        'table',
        {'connector': 'kafka', 'connection': 'events', 'topic': 'orders_per_minute', 'create_partitions': 1},
        {'connector': 'postgres', 'connection': 'postgres', 'table': 'orders_per_minute'}
    ] if target.name == 'kafka' else ['table']
) }}
select city, status, window_start as minute, count(*) as events, sum(amount) as amount
from table(tumble(table {{ ref('stg_orders') }}, descriptor(event_time), interval '1' minute))
group by city, status, window_start, window_end
