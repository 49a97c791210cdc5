"""Says in one line what a result holds, whoever wrote it: rows, and a sum over exact values.

Reads a Parquet file, or a Delta table where the path is a folder.
"""

import hashlib
import pathlib
import sys

import duckdb

path, kind = sys.argv[1:3]
if pathlib.Path(path).is_dir():
    from deltalake import DeltaTable

    files = DeltaTable(path).file_uris()
    source = "read_parquet([" + ", ".join(f"'{file}'" for file in files) + "])"
else:
    source = f"read_parquet('{path}')"
con = duckdb.connect()
if kind == "daily":
    rows = con.execute(
        f"""select sale_date, store_id, transactions, items::bigint, revenue::decimal(38,2) from {source}
            order by 1, 2"""
    ).fetchall()
    text = "\n".join("|".join(map(str, row)) for row in rows)
    print(len(rows), hashlib.sha256(text.encode()).hexdigest()[:16])
elif kind == "sales":
    rows = con.execute(
        f"select sale_date, store_id, transactions, amount::decimal(38,2) from {source} order by 1, 2"
    ).fetchall()
    text = "\n".join(f"{d}|{s}|{n}|{a}" for d, s, n, a in rows)
    print(len(rows), hashlib.sha256(text.encode()).hexdigest()[:16])
else:
    print(*con.execute(
        f"""select count(*), sum(hash(transaction_id, store_id, sale_date, sold_at::timestamp,
            product, quantity, amount::decimal(12,2), payment_method)::hugeint) from {source}"""
    ).fetchone())
