WITH windows AS (
    SELECT start, start + INTERVAL '2 minutes' AS "end"
    FROM (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '2 minutes'
    )) AS start)
)
SELECT
    start AS window_start, "end" AS window_end,
    sum(CASE WHEN venue = 'north' THEN 1 ELSE 0 END) AS north,
    sum(CASE WHEN price > 100 THEN qty END) AS dear_qty,
    count(DISTINCT CASE WHEN venue = 'north' THEN symbol END) AS north_symbols,
    count(DISTINCT CASE WHEN qty IS NULL THEN symbol END) AS symbols_without_qty,
    CAST(NULL AS DECIMAL(10, 2)) AS never
FROM windows JOIN trades ON ts >= start AND ts < "end"
GROUP BY start, "end"
