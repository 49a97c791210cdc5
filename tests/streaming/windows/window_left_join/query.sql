-- A left join of windowed results on equal windows.
-- result: append
SELECT L.window_start, L.symbol, L.trades, R.trades AS dear
FROM (
    SELECT symbol, window_start, window_end, COUNT(*) AS trades
    FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '2' MINUTE))
    GROUP BY symbol, window_start, window_end
) AS L
LEFT JOIN (
    SELECT symbol, window_start, window_end, COUNT(*) AS trades
    FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '2' MINUTE))
    WHERE price > 150
    GROUP BY symbol, window_start, window_end
) AS R
ON L.symbol = R.symbol AND L.window_start = R.window_start AND L.window_end = R.window_end
