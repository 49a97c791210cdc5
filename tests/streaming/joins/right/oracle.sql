SELECT c.id, c.name, o.order_id FROM customers AS c, orders AS o WHERE o.customer_id = c.id
UNION ALL
SELECT id, name, NULL FROM customers
WHERE id NOT IN (SELECT customer_id FROM orders WHERE customer_id IS NOT NULL)
