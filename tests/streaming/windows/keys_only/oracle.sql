WITH windows AS (
    SELECT start, start + INTERVAL '5 minutes' AS "end"
    FROM (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '5 minutes'
    )) AS start)
)
SELECT DISTINCT symbol, venue, start AS window_start
FROM windows JOIN trades ON ts >= start AND ts < "end"
