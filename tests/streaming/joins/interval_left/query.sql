-- A left interval join: an order without a shipment in time is given once, when its interval is over. Nothing is taken back.
-- result: append
SELECT o.order_id, o.ts AS ordered, s.shipment_id
FROM orders AS o
LEFT JOIN shipments AS s
    ON o.order_id = s.order_id AND s.ts BETWEEN o.ts AND o.ts + INTERVAL '4' MINUTE
