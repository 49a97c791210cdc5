-- A windowed GROUP BY without aggregates: distinct keys.
-- result: append
SELECT symbol, venue, window_start
FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '5' MINUTE))
GROUP BY symbol, venue, window_start, window_end
