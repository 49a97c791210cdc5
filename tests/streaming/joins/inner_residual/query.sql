-- An inner join with a condition beside the equal keys.
-- result: append
SELECT o.order_id, s.shipment_id, o.ts AS ordered, s.ts AS sent
FROM orders AS o
JOIN shipments AS s ON o.order_id = s.order_id AND s.ts > o.ts AND (s.carrier = 'post' OR o.amount > 100)
