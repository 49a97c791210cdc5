SELECT o.order_id, o.customer_id, c.id, c.name
FROM orders AS o, customers AS c WHERE o.customer_id = c.id
UNION ALL
SELECT order_id, customer_id, NULL, NULL FROM orders
WHERE customer_id IS NULL OR customer_id NOT IN (SELECT id FROM customers)
UNION ALL
SELECT NULL, NULL, id, name FROM customers
WHERE id NOT IN (SELECT customer_id FROM orders WHERE customer_id IS NOT NULL)
