-- Nexmark q0: pass through.
-- result: append
SELECT auction, bidder, price, `dateTime`, extra FROM bid
