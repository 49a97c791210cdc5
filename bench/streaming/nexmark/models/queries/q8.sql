-- Nexmark q8: persons who came and sold in the same ten seconds.
select p.id, p.name, p.starttime
from (
    select id, name, window_start as starttime, window_end as endtime
    from table(tumble(table {{ ref('person') }}, descriptor(date_time), interval '10' second))
    group by id, name, window_start, window_end
) as p
join (
    select seller, window_start as starttime, window_end as endtime
    from table(tumble(table {{ ref('auction') }}, descriptor(date_time), interval '10' second))
    group by seller, window_start, window_end
) as a
on p.id = a.seller and p.starttime = a.starttime and p.endtime = a.endtime
