-- Tumbling windows that begin a minute past every fifth; no key.
-- result: append
SELECT window_start, window_end, COUNT(*) AS trades, SUM(price) AS turnover
FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '5' MINUTE, INTERVAL '1' MINUTE))
GROUP BY window_start, window_end
