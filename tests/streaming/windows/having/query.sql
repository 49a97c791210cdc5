-- HAVING on an aggregate that is given, and on one that is not.
-- result: append
SELECT symbol, window_start, COUNT(*) AS trades
FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY symbol, window_start, window_end
HAVING COUNT(*) > 3 AND SUM(price) < 600
