SELECT status, count(*) AS orders, sum(amount) AS amount, max(weight) AS heaviest
FROM orders AS o
WHERE ts = (SELECT max(ts) FROM orders WHERE order_id = o.order_id)
GROUP BY status
