-- A regular full join.
-- result: changelog
SELECT o.order_id, o.customer_id, c.id, c.name
FROM orders AS o
FULL JOIN customers AS c ON o.customer_id = c.id
