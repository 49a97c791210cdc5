SELECT o.order_id, o.amount, c.name, c.city
FROM orders AS o, customers AS c
WHERE o.customer_id = c.id
