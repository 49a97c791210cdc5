"""What a sink holds, whatever its order and spelling: `digest.py FILE COLUMNS`.

FILE has a JSON object a line; COLUMNS is `name:TYPE,…` with DuckDB's types. Names count without case
and `_`; times may be written with `T` and `Z` or without. Prints the rows and a digest of them.
"""

import json
import sys

import duckdb

file, columns = sys.argv[1:]
wanted = [column.split(":", 1) for column in columns.split(",")]


def folded(name):
    return name.replace("_", "").lower()


# Who leaves out nulls has not all names in the first row.
names = {}
with open(file, "rb") as lines:
    for _, line in zip(range(10_000), lines):
        for name in json.loads(line):
            names.setdefault(folded(name), name)
if not names:
    print("0 rows")
    raise SystemExit
missing = [name for name, _ in wanted if folded(name) not in names]
if missing or len(names) != len(wanted):
    raise SystemExit(f"columns {sorted(names.values())} where {columns} was expected")

texts = ", ".join(f"'{names[folded(name)]}': 'VARCHAR'" for name, _ in wanted)
values = ", ".join(
    f"""coalesce(CAST("{names[folded(name)]}" AS {kind.replace(";", ",")})::VARCHAR, 'null')"""
    for name, kind in wanted
)
rows, total, either = duckdb.sql(
    f"""
    SELECT count(*), sum(h::HUGEINT % 1000000007), bit_xor(h)
    FROM (
        SELECT hash(concat_ws('\x1f', {values})) AS h
        FROM read_json('{file}', format = 'newline_delimited', columns = {{{texts}}})
    )
    """
).fetchall()[0]
print(f"{rows} rows {total} {either}")
