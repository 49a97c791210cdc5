WITH windows AS (
    SELECT unnest(generate_series(
        TIMESTAMP '2026-01-01 00:00:00', TIMESTAMP '2026-01-01 01:00:00', INTERVAL '5 minutes'
    )) AS start
),
shipped AS (
    SELECT s.carrier, o.amount, s.ts
    FROM orders AS o, shipments AS s
    WHERE o.order_id = s.order_id AND s.ts >= o.ts AND s.ts <= o.ts + INTERVAL '4 minutes'
)
SELECT
    carrier, start AS window_start, start + INTERVAL '5 minutes' AS window_end,
    count(*) AS shipments, sum(amount) AS amount
FROM windows JOIN shipped ON ts >= start AND ts < start + INTERVAL '5 minutes'
GROUP BY carrier, start
