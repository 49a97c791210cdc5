WITH ids AS (
    SELECT order_id, count(*) AS times, sum(amount) AS amount, sum(units) AS units
    FROM orders
    GROUP BY order_id
)
SELECT times, count(*) AS ids, max(amount) AS most, min(amount) AS least, sum(units) AS units
FROM ids
GROUP BY times
