-- A GROUP BY over two sources.
-- result: changelog
SELECT customer, COUNT(*) AS orders, SUM(amount) AS amount, MAX(ts) AS latest
FROM (
    SELECT customer, amount, ts FROM orders
    UNION ALL
    SELECT customer, amount, ts FROM web_orders
)
GROUP BY customer
