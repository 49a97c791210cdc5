SELECT
    customer, count(*) AS orders, count(weight) AS weighed, sum(weight) AS weight,
    avg(weight) AS mean_weight, min(amount) AS least, max(amount) AS most, sum(units) AS units
FROM orders
GROUP BY customer
