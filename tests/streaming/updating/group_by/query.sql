-- An updating GROUP BY; its changelog folds to the table that batch gives.
-- result: changelog
SELECT
    customer,
    COUNT(*) AS orders,
    COUNT(weight) AS weighed,
    SUM(weight) AS weight,
    AVG(weight) AS mean_weight,
    MIN(amount) AS least,
    MAX(amount) AS most,
    SUM(units) AS units
FROM orders
GROUP BY customer
