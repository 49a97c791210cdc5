WITH windows AS (
    SELECT start, start + INTERVAL '1 minute' AS "end"
    FROM (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '1 minute'
    )) AS start)
),
minutes AS (
    SELECT symbol, start, count(*) AS trades, sum(price) AS turnover
    FROM windows JOIN trades ON ts >= start AND ts < "end"
    GROUP BY symbol, start
)
SELECT
    five AS window_start, five + INTERVAL '5 minutes' AS window_end,
    count(*) AS active_minutes, sum(trades) AS trades, max(trades) AS busiest, sum(turnover) AS turnover
FROM minutes
JOIN (SELECT unnest(generate_series(
    TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '5 minutes'
)) AS five) ON start >= five AND start < five + INTERVAL '5 minutes'
GROUP BY five
