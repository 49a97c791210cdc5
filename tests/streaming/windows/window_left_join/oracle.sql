WITH windows AS (
    SELECT start, start + INTERVAL '2 minutes' AS "end"
    FROM (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '2 minutes'
    )) AS start)
)
SELECT
    start AS window_start, symbol, count(*) AS trades,
    CASE WHEN symbol IS NOT NULL THEN nullif(count(*) FILTER (price > 150), 0) END AS dear
FROM windows JOIN trades ON ts >= start AND ts < "end"
GROUP BY start, symbol
