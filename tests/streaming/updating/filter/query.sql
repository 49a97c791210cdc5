-- FILTER in an updating GROUP BY.
-- result: changelog
SELECT
    country,
    COUNT(*) FILTER (WHERE status = 'sent') AS sent,
    SUM(amount) FILTER (WHERE weight IS NULL) AS amount_unweighed,
    MAX(weight) FILTER (WHERE customer = 'ann') AS heaviest_of_ann
FROM orders
GROUP BY country
