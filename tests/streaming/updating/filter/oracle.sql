SELECT
    country,
    sum(CASE WHEN status = 'sent' THEN 1 ELSE 0 END) AS sent,
    sum(CASE WHEN weight IS NULL THEN amount END) AS amount_unweighed,
    max(CASE WHEN customer = 'ann' THEN weight END) AS heaviest_of_ann
FROM orders
GROUP BY country
