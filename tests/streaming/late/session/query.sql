-- A row whose session has ended is late: it begins no new one. None here reaches a session that is still open.
-- result: append
SELECT venue, window_start, window_end, COUNT(*) AS trades
FROM TABLE(SESSION(TABLE trades PARTITION BY venue, DESCRIPTOR(ts), INTERVAL '10' SECOND))
GROUP BY venue, window_start, window_end
