-- The last row of each key by time.
-- result: changelog
SELECT order_id, customer, status, amount, ts
FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY order_id ORDER BY ts DESC) AS nth
    FROM orders
)
WHERE nth = 1
