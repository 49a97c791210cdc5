-- Windows over windows: minutes by key, then five minutes of those, by the time that a window ends with.
-- result: append
SELECT
    window_start,
    window_end,
    COUNT(*) AS minutes,
    SUM(trades) AS trades,
    MAX(trades) AS busiest,
    SUM(turnover) AS turnover
FROM TABLE(TUMBLE(
    TABLE minutes, DESCRIPTOR(rowtime), INTERVAL '5' MINUTE))
GROUP BY window_start, window_end
