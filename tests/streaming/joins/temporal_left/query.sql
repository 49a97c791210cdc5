-- A left temporal join: orders before the first version, and those of a currency without one, have no rate.
-- result: append
SELECT o.order_id, o.currency, o.amount, r.rate, o.amount * r.rate AS converted
FROM orders AS o
LEFT JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency
