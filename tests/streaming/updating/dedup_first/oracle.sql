SELECT order_id, customer, amount, ts
FROM orders AS o
WHERE ts = (SELECT min(ts) FROM orders WHERE order_id = o.order_id)
