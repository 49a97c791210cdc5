-- Minutes in which a city places more than twice or less than half the orders of the hour before, or
-- falls silent: a city that was there within the day counts zero then.
{{ config(materialized='stream', state_ttl='6h') }}
select
    city,
    minute,
    events,
    placed,
    base_minutes,
    base_placed,
    events = 0 as silent,
    case
        when base_minutes >= 5 and placed * base_minutes > 2 * base_placed then 'surge'
        when base_minutes >= 5 and 2 * placed * base_minutes < base_placed then 'drop'
    end as change
from (
    select
        known.city,
        known.window_end - interval '1' minute as minute,
        coalesce(minutes.events, 0) as events,
        coalesce(minutes.placed, 0) as placed,
        coalesce(hours.placed, 0) - coalesce(minutes.placed, 0) as base_placed,
        least(60, cast(extract(epoch from known.window_end - interval '1' minute - known.first_minute) as bigint) / 60)
            as base_minutes
    from (
        select city, window_end, min(minute) as first_minute
        from table(hop(
            table {{ ref('city_minutes') }}, descriptor(counted_at), interval '1' minute, interval '24' hour))
        group by city, window_start, window_end
    ) as known
    left join (
        select city, window_end, sum(placed) as placed
        from table(hop(
            table {{ ref('city_minutes') }}, descriptor(counted_at), interval '1' minute, interval '61' minute))
        group by city, window_start, window_end
    ) as hours
        on known.city = hours.city and known.window_end = hours.window_end
    left join {{ ref('city_minutes') }} as minutes
        on known.city = minutes.city and known.window_end = minutes.minute_end
)
where events = 0
    or (base_minutes >= 5 and (placed * base_minutes > 2 * base_placed or 2 * placed * base_minutes < base_placed))
