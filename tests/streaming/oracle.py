#!/usr/bin/env python3
"""Writes `expected.csv` of every case anew with DuckDB, or checks it: `oracle.py [--check] [CASE …]`.

What a case is and how its files are read stands in README.md.
"""

import argparse
import datetime
import decimal
import json
import pathlib
import sys

import duckdb

HERE = pathlib.Path(__file__).parent


# A whole number as a decimal with so many digits behind the point, as text.
SCALED = """
CREATE MACRO scaled(n, digits) AS
    CASE WHEN n < 0 THEN '-' ELSE '' END
    || (abs(CAST(n AS HUGEINT)) // CAST('1' || repeat('0', digits) AS HUGEINT))
    || '.'
    || lpad(
        CAST(abs(CAST(n AS HUGEINT)) % CAST('1' || repeat('0', digits) AS HUGEINT) AS VARCHAR),
        digits, '0')
"""


def upwards(case, name):
    """The file or folder of that name in the case, or in the nearest folder above it."""
    folder = case
    while True:
        if (folder / name).exists():
            return folder / name
        if folder == HERE:
            sys.exit(f"{case.relative_to(HERE)} has no {name}")
        folder = folder.parent


def load(connection, case, by_phase):
    """The case's inputs as tables, each with `_row` (place of arrival) and `_watermark`.

    `_watermark` is how far the watermark had come when the row arrived: after each row, or, with
    `by_phase`, after each file only. It is null at first.
    """
    tables = json.loads(upwards(case, "tables.json").read_text())
    for name, table in tables.items():
        columns = {column: duck_type(kind) for column, kind in table["columns"].items()}
        listed = "{" + ", ".join(f"'{c}': '{t}'" for c, t in columns.items()) + "}"
        folder = upwards(case, "input")
        files = sorted(folder.glob(f"{name}.ndjson")) + sorted(folder.glob(f"{name}.*.ndjson"))
        if not files:
            sys.exit(f"{folder} has no rows of {name}")
        parts = " UNION ALL ".join(
            f"SELECT *, {phase} AS _phase, row_number() OVER () AS _line FROM "
            f"read_json('{file}', format='newline_delimited', columns={listed})"
            for phase, file in enumerate(files)
        )
        connection.execute(
            f"CREATE TABLE {name}_raw AS SELECT *, "
            f"row_number() OVER (ORDER BY _phase, _line) AS _row FROM ({parts})"
        )
        time = table.get("event_time")
        watermark = "CAST(NULL AS TIMESTAMP)"
        if time:
            seen = f"{table.get('event_time_sql', time)} - INTERVAL '{table['watermark']}'"
            frame = (
                "ORDER BY _phase GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING"
                if by_phase
                else "ORDER BY _row ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING"
            )
            watermark = f"max({seen}) OVER ({frame})"
        connection.execute(
            f"CREATE TABLE {name} AS SELECT *, {watermark} AS _watermark FROM {name}_raw"
        )
        if time and len(files) == 1:
            time = table.get("event_time_sql", time)
            late = connection.execute(f"SELECT count(*) FROM {name} WHERE {time} <= _watermark")
            if late.fetchone()[0]:
                sys.exit(f"{folder}/{name}.ndjson has late rows: cases with such have phases")
    views = case.parent / "oracle_views.sql"
    if views.exists():
        connection.execute(views.read_text())


def duck_type(kind):
    if isinstance(kind, dict):
        return "STRUCT(" + ", ".join(f'"{c}" {duck_type(t)}' for c, t in kind.items()) + ")"
    return {"TIMESTAMP(3)": "TIMESTAMP", "STRING": "VARCHAR"}.get(kind, kind)


def text(value):
    """A value as `expected.csv` has it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.datetime):
        assert value.tzinfo is None and value.microsecond % 1000 == 0, value
        return value.strftime("%Y-%m-%d %H:%M:%S.") + f"{value.microsecond // 1000:03}"
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value)
    assert isinstance(value, str), type(value)
    if value == "" or any(c in value for c in ',"\r\n'):
        return '"' + value.replace('"', '""') + '"'
    return value


def answer(case, sql, by_phase):
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(SCALED)
        load(connection, case, by_phase)
        result = connection.execute(sql)
        header = ",".join(column[0] for column in result.description)
        lines = sorted((",".join(map(text, row)) for row in result.fetchall()), key=str.encode)
    return "\n".join([header, *lines]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    parser.add_argument("cases", nargs="*", help="folders, as windows/tumble; all where none is named")
    args = parser.parse_args()
    cases = [HERE / case for case in args.cases]
    cases = cases or sorted(path.parent for path in HERE.glob("**/oracle.sql"))
    wrong = 0
    for case in cases:
        if not (case / "query.sql").exists():
            sys.exit(f"{case} has no query.sql")
        for oracle, expected in [
            ("oracle.sql", "expected.csv"),
            ("oracle_late.sql", "expected_late.csv"),
        ]:
            if not (case / oracle).exists():
                continue
            sql = (case / oracle).read_text()
            found = answer(case, sql, by_phase=False)
            if found != answer(case, sql, by_phase=True):
                sys.exit(f"{case}: the result depends on when watermarks are sent")
            name = case.relative_to(HERE)
            rows = found.count("\n") - 1
            if rows == 0:
                sys.exit(f"{name}/{expected} would be empty: such a case tests nothing")
            if args.check:
                if (case / expected).read_text(encoding="utf-8") != found:
                    print(f"{name}/{expected} is not what DuckDB says")
                    wrong += 1
            else:
                (case / expected).write_text(found, encoding="utf-8", newline="\n")
                print(f"{name}/{expected}: {rows} rows")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
