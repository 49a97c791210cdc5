WITH in_time AS (
    SELECT * FROM trades
    WHERE _watermark IS NULL OR ts + INTERVAL '9.999 seconds' > _watermark
),
marked AS (
    SELECT *, ts - lag(ts) OVER (PARTITION BY venue ORDER BY ts, id) > INTERVAL '10 seconds' AS breaks
    FROM in_time
),
numbered AS (
    SELECT
        *,
        count(*) FILTER (breaks) OVER (PARTITION BY venue ORDER BY ts, id ROWS UNBOUNDED PRECEDING) AS session
    FROM marked
),
sessions AS (
    SELECT
        venue, min(ts) AS window_start, max(ts) + INTERVAL '10 seconds' AS window_end,
        count(*) AS trades
    FROM numbered
    GROUP BY venue, session
)
-- A row behind the watermark that touches an open session would belong to it: there is none.
SELECT
    s.*
    EXCLUDE (trades),
    CASE WHEN EXISTS (
        SELECT 1 FROM trades AS t
        WHERE t.venue = s.venue AND t.ts + INTERVAL '9.999 seconds' <= t._watermark
            AND t.ts + INTERVAL '10 seconds' >= s.window_start AND t.ts <= s.window_end
            AND s.window_end - INTERVAL '1 millisecond' > t._watermark
    ) THEN error('a late row touches an open session') ELSE trades END AS trades
FROM sessions AS s
