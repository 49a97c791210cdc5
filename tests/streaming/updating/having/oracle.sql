SELECT * FROM (
    SELECT order_id, count(*) AS times, sum(amount) AS amount FROM orders GROUP BY order_id
)
WHERE times < 4 AND amount > 500
