-- Sessions by key that end after two minutes without a row. Rows exactly the gap apart are in one session.
-- result: append
SELECT symbol, window_start, window_end, COUNT(*) AS trades, SUM(price) AS turnover
FROM TABLE(SESSION(TABLE trades PARTITION BY symbol, DESCRIPTOR(ts), INTERVAL '2' MINUTE))
GROUP BY symbol, window_start, window_end
