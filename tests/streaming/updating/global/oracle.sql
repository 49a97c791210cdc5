SELECT count(*) AS orders, sum(amount) AS amount, count(DISTINCT order_id) AS ids, min(ts) AS first_ts
FROM orders
