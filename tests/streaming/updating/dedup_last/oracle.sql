SELECT order_id, customer, status, amount, ts
FROM orders AS o
WHERE ts = (SELECT max(ts) FROM orders WHERE order_id = o.order_id)
