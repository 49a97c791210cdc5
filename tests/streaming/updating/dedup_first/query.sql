-- The first row of each key by time.
-- result: changelog
SELECT order_id, customer, amount, ts
FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY order_id ORDER BY ts ASC) AS nth
    FROM orders
)
WHERE nth = 1
