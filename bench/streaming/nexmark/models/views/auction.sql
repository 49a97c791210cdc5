select
    auction_id as id, auction_item_name as item_name, auction_description as description,
    auction_initial_bid as initial_bid, auction_reserve as reserve, date_time,
    auction_expires as expires, auction_seller as seller, auction_category as category,
    auction_extra as extra
from {{ source('nexmark', 'events') }}
where event_type = 1
