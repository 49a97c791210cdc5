SELECT id, ts FROM trades WHERE qty IS NOT NULL
