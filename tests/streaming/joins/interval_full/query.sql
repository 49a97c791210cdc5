-- A full interval join, around the time of the order.
-- result: append
SELECT o.order_id, s.shipment_id, s.order_id AS shipped
FROM orders AS o
FULL JOIN shipments AS s
    ON o.order_id = s.order_id
    AND s.ts >= o.ts - INTERVAL '30' SECOND AND s.ts < o.ts + INTERVAL '2' MINUTE
