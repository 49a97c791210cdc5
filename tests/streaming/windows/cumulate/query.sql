-- Cumulating windows: ten minutes, with a result every two. Those without rows of their own give none until a row is in the period.
-- result: append
SELECT venue, window_start, window_end, COUNT(*) AS trades, SUM(qty) AS qty
FROM TABLE(CUMULATE(TABLE trades, DESCRIPTOR(ts), INTERVAL '2' MINUTE, INTERVAL '10' MINUTE))
GROUP BY venue, window_start, window_end
