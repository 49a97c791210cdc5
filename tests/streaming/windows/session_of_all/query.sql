-- Sessions over all rows together.
-- result: append
SELECT window_start, window_end, COUNT(*) AS trades, COUNT(DISTINCT venue) AS venues
FROM TABLE(SESSION(TABLE trades, DESCRIPTOR(ts), INTERVAL '2' MINUTE))
GROUP BY window_start, window_end
