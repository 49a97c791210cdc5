WITH both_sources AS (
    SELECT customer, amount, ts FROM orders UNION ALL SELECT customer, amount, ts FROM web_orders
)
SELECT customer, count(*) AS orders, sum(amount) AS amount, max(ts) AS latest
FROM both_sources
GROUP BY customer
