WITH marked AS (
    SELECT *, ts - lag(ts) OVER (PARTITION BY symbol ORDER BY ts, id) > INTERVAL '2 minutes' AS breaks
    FROM trades
),
numbered AS (
    SELECT *, count(*) FILTER (breaks) OVER (PARTITION BY symbol ORDER BY ts, id ROWS UNBOUNDED PRECEDING) AS session
    FROM marked
)
SELECT symbol, min(ts) AS window_start, max(ts) + INTERVAL '2 minutes' AS window_end, count(*) AS trades, sum(price) AS turnover
FROM numbered
GROUP BY symbol, session
