SELECT p.order_id, p.city, p.amount, p.event_time AS placed_at, d.courier_id, d.event_time AS delivered_at
FROM placed AS p
LEFT JOIN delivered AS d
ON p.order_id = d.order_id
    AND d.event_time BETWEEN p.event_time AND p.event_time + INTERVAL '45' MINUTE
