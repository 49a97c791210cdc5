WITH windows AS (
    SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:59:00', TIMESTAMP '2026-01-01 00:01:00', INTERVAL '2 seconds'
    )) AS start
),
counted AS (
    SELECT start, auction, count(*) AS num
    FROM windows
    JOIN bid ON "dateTime" >= start AND "dateTime" < start + INTERVAL '10 seconds'
    GROUP BY start, auction
)
SELECT auction, num
FROM counted
QUALIFY rank() OVER (PARTITION BY start ORDER BY num DESC) = 1
