SELECT o.customer_id, count(*) AS orders, sum(o.amount) AS amount, any_value(c.name) AS name
FROM orders AS o, customers AS c
WHERE o.customer_id = c.id
GROUP BY o.customer_id
