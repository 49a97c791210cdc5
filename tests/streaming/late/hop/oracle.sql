WITH windows AS (
    SELECT start, start + INTERVAL '5 minutes' AS "end"
    FROM (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '1 minute'
    )) AS start)
)
SELECT start AS window_start, "end" AS window_end, count(*) AS trades
FROM windows JOIN trades ON ts >= start AND ts < "end"
WHERE _watermark IS NULL OR "end" - INTERVAL '1 millisecond' > _watermark
GROUP BY start, "end"
