WITH versions AS (
    SELECT currency, rate, ts AS since, lead(ts) OVER (PARTITION BY currency ORDER BY ts) AS until
    FROM rates
)
SELECT o.order_id, o.currency, o.amount, r.rate, o.amount * r.rate AS converted
FROM orders AS o
LEFT JOIN versions AS r
    ON o.currency = r.currency AND o.ts >= since AND (until IS NULL OR o.ts < until)
