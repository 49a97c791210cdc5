-- A sink takes one time attribute: the casts make columns of them.
SELECT
    p.order_id, p.city, p.amount, CAST(p.event_time AS TIMESTAMP_LTZ(3)) AS placed_at, d.courier_id,
    CAST(d.event_time AS TIMESTAMP_LTZ(3)) AS delivered_at
FROM placed AS p
LEFT JOIN delivered AS d
ON p.order_id = d.order_id
    AND d.event_time BETWEEN p.event_time AND p.event_time + INTERVAL '45' MINUTE
