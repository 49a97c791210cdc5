SELECT order_id, customer, amount FROM orders WHERE units = 1
UNION ALL
SELECT order_id, customer, amount
FROM web_orders, (SELECT unnest([1, 2]) AS copy)
WHERE copy = 1 OR customer = 'eve'
