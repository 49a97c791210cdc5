SELECT units > 2 AS many, concat(upper(status), '-', country) AS kind, sum(amount) AS amount
FROM orders
WHERE customer IN ('ann', 'bob', 'cy')
GROUP BY 1, 2
