-- A row that is late for some of its windows counts in the others; late as such is one that has none left.
-- result: append
SELECT window_start, window_end, COUNT(*) AS trades
FROM TABLE(HOP(TABLE trades, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '5' MINUTE))
GROUP BY window_start, window_end
