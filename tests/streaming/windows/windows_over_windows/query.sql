-- Windows over windows: minutes by key, then five minutes of those, by the time that a window ends with.
-- result: append
SELECT
    window_start,
    window_end,
    COUNT(*) AS active_minutes,
    SUM(trades) AS trades,
    MAX(trades) AS busiest,
    SUM(turnover) AS turnover
FROM TABLE(TUMBLE(
    TABLE by_minute, DESCRIPTOR(rowtime), INTERVAL '5' MINUTE))
GROUP BY window_start, window_end
