SELECT c.city, o.order_id, s.shipment_id
FROM orders AS o, customers AS c, shipments AS s
WHERE o.customer_id = c.id AND s.order_id = o.order_id AND s.carrier = 'post'
