SELECT
    auction, bidder, price, channel, url, B."dateTime" AS "bid_dateTime", B.extra AS bid_extra,
    itemName, description, initialBid, reserve, A."dateTime" AS "auction_dateTime", expires, seller,
    category, A.extra AS auction_extra
FROM bid AS B, (SELECT * FROM auction WHERE category = 10) AS A
WHERE B.auction = A.id
