//! The cases of `tests/streaming` against what DuckDB answered to them.
//!
//! [`SUPPORTED`] are those that are lowered today; all others must be refused when they are planned:
//! a case that is neither right nor refused fails, and so does one that runs and is not listed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::json::ReaderBuilder;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::{MemTable, TableProvider, ViewTable};
use datafusion::prelude::SessionContext;
use freshet_core::error::code;
use freshet_core::rows::Rows;
use freshet_engine::session::register;
use freshet_engine::streaming::StreamTable;
use serde_json::{Map, Value};

use super::streaming::{Stream, Streams, context, fold, plan, run_with_late};

/// The cases that streams can do.
const SUPPORTED: &[&str] = &[
    "joins/full",
    "joins/group_over_left",
    "joins/inner",
    "joins/inner_residual",
    "joins/interval",
    "joins/interval_full",
    "joins/interval_left",
    "joins/join_over_group",
    "joins/left",
    "joins/left_residual",
    "joins/right",
    "joins/temporal",
    "joins/temporal_left",
    "joins/three",
    "joins/window_over_interval",
    "late/cumulate",
    "late/hop",
    "late/no_window",
    "late/session",
    "late/tumble",
    "nexmark/q0",
    "nexmark/q1",
    "nexmark/q20",
    "nexmark/q3",
    "nexmark/q5",
    "nexmark/q8",
    "updating/count_distinct",
    "updating/decimals",
    "updating/dedup_first",
    "updating/dedup_last",
    "updating/filter",
    "updating/global",
    "updating/group_by",
    "updating/group_by_expression",
    "updating/group_over_dedup",
    "updating/group_over_group",
    "updating/group_over_union_all",
    "updating/having",
    "updating/select_distinct",
    "updating/union_all",
    "windows/assign",
    "windows/count_distinct",
    "windows/cumulate",
    "windows/decimals",
    "windows/filter",
    "windows/having",
    "windows/hop",
    "windows/hop_over_tumble",
    "windows/keys_only",
    "windows/session",
    "windows/session_of_all",
    "windows/tumble",
    "windows/tumble_offset",
    "windows/window_join",
    "windows/window_left_join",
    "windows/windows_over_windows",
];

/// Groups whose cases need no more than their tables.
const GROUPS: &[&str] = &["joins", "late", "nexmark", "updating", "windows"];

