-- A regular right join.
-- result: changelog
SELECT c.id, c.name, o.order_id
FROM orders AS o
RIGHT JOIN customers AS c ON o.customer_id = c.id
