WITH windows AS (
    SELECT start, start + INTERVAL '1 minute' AS "end"
    FROM (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '1 minute'
    )) AS start)
)
SELECT symbol, start AS window_start, count(*) AS trades, sum(qty) AS qty
FROM windows JOIN trades ON ts >= start AND ts < "end"
WHERE _watermark IS NULL OR "end" - INTERVAL '1 millisecond' > _watermark
GROUP BY symbol, start
