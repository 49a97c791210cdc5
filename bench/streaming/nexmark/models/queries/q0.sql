-- Nexmark q0: pass through.
select auction, bidder, price, date_time, extra from {{ ref('bid') }}
