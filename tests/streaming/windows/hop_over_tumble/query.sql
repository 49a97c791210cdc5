-- Hopping windows over tumbling ones: each minute of the last five.
-- result: append
SELECT symbol, window_start, window_end, MIN(trades) AS quietest, MAX(trades) AS busiest
FROM TABLE(HOP(TABLE by_minute, DESCRIPTOR(rowtime), INTERVAL '1' MINUTE, INTERVAL '5' MINUTE))
GROUP BY symbol, window_start, window_end
