-- Groups by expressions and by none of the columns alone.
-- result: changelog
SELECT units > 2 AS many, UPPER(status) || '-' || country AS kind, SUM(amount) AS amount
FROM orders
WHERE customer <> 'dee'
GROUP BY units > 2, UPPER(status) || '-' || country
