WITH periods AS (
    SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '20 minutes'
    )) AS start
),
windows AS (
    SELECT start, start + step * INTERVAL '2 minutes' AS "end"
    FROM periods, (SELECT unnest(range(1, 11)) AS step)
)
SELECT venue, start AS window_start, "end" AS window_end, count(*) AS trades
FROM windows JOIN trades ON ts >= start AND ts < "end"
WHERE _watermark IS NULL OR "end" - INTERVAL '1 millisecond' > _watermark
GROUP BY venue, start, "end"
