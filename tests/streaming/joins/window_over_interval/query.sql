-- Windows over an interval join.
-- result: append
SELECT carrier, window_start, window_end, COUNT(*) AS shipments, SUM(amount) AS amount
FROM TABLE(TUMBLE(TABLE shipped, DESCRIPTOR(ts), INTERVAL '5' MINUTE))
GROUP BY carrier, window_start, window_end
