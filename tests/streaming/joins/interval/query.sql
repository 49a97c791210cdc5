-- An interval join: shipments from the order on up to four minutes later, both ends included.
-- result: append
SELECT o.order_id, s.shipment_id, o.ts AS ordered, s.ts AS sent
FROM orders AS o
JOIN shipments AS s
    ON o.order_id = s.order_id AND s.ts BETWEEN o.ts AND o.ts + INTERVAL '4' MINUTE
