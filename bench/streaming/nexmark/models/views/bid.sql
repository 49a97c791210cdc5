select
    bid_auction as auction, bid_bidder as bidder, bid_price as price, bid_channel as channel,
    bid_url as url, date_time, bid_extra as extra
from {{ source('nexmark', 'events') }}
where event_type = 2
