WITH windows AS (
    SELECT start, start + INTERVAL '1 minute' AS "end"
    FROM (SELECT unnest(generate_series(
        TIMESTAMP '2025-12-31 23:00:00', TIMESTAMP '2026-01-01 02:00:00', INTERVAL '1 minute'
    )) AS start)
)
SELECT id, symbol, venue, price, qty, ts
FROM windows JOIN trades ON ts >= start AND ts < "end"
WHERE "end" - INTERVAL '1 millisecond' <= _watermark
