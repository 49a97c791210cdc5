-- Two windowed results joined on equal windows.
-- result: append
SELECT L.window_start, L.window_end, L.symbol, L.trades AS north, R.trades AS south
FROM (
    SELECT symbol, window_start, window_end, COUNT(*) AS trades
    FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '2' MINUTE))
    WHERE venue = 'north'
    GROUP BY symbol, window_start, window_end
) AS L
JOIN (
    SELECT symbol, window_start, window_end, COUNT(*) AS trades
    FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '2' MINUTE))
    WHERE venue = 'south'
    GROUP BY symbol, window_start, window_end
) AS R
ON L.symbol = R.symbol AND L.window_start = R.window_start AND L.window_end = R.window_end
