-- Exact decimals of many digits, of both signs: doubles would lose some.
-- result: changelog
SELECT
    account,
    SUM(balance) AS balance,
    MIN(balance) AS least,
    MAX(balance) AS most,
    SUM(balance * rate) AS interest,
    COUNT(DISTINCT rate) AS rates
FROM balances
GROUP BY account
