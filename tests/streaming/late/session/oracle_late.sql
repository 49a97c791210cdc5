SELECT id, symbol, venue, price, qty, ts
FROM trades
WHERE ts + INTERVAL '9.999 seconds' <= _watermark
