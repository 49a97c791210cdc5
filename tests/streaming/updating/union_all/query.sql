-- UNION ALL keeps every row, equal ones too.
-- result: append
SELECT order_id, customer, amount FROM orders WHERE units = 1
UNION ALL
SELECT order_id, customer, amount FROM web_orders
UNION ALL
SELECT order_id, customer, amount FROM web_orders WHERE customer = 'eve'
