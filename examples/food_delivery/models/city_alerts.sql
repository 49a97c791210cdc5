-- Minutes in which a city places more than twice or less than half the orders of the hour before, or
-- falls silent: a city that was there within the hour counts zero then.
{{ config(materialized='stream') }}
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
        hours.city,
        hours.window_end - interval '1' minute as minute,
        coalesce(minutes.events, 0) as events,
        coalesce(minutes.placed, 0) as placed,
        hours.placed - coalesce(minutes.placed, 0) as base_placed,
        cast(extract(epoch from hours.window_end - interval '1' minute - hours.first_minute) as bigint) / 60
            as base_minutes
    from (
        select city, window_end, sum(placed) as placed, min(minute) as first_minute
        from table(hop(
            table {{ ref('city_minutes') }}, descriptor(counted_at), interval '1' minute, interval '61' minute))
        group by city, window_start, window_end
    ) as hours
    left join {{ ref('city_minutes') }} as minutes
        on hours.city = minutes.city and hours.window_end = minutes.minute_end
)
where events = 0
    or (base_minutes >= 5 and (placed * base_minutes > 2 * base_placed or 2 * placed * base_minutes < base_placed))
