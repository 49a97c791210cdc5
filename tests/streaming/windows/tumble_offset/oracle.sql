WITH windows AS (
    SELECT start, start + INTERVAL '5 minutes' AS "end"
    FROM (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:01:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '5 minutes'
    )) AS start)
)
SELECT start AS window_start, "end" AS window_end, count(*) AS trades, sum(price) AS turnover
FROM windows JOIN trades ON ts >= start AND ts < "end"
GROUP BY start, "end"
