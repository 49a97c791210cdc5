-- SELECT DISTINCT; a null is a value like others.
-- result: changelog
SELECT DISTINCT customer, country, status FROM orders
