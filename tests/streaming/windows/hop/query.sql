-- Hopping windows: five minutes, every minute. A row is in five of them.
-- result: append
SELECT
    venue,
    window_start,
    window_end,
    COUNT(*) AS trades,
    SUM(price) AS turnover,
    MIN(qty) AS least,
    MAX(qty) AS most
FROM TABLE(HOP(TABLE trades, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '5' MINUTE))
GROUP BY venue, window_start, window_end
