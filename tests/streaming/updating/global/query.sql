-- One row for all.
-- result: changelog
SELECT COUNT(*) AS orders, SUM(amount) AS amount, COUNT(DISTINCT order_id) AS ids, MIN(ts) AS first_ts
FROM orders
