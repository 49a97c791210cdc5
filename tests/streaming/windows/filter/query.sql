-- FILTER on plain and on distinct aggregates. A condition that is null leaves the row out.
-- result: append
SELECT
    window_start,
    window_end,
    COUNT(*) FILTER (WHERE venue = 'north') AS north,
    SUM(qty) FILTER (WHERE price > 100) AS dear_qty,
    COUNT(DISTINCT symbol) FILTER (WHERE venue = 'north') AS north_symbols,
    COUNT(DISTINCT symbol) FILTER (WHERE qty IS NULL) AS symbols_without_qty,
    MAX(price) FILTER (WHERE symbol = 'nobody') AS never
FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '2' MINUTE))
GROUP BY window_start, window_end
