-- A regular inner join of inputs that only grow. A null equals nothing.
-- result: append
SELECT o.order_id, o.amount, c.name, c.city
FROM orders AS o
JOIN customers AS c ON o.customer_id = c.id
