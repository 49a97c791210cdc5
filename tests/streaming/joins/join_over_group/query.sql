-- A join whose sides are both updating.
-- result: changelog
SELECT o.customer_id, o.orders, o.amount, c.name
FROM (
    SELECT customer_id, COUNT(*) AS orders, SUM(amount) AS amount FROM orders GROUP BY customer_id
) AS o
JOIN (
    SELECT id, MAX(name) AS name FROM customers GROUP BY id
) AS c ON o.customer_id = c.id
