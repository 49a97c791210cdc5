-- Orders by their latest status: what a newer row replaces is taken back from its group.
-- result: changelog
SELECT status, COUNT(*) AS orders, SUM(amount) AS amount, MAX(weight) AS heaviest
FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY order_id ORDER BY ts DESC) AS nth
    FROM orders
)
WHERE nth = 1
GROUP BY status
