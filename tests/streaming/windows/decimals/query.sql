-- Exact decimals in windows: sums, products of two decimals, a mean rounded to cents.
-- result: append
SELECT
    symbol,
    window_start,
    SUM(price) AS turnover,
    SUM(price * qty) AS volume,
    SUM(price * CAST('0.0750' AS DECIMAL(6, 4))) AS tax,
    CAST(ROUND(AVG(price), 2) AS DECIMAL(12, 2)) AS mean
FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '5' MINUTE))
GROUP BY symbol, window_start, window_end
