-- Nexmark q5: the auctions with the most bids, in hopping windows.
select auction_bids.auction, auction_bids.num
from (
    select auction, count(*) as num, window_start as starttime, window_end as endtime
    from table(hop(table {{ ref('bid') }}, descriptor(date_time), interval '2' second, interval '10' second))
    group by auction, window_start, window_end
) as auction_bids
join (
    select max(count_bids.num) as maxn, count_bids.starttime, count_bids.endtime
    from (
        select count(*) as num, window_start as starttime, window_end as endtime
        from table(hop(table {{ ref('bid') }}, descriptor(date_time), interval '2' second, interval '10' second))
        group by auction, window_start, window_end
    ) as count_bids
    group by count_bids.starttime, count_bids.endtime
) as max_bids
on auction_bids.starttime = max_bids.starttime
    and auction_bids.endtime = max_bids.endtime
    and auction_bids.num >= max_bids.maxn
