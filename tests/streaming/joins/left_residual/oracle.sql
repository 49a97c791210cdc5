SELECT o.order_id, s.shipment_id, s.carrier
FROM orders AS o, shipments AS s
WHERE o.order_id = s.order_id AND s.carrier = 'van' AND s.ts >= o.ts
UNION ALL
SELECT o.order_id, NULL, NULL
FROM orders AS o
WHERE NOT EXISTS (
    SELECT 1 FROM shipments AS s
    WHERE o.order_id = s.order_id AND s.carrier = 'van' AND s.ts >= o.ts
)
