-- Several distinct counts by key, with and without FILTER.
-- result: changelog
SELECT
    country,
    COUNT(DISTINCT customer) AS customers,
    COUNT(DISTINCT order_id) AS ids,
    COUNT(DISTINCT customer) FILTER (WHERE status = 'paid') AS payers,
    COUNT(DISTINCT customer) FILTER (WHERE amount > 370) AS big_spenders,
    SUM(DISTINCT units) AS different_units
FROM orders
GROUP BY country
