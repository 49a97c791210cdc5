-- A null equals nothing.
WITH windows AS (
    SELECT start, start + INTERVAL '2 minutes' AS "end"
    FROM (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '2 minutes'
    )) AS start)
)
SELECT * FROM (
    SELECT
        start AS window_start, "end" AS window_end, symbol,
        count(*) FILTER (venue = 'north') AS north, count(*) FILTER (venue = 'south') AS south
    FROM windows JOIN trades ON ts >= start AND ts < "end"
    WHERE symbol IS NOT NULL
    GROUP BY start, "end", symbol
)
WHERE north > 0 AND south > 0
