-- As hopping windows: of a period that is under way, the windows that have closed do not change.
-- result: append
SELECT venue, window_start, window_end, COUNT(*) AS trades
FROM TABLE(CUMULATE(TABLE trades, DESCRIPTOR(ts), INTERVAL '2' MINUTE, INTERVAL '20' MINUTE))
GROUP BY venue, window_start, window_end
