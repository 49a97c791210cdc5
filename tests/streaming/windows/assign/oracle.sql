WITH windows AS (
    SELECT start, start + INTERVAL '4 minutes' AS "end"
    FROM (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '2 minutes'
    )) AS start)
)
SELECT id, start AS window_start, "end" AS window_end
FROM windows JOIN trades ON ts >= start AND ts < "end"
WHERE qty > 7
