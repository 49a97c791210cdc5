-- In whole cents and ten-thousandths, so that no arithmetic of decimals is relied on (`scaled` puts
-- the point in). The mean is rounded half away from zero.
WITH windows AS (
    SELECT start, start + INTERVAL '5 minutes' AS "end"
    FROM (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '5 minutes'
    )) AS start)
),
cents AS (SELECT *, CAST(price * 100 AS BIGINT) AS cents FROM trades),
summed AS (
    SELECT
        symbol, start, sum(cents) AS cents, sum(cents * qty) AS volume, sum(cents * 750) AS tax,
        count(cents) AS priced
    FROM windows JOIN cents ON ts >= start AND ts < "end"
    GROUP BY symbol, start
)
SELECT
    symbol,
    start AS window_start,
    scaled(cents, 2) AS turnover,
    scaled(volume, 2) AS volume,
    scaled(tax, 6) AS tax,
    scaled(sign(cents) * ((2 * abs(cents) + priced) // (2 * priced)), 2) AS mean
FROM summed
