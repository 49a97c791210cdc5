SELECT o.order_id, o.ts AS ordered, s.shipment_id
FROM orders AS o, shipments AS s
WHERE o.order_id = s.order_id AND s.ts >= o.ts AND s.ts <= o.ts + INTERVAL '4 minutes'
UNION ALL
SELECT o.order_id, o.ts, NULL
FROM orders AS o
WHERE NOT EXISTS (
    SELECT 1 FROM shipments AS s
    WHERE o.order_id = s.order_id AND s.ts >= o.ts AND s.ts <= o.ts + INTERVAL '4 minutes'
)
