SELECT order_id, amount, (SELECT name FROM customers WHERE id = customer_id) AS name
FROM orders
