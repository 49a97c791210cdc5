WITH windows AS (
    SELECT start, start + INTERVAL '1 minute' AS "end"
    FROM (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '1 minute'
    )) AS start)
)
SELECT symbol, window_start, trades FROM (
SELECT symbol, start AS window_start, "end" AS window_end, count(*) AS trades, sum(price) AS turnover
FROM windows JOIN trades ON ts >= start AND ts < "end"
GROUP BY symbol, start, "end")
WHERE trades > 3 AND turnover < 600
