-- Nexmark q3: who sells in category 10 in three states; a regular join of inputs that only grow.
-- result: append
SELECT
    P.name, P.city, P.state, A.id
FROM
    auction AS A INNER JOIN person AS P ON A.seller = P.id
WHERE
    A.category = 10 AND (P.state = 'OR' OR P.state = 'ID' OR P.state = 'CA')
