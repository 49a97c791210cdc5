SELECT P.name, P.city, P.state, A.id
FROM auction AS A, person AS P
WHERE A.seller = P.id AND A.category = 10 AND P.state IN ('OR', 'ID', 'CA')
