-- Two joins in a row.
-- result: append
SELECT c.city, o.order_id, s.shipment_id
FROM orders AS o
JOIN customers AS c ON o.customer_id = c.id
JOIN shipments AS s ON s.order_id = o.order_id
WHERE s.carrier = 'post'
