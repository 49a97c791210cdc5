-- A left join whose condition beside the keys decides what has a partner.
-- result: changelog
SELECT o.order_id, s.shipment_id, s.carrier
FROM orders AS o
LEFT JOIN shipments AS s ON o.order_id = s.order_id AND s.carrier = 'van' AND s.ts >= o.ts
