-- HAVING over groups that come and go: a group that no longer meets it is taken back.
-- result: changelog
SELECT order_id, COUNT(*) AS times, SUM(amount) AS amount
FROM orders
GROUP BY order_id
HAVING COUNT(*) < 4 AND SUM(amount) > 500
