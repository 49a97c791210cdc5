-- Each shipment in time, with its order's amount and its own time.
CREATE VIEW shipped AS
SELECT s.carrier, o.amount, s.ts
FROM orders AS o
JOIN shipments AS s
    ON o.order_id = s.order_id AND s.ts BETWEEN o.ts AND o.ts + INTERVAL '4' MINUTE;
