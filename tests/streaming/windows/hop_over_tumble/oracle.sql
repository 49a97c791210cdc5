WITH windows AS (
    SELECT start, start + INTERVAL '5 minutes' AS "end"
    FROM (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '1 minute'
    )) AS start)
),
minutes AS (
    SELECT symbol, one, count(*) AS trades
    FROM trades
    JOIN (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '1 minute'
    )) AS one) ON ts >= one AND ts < one + INTERVAL '1 minute'
    GROUP BY symbol, one
)
SELECT symbol, start AS window_start, "end" AS window_end, min(trades) AS quietest, max(trades) AS busiest
FROM windows JOIN minutes ON one >= start AND one < "end"
GROUP BY symbol, start, "end"
