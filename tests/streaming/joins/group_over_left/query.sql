-- A GROUP BY over a left join: null rows that are taken back leave their group.
-- result: changelog
SELECT c.city, COUNT(*) AS orders, COUNT(c.id) AS known, SUM(o.amount) AS amount
FROM orders AS o
LEFT JOIN customers AS c ON o.customer_id = c.id
GROUP BY c.city
