-- Rows whose window has closed are late: they are not counted, and go to the side output.
-- result: append
SELECT symbol, window_start, COUNT(*) AS trades, SUM(qty) AS qty
FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY symbol, window_start, window_end
