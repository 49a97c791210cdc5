SELECT o.order_id, s.shipment_id, o.ts AS ordered, s.ts AS sent
FROM orders AS o, shipments AS s
WHERE o.order_id = s.order_id AND s.ts > o.ts AND NOT (s.carrier <> 'post' AND o.amount <= 100)
