WITH marked AS (
    SELECT *, ts - lag(ts) OVER (ORDER BY ts, id) > INTERVAL '2 minutes' AS breaks
    FROM trades
),
numbered AS (
    SELECT *, count(*) FILTER (breaks) OVER (ORDER BY ts, id ROWS UNBOUNDED PRECEDING) AS session
    FROM marked
)
SELECT min(ts) AS window_start, max(ts) + INTERVAL '2 minutes' AS window_end, count(*) AS trades, count(DISTINCT venue) AS venues
FROM numbered
GROUP BY session
