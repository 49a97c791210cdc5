WITH pairs AS (
    SELECT o.order_id, s.shipment_id
    FROM orders AS o, shipments AS s
    WHERE o.order_id = s.order_id
        AND s.ts >= o.ts - INTERVAL '30 seconds' AND s.ts < o.ts + INTERVAL '2 minutes'
)
SELECT order_id, shipment_id, order_id AS shipped FROM pairs
UNION ALL
SELECT order_id, NULL, NULL FROM orders WHERE order_id NOT IN (SELECT order_id FROM pairs)
UNION ALL
SELECT NULL, shipment_id, order_id FROM shipments
WHERE shipment_id NOT IN (SELECT shipment_id FROM pairs)
