-- Distinct counts in hopping windows.
-- result: append
SELECT
    window_start,
    window_end,
    COUNT(DISTINCT symbol) AS symbols,
    COUNT(DISTINCT price) AS prices,
    COUNT(price) AS priced
FROM TABLE(HOP(TABLE trades, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '5' MINUTE))
GROUP BY window_start, window_end
