WITH periods AS (
    SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '10 minutes'
    )) AS start
),
windows AS (
    SELECT start, start + step * INTERVAL '2 minutes' AS "end"
    FROM periods, (SELECT unnest([1, 2, 3, 4, 5]) AS step)
)
SELECT venue, start AS window_start, "end" AS window_end, count(*) AS trades, sum(qty) AS qty
FROM windows JOIN trades ON ts >= start AND ts < "end"
GROUP BY venue, start, "end"
