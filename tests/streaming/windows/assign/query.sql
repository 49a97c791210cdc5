-- A window table function without aggregation: each row with each of its windows.
-- result: append
SELECT id, window_start, window_end
FROM TABLE(HOP(TABLE trades, DESCRIPTOR(ts), INTERVAL '2' MINUTE, INTERVAL '4' MINUTE))
WHERE qty > 7
