SELECT o.order_id, o.currency, o.amount, r.rate, o.amount * r.rate AS converted
FROM orders AS o, rates AS r
WHERE r.currency = o.currency
    AND r.ts = (SELECT max(ts) FROM rates WHERE currency = o.currency AND ts <= o.ts)
