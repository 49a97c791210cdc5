SELECT
    country, count(DISTINCT customer) AS customers, count(DISTINCT order_id) AS ids,
    count(DISTINCT CASE WHEN status = 'paid' THEN customer END) AS payers,
    count(DISTINCT CASE WHEN amount > 370 THEN customer END) AS big_spenders,
    list_sum(list_distinct(list(units))) AS different_units
FROM orders
GROUP BY country
