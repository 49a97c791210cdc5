-- In whole ten-thousandths and millionths, of 128 bits (`scaled` puts the point in).
WITH whole AS (
    SELECT
        account,
        CAST(replace(CAST(balance AS VARCHAR), '.', '') AS HUGEINT) AS balance,
        CAST(replace(CAST(rate AS VARCHAR), '.', '') AS HUGEINT) AS rate
    FROM balances
),
summed AS (
    SELECT
        account, sum(balance) AS balance, min(balance) AS least, max(balance) AS most,
        sum(balance * rate) AS interest, count(DISTINCT rate) AS rates
    FROM whole
    GROUP BY account
)
SELECT
    account,
    scaled(balance, 4) AS balance,
    scaled(least, 4) AS least,
    scaled(most, 4) AS most,
    scaled(interest, 10) AS interest,
    rates
FROM summed
