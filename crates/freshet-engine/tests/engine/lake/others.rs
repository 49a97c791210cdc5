//! Other readers: PyPI's `deltalake`, Polars and DuckDB's own extension see the same rows.
//!
//! `FRESHET_TEST_PYTHON` names a Python that has `deltalake`, `polars`, `duckdb` and its
//! packaged extension for Delta tables.

use std::process::Command;

use super::*;

/// Runs Python and gives what it printed.
pub(super) fn python(script: &str, arguments: &[&str]) -> String {
    let python = std::env::var("FRESHET_TEST_PYTHON")
        .expect("FRESHET_TEST_PYTHON names a Python with deltalake, duckdb and polars");
    let output =
        Command::new(python).args(["-c", script]).args(arguments).output().expect("Python starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Prints the rows as each reader has them, one reader a line.
const READ: &str = r#"
import importlib.util, json, pathlib, sys
from deltalake import DeltaTable
import duckdb, polars
path, order = sys.argv[1], sys.argv[2]
table = DeltaTable(path)
def show(rows):
    print(json.dumps(sorted([[str(v) for v in row] for row in rows])))
arrow = table.to_pyarrow_table()
names = sorted(arrow.schema.names)
show(zip(*[arrow.column(n).to_pylist() for n in names]))
frame = polars.read_delta(path)
show(frame.select(names).rows())
con = duckdb.connect(config={"allow_unsigned_extensions": "true"})
packaged = pathlib.Path(importlib.util.find_spec("duckdb_extension_delta").origin).parent
con.execute(f"load '{next(packaged.rglob('delta.duckdb_extension'))}'")
columns = ", ".join(f'"{name}"' for name in names)
show(con.execute(f"select {columns} from delta_scan('{path}')").fetchall())
print(json.dumps(table.version()))
"#;

#[tokio::test]
async fn others_read_what_we_wrote() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let fixture = Fixture::on(local(folder.path()), |options| options.checkpoint_interval = 3);
    let rows_of = |ids: std::ops::Range<i64>| {
        let count = (ids.end - ids.start) as usize;
        batch(vec![
            ("id", ints(ids.clone())),
            (
                "at",
                Arc::new(TimestampMicrosecondArray::from_iter_values(
                    ids.clone().map(|i| NEW_YEAR + i),
                )),
            ),
            (
                "money",
                Arc::new(
                    Decimal128Array::from_iter_values(ids.clone().map(|i| i128::from(i) * 125 - 3))
                        .with_precision_and_scale(12, 2)
                        .expect("it fits"),
                ),
            ),
            ("name", texts(std::iter::repeat_n("caf\u{e9} a long name that is no view", count))),
            ("region", texts(ids.map(|i| if i % 2 == 0 { "n%/ =" } else { "s" }))),
            ("day", Arc::new(Date32Array::from_iter_values(std::iter::repeat_n(19_723, count)))),
        ])
    };
    let request = StageRequest {
        partition_by: vec!["region".into(), "day".into()],
        ..fixture.request(StageMode::Overwrite).await
    };
    let first = fixture.lake.stage(request, rows(vec![rows_of(0..4)])).await.expect("it fits");
    fixture.commit(&first, 1).await.expect("nobody else writes");
    fixture.write(StageMode::Append, vec![rows_of(4..6)]).await;
    fixture.write(merge_on(&["id"]), vec![rows_of(3..8)]).await;
    fixture.write(StageMode::Append, vec![rows_of(8..9)]).await;
    let path = folder.path().join("main/sales");
    let output = python(READ, &[path.to_str().expect("a temporary path is text"), "id"]);
    let lines: Vec<serde_json::Value> =
        output.lines().map(|line| serde_json::from_str(line).expect("JSON was printed")).collect();
    let expected: Vec<serde_json::Value> = (0..9_i64)
        .map(|id| {
            let time = format!("2024-01-01 00:00:00.{id:06}");
            let time = if id == 0 { "2024-01-01 00:00:00".to_owned() } else { time };
            let cents = id * 125 - 3;
            let sign = if cents < 0 { "-" } else { "" };
            let money = format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100);
            let region = if id % 2 == 0 { "n%/ =" } else { "s" };
            serde_json::json!([
                time,
                "2024-01-01",
                id.to_string(),
                money,
                "caf\u{e9} a long name that is no view",
                region
            ])
        })
        .collect();
    assert_eq!(lines[0], serde_json::json!(expected));
    assert_eq!(lines[1], serde_json::json!(expected));
    assert_eq!(lines[2], serde_json::json!(expected));
    assert_eq!(lines[3], serde_json::json!(3));
}

#[tokio::test]
async fn we_read_and_extend_what_others_wrote() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("main/sales");
    let write = r#"
import sys
import pyarrow as pa
from deltalake import write_deltalake, DeltaTable
for start in range(0, 40, 10):
    data = pa.table({
        "id": pa.array(range(start, start + 10), pa.int64()),
        "amount": pa.array([i * 2 for i in range(start, start + 10)], pa.int64()),
        "part of it": pa.array(["a b", None] * 5, pa.string()),
    })
    write_deltalake(sys.argv[1], data, mode="append", partition_by=["part of it"])
DeltaTable(sys.argv[1]).create_checkpoint()
"#;
    python(write, &[path.to_str().expect("a temporary path is text")]);
    let fixture = Fixture::on(local(folder.path()), |_| {});
    let snapshot = fixture.snapshot().await.expect("the table exists");
    assert_eq!(snapshot.version, 3);
    assert_eq!(snapshot.rows(), Some(40));
    insta_like(
        &fixture
            .query("select count(*) n, sum(amount) s from t where \"part of it\" is null")
            .await,
        "| n | s |\n| 20 | 800 |",
    );
    let change = fixture.write(merge_on(&["id"]), vec![sales(&[(0, 7), (99, 1)])]).await;
    assert_eq!(change.counts.rows_updated, 1);
    insta_like(
        &fixture.query("select count(*) n, sum(amount) s from t").await,
        "| n | s |\n| 41 | 1568 |",
    );
}
