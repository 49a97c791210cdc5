SELECT customer, country, status FROM orders GROUP BY ALL
