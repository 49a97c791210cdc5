-- A regular left join: a row without a partner is taken back when one comes.
-- result: changelog
SELECT o.order_id, o.amount, c.name
FROM orders AS o
LEFT JOIN customers AS c ON o.customer_id = c.id
