-- Without an operator that waits for time nothing is late: every row passes.
-- result: append
SELECT id, ts FROM trades WHERE qty IS NOT NULL
