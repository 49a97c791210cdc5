WITH windows AS (
    SELECT unnest(generate_series(
        TIMESTAMP '2026-01-01 00:00:00', TIMESTAMP '2026-01-01 00:01:00', INTERVAL '10 seconds'
    )) AS start
)
SELECT DISTINCT id, name, start AS starttime
FROM windows
JOIN person ON person."dateTime" >= start AND person."dateTime" < start + INTERVAL '10 seconds'
WHERE EXISTS (
    SELECT 1 FROM auction
    WHERE seller = person.id
        AND auction."dateTime" >= start AND auction."dateTime" < start + INTERVAL '10 seconds'
)
