-- A GROUP BY over an updating one: its input takes rows back.
-- result: changelog
SELECT times, COUNT(*) AS ids, MAX(amount) AS most, MIN(amount) AS least, SUM(units) AS units
FROM (
    SELECT order_id, COUNT(*) AS times, SUM(amount) AS amount, SUM(units) AS units
    FROM orders
    GROUP BY order_id
)
GROUP BY times
