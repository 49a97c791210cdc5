-- What a window gives has a time of its own: `window_time`, a millisecond before its end.
CREATE VIEW by_minute AS
SELECT
    symbol,
    window_start AS minute_start,
    window_end AS minute_end,
    window_time AS rowtime,
    COUNT(*) AS trades,
    SUM(price) AS turnover
FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY symbol, window_start, window_end, window_time;
