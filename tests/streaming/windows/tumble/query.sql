-- Tumbling windows by key; a null is a key as well, and rows on a border belong to the later window.
-- result: append
SELECT
    symbol,
    window_start,
    window_end,
    COUNT(*) AS trades,
    COUNT(price) AS priced,
    SUM(qty) AS qty,
    MIN(price) AS low,
    MAX(price) AS high,
    AVG(CAST(qty AS DOUBLE)) AS mean_qty
FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY symbol, window_start, window_end