fn root() -> PathBuf {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").expect("cargo runs this");
    Path::new(&manifest).join("../../tests/streaming")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The file of the case, or else of its group.
fn nearest(case: &Path, name: &str) -> Option<PathBuf> {
    let places = [case.join(name), case.parent()?.join(name)];
    places.into_iter().find(|place| place.exists())
}

fn data_type(of: &Value) -> DataType {
    let name = match of {
        Value::Object(_) => return DataType::Struct(fields(of).into()),
        of => of.as_str().expect("a type"),
    };
    match name {
        "BIGINT" => DataType::Int64,
        "INT" => DataType::Int32,
        "DOUBLE" => DataType::Float64,
        "BOOLEAN" => DataType::Boolean,
        "STRING" => DataType::Utf8,
        "TIMESTAMP(3)" => DataType::Timestamp(TimeUnit::Microsecond, None),
        decimal => {
            let digits = decimal.strip_prefix("DECIMAL(").and_then(|rest| rest.strip_suffix(')'));
            let (precision, scale) =
                digits.and_then(|digits| digits.split_once(',')).expect("a type of a case");
            let number = |text: &str| text.trim().parse().expect("digits of a decimal");
            DataType::Decimal128(number(precision) as u8, number(scale))
        }
    }
}

fn fields(columns: &Value) -> Vec<Field> {
    let columns = columns.as_object().expect("columns by name").iter();
    columns.map(|(name, of)| Field::new(name, data_type(of), true)).collect()
}

async fn tables(case: &Path) -> BTreeMap<String, Stream> {
    let tables = nearest(case, "tables.json").expect("a case has tables");
    let declared: Value = serde_json::from_str(&read(&tables)).expect("it is JSON");
    let input = nearest(case, "input").expect("a case has input");
    let mut tables = BTreeMap::new();
    for (name, table) in declared.as_object().expect("tables by name") {
        let schema: SchemaRef = Arc::new(Schema::new(fields(&table["columns"])));
        // In one piece, or in phases.
        let whole = input.join(format!("{name}.ndjson"));
        let files: Vec<PathBuf> = match whole.exists() {
            true => vec![whole],
            false => {
                let phase = |phase: usize| input.join(format!("{name}.{phase}.ndjson"));
                (0..).map(phase).take_while(|file| file.exists()).collect()
            }
        };
        let phases: Vec<RecordBatch> = files.iter().map(|file| rows(file, &schema)).collect();
        let rows = phases.iter().map(RecordBatch::num_rows).scan(0, |sum, rows| {
            *sum += rows;
            Some(*sum)
        });
        let cuts = rows.collect();
        let mut all = concat_batches(&schema, &phases).expect("one schema");
        let time = table["event_time"].as_str().expect("a column");
        if let Some(computed) = table["event_time_sql"].as_str() {
            all = with_column(all, computed, time).await;
        }
        let column = |name: &str| all.schema().index_of(name).expect("it has the column");
        let delay = table["watermark"].as_str().expect("a span");
        let seconds: i64 = delay
            .split_once(' ')
            .and_then(|(number, _)| number.parse().ok())
            .expect("a number of seconds");
        let key = table["primary_key"].as_array().into_iter().flatten();
        let stream = Stream {
            time: column(time),
            delay: seconds * 1_000_000,
            primary_key: key.map(|name| column(name.as_str().expect("a name"))).collect(),
            cuts,
            partitions: Arc::new(vec![all]),
        };
        tables.insert(name.clone(), stream);
    }
    tables
}

async fn with_column(rows: RecordBatch, sql: &str, name: &str) -> RecordBatch {
    let context = context();
    let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("one schema");
    register(&context, "main", "given", Arc::new(table)).expect("it registers");
    let frame = context.sql(&format!("SELECT *, {sql} AS \"{name}\" FROM given")).await;
    let batches = frame.expect("it is planned").collect().await.expect("it is computed");
    concat_batches(&batches[0].schema(), &batches).expect("one schema")
}

fn rows(path: &Path, schema: &SchemaRef) -> RecordBatch {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let reader = ReaderBuilder::new(Arc::clone(schema)).build(BufReader::new(file));
    let batches: Result<Vec<_>, _> = reader.expect("types that JSON has").collect();
    concat_batches(schema, &batches.expect("input of the table's types")).expect("one schema")
}

/// A row as `expected.csv` has it, decimals without zeros at their end.
fn line(fields: impl Iterator<Item = Option<String>>) -> String {
    let field = |field: Option<String>| match field {
        None => String::new(),
        Some(text) if text.is_empty() || text.contains(['"', ',', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Some(text) => trimmed(&text),
    };
    fields.map(field).collect::<Vec<_>>().join(",")
}

fn trimmed(text: &str) -> String {
    let is_number = text.parse::<f64>().is_ok() && text.contains('.') && !text.contains(['e', 'n']);
    if !is_number {
        return text.to_owned();
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.3f"));
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("a type that is shown"))
        .collect();
    let field = |column: usize, row: usize| {
        batch.column(column).is_valid(row).then(|| columns[column].value(row).to_string())
    };
    (0..batch.num_rows())
        .map(|row| line((0..columns.len()).map(|column| field(column, row))))
        .collect()
}

/// The rows of `expected.csv`, sorted; fields that hold quotes stay as they are.
fn expected(case: &Path) -> Vec<String> {
    let text = read(&case.join("expected.csv"));
    let mut rows: Vec<String> = text.lines().skip(1).map(|row| fields_of(row).join(",")).collect();
    rows.sort_unstable();
    rows
}

/// The fields of a line; those in quotes stay as they are.
fn fields_of(row: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let (mut field, mut quoted) = (String::new(), false);
    for character in row.chars() {
        match character {
            '"' => {
                quoted = !quoted;
                field.push('"');
            }
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    fields.push(field);
    fields.iter().map(|field| trimmed(field)).collect()
}

/// A late row: the names of its columns, and its values.
type Late = (Vec<String>, String);

/// The rows of a table of late rows, sorted.
fn late_lines(late: &[Rows]) -> Vec<Late> {
    let mut lines = Vec::new();
    for rows in late {
        let batch = rows.batch();
        let times = |place: usize| batch.column(place).as_primitive::<TimestampMicrosecondType>();
        for (row, text) in batch.column(4).as_string_view().iter().enumerate() {
            assert!(times(2).value(row) <= times(3).value(row), "the watermark has passed it");
            let values: Map<String, Value> =
                serde_json::from_str(text.expect("a row")).expect("a row is an object");
            let names = values.keys().cloned().collect();
            let values = values.into_iter().map(|(_, value)| match value {
                Value::Null => None,
                Value::String(text) if text.as_bytes().get(10) == Some(&b'T') => {
                    let (day, time) = text.split_once('T').expect("a time");
                    let point = if time.contains('.') { "" } else { ".000" };
                    Some(format!("{day} {time}{point}"))
                }
                Value::String(text) => Some(text),
                other => Some(other.to_string()),
            });
            lines.push((names, line(values)));
        }
    }
    lines.sort_unstable();
    lines
}

/// The rows of `expected_late.csv` with the columns that the operator was given, which those of
/// `late` have: the values of a plan's other columns were never read. Sorted.
fn expected_late(case: &Path, late: &[Late]) -> Vec<String> {
    let file = case.join("expected_late.csv");
    if !file.exists() {
        return Vec::new();
    }
    let none = Vec::new();
    let names = late.first().map_or(&none, |(names, _)| names);
    let text = read(&file);
    let header = fields_of(text.lines().next().expect("a header"));
    let place = |name: &String| header.iter().position(|column| column == name).expect("a column");
    let places: Vec<usize> = names.iter().map(place).collect();
    let rows = text.lines().skip(1).map(|row| {
        let row = fields_of(row);
        places.iter().map(|place| row[*place].as_str()).collect::<Vec<_>>().join(",")
    });
    let mut rows: Vec<String> = rows.collect();
    rows.sort_unstable();
    rows
}

/// Tables that never end, or that hold what there is of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    Streams,
    Batch,
}

async fn register_all(
    context: &SessionContext,
    case: &Path,
    streams: &BTreeMap<String, Stream>,
    tables: As,
) {
    for (name, stream) in streams {
        let schema = stream.partitions[0].schema();
        let table: Arc<dyn TableProvider> = match tables {
            As::Streams => Arc::new(StreamTable { name: name.clone(), schema }),
            As::Batch => {
                let table = MemTable::try_new(schema, vec![stream.partitions.to_vec()]);
                Arc::new(table.expect("one schema"))
            }
        };
        register(context, "main", name, table).expect("it registers");
    }
    let Some(views) = nearest(case, "views.sql") else { return };
    let text: String =
        read(&views).lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
    for view in text.split(';').map(str::trim).filter(|view| !view.is_empty()) {
        let rest = view.strip_prefix("CREATE VIEW ").expect("a view");
        let (name, sql) = rest.split_once(" AS").expect("a view of a query");
        // Views that cannot be planned yet are missed by the cases that use them.
        if let Ok(plan) = plan(context, sql).await {
            let view = Arc::new(ViewTable::new(plan, None));
            register(context, "main", name.trim(), view).expect("it registers");
        }
    }
}

#[tokio::test]
async fn cases_are_answered_as_duckdb_answers_them_or_refused() {
    let mut seen = Vec::new();
    let mut wrong = Vec::new();
    for group in GROUPS {
        let folder = root().join(group);
        let entries = std::fs::read_dir(&folder).expect("a folder of cases");
        let mut cases: Vec<PathBuf> =
            entries.map(|entry| entry.expect("an entry").path()).collect();
        cases.sort_unstable();
        for case in cases.iter().filter(|case| case.join("query.sql").exists()) {
            let name = format!("{group}/{}", case.file_name().expect("a name").to_string_lossy());
            let streams = tables(case).await;
            let context = context();
            register_all(&context, case, &streams, As::Streams).await;
            let query = read(&case.join("query.sql"));
            let sql = query.trim().trim_end_matches(';');
            let streams = Streams::new(streams);
            let lowered = match plan(&context, sql).await {
                Ok(plan) => streams.lower(&plan, 1).map(|_| plan),
                Err(error) => Err(error),
            };
            let plan = match lowered {
                Ok(plan) => plan,
                Err(error) => {
                    let is_refused = error.code() == code::SQL;
                    if SUPPORTED.contains(&name.as_str()) || !is_refused {
                        wrong.push(format!("{name}: {}", error.chain()));
                    }
                    continue;
                }
            };
            seen.push(name.clone());
            let expected = expected(case);
            for seed in 0..4 {
                let (changes, late) = run_with_late(&streams, &plan, seed).await;
                let (found, late) = (fold(&changes, lines), late_lines(&late));
                let expected_late = expected_late(case, &late);
                if late.iter().map(|row| &row.1).ne(&expected_late) {
                    wrong
                        .push(format!("{name}, seed {seed}: {late:?} late, not {expected_late:?}"));
                    break;
                }
                if found != expected {
                    let missing: Vec<_> =
                        expected.iter().filter(|row| !found.contains(row)).take(3).collect();
                    let more: Vec<_> =
                        found.iter().filter(|row| !expected.contains(row)).take(3).collect();
                    wrong.push(format!(
                        "{name}, seed {seed}: {} rows instead of {}; missing {missing:?}, more {more:?}",
                        found.len(),
                        expected.len()
                    ));
                    break;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, SUPPORTED, "the list is true");
}

/// What a case gives over tables that end.
async fn batch(case: &Path) -> freshet_core::Result<Vec<String>> {
    let streams = tables(case).await;
    let context = context();
    register_all(&context, case, &streams, As::Batch).await;
    let query = read(&case.join("query.sql"));
    let planned = plan(&context, query.trim().trim_end_matches(';')).await?;
    let plan = Streams::new(streams).bounded(planned)?;
    let text = plan.display_indent().to_string();
    let failed = |error| panic!("{}: {error}\n{text}", case.display());
    let frame = context.execute_logical_plan(plan).await.unwrap_or_else(failed);
    let batches =
        frame.collect().await.unwrap_or_else(|error| panic!("{}: {error}\n{text}", case.display()));
    let mut rows: Vec<String> = batches.iter().flat_map(lines).collect();
    rows.sort_unstable();
    Ok(rows)
}

#[tokio::test]
async fn cases_are_answered_the_same_over_tables_that_end() {
    let mut wrong = Vec::new();
    for name in SUPPORTED {
        // A batch has no late rows: all of its rows were there before.
        if name.starts_with("late/") {
            continue;
        }
        let case = root().join(name);
        let expected = expected(&case);
        match batch(&case).await {
            Ok(found) if found == expected => {}
            Ok(found) => {
                let missing: Vec<_> =
                    expected.iter().filter(|row| !found.contains(row)).take(3).collect();
                let more: Vec<_> =
                    found.iter().filter(|row| !expected.contains(row)).take(3).collect();
                wrong.push(format!(
                    "{name}: {} rows instead of {}; missing {missing:?}, more {more:?}",
                    found.len(),
                    expected.len()
                ));
            }
            Err(error) => wrong.push(format!("{name}: {}", error.chain())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
