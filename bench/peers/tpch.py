"""DuckDB over the same Parquet files: runs queries, writes each result as CSV, prints seconds."""

import pathlib
import sys
import time

import duckdb

data, out, *queries = sys.argv[1:]
con = duckdb.connect()
con.execute("create schema tpch")
for table in pathlib.Path(data).glob("*.parquet"):
    con.execute(f"create view tpch.{table.stem} as select * from read_parquet('{table}')")
for query in queries:
    sql = pathlib.Path(query).read_text()
    start = time.perf_counter()
    result = con.execute(sql).fetchall()
    seconds = time.perf_counter() - start
    name = pathlib.Path(query).stem
    with open(f"{out}/{name}.csv", "w") as file:
        for row in result:
            file.write("|".join("" if value is None else str(value) for value in row) + "\n")
    print(f"{name} {seconds:.6f}")
