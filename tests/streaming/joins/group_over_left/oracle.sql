WITH known AS (
    SELECT amount, (SELECT city FROM customers WHERE id = customer_id) AS city FROM orders
)
SELECT city, count(*) AS orders, count(city) AS known, sum(amount) AS amount
FROM known
GROUP BY city
