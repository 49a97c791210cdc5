//! Unit tests of models: given rows in, expected rows out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::{MemoryCatalogProvider, MemorySchemaProvider};
use datafusion::common::TableReference;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use freshet_core::config::nearest;
use freshet_core::contract::type_name;
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};
use freshet_project::{UnitTest, UnitTestRef};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::session::query_error;

/// Lines of a difference that are shown.
const DIFF_LINES: usize = 40;

/// Where a given input stands in the compiled SQL, and its types where they are known.
#[derive(Debug, Clone)]
pub struct UnitTestTable {
    /// The name that the compiled SQL has for it.
    pub name: TableReference,
    /// Its columns, where they are known; columns of the rows that are missing here are inferred:
    /// bigint, double, boolean, else text.
    pub schema: Option<SchemaRef>,
}

/// What a unit test came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitTestReport {
    /// The test's name.
    pub name: String,
    /// The model's name.
    pub model: String,
    /// Whether the rows are those expected.
    pub passed: bool,
    /// Rows that the model gave.
    pub rows: u64,
    /// The difference: column names, then `- row` for each row that is missing and `+ row` for
    /// each that was not expected; empty where it passed.
    pub diff: Vec<String>,
}

/// Runs a unit test: `ctx` is a fresh session (functions registered, no tables of these names),
/// `sql` the model compiled for the test's overrides, `tables` where each of its inputs stands.
///
/// Rows are compared without regard to their order, in the columns that the test expects, each
/// expected value read in the type that the model gives. A result that differs is a report, not an
/// error; rows that do not fit their types, and SQL that cannot be planned or run, are errors.
pub async fn run_unit_test(
    ctx: &SessionContext,
    test: &UnitTest,
    sql: &str,
    tables: &[(UnitTestRef, UnitTestTable)],
) -> Result<UnitTestReport> {
    for (reference, table) in tables {
        let rows = test
            .given
            .iter()
            .filter(|given| given.input == *reference)
            .flat_map(|given| &given.rows)
            .collect::<Vec<_>>();
        register(ctx, test, &table.name, given_rows(test, table, &rows)?)?;
    }
    let what = || format!("unit test \"{}\": could not run model \"{}\"", test.name, test.model);
    let locate = |error| query_error(error, what).at(test.location.clone());
    let frame = ctx.sql(sql).await.map_err(locate)?;
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let batches = frame.collect().await.map_err(locate)?;
    let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    let diff = difference(test, &schema, &batches)?;
    Ok(UnitTestReport {
        name: test.name.clone(),
        model: test.model.to_string(),
        passed: diff.is_empty(),
        rows,
        diff,
    })
}

fn wrong(test: &UnitTest, message: String) -> Error {
    Error::new(code::UNIT_TEST, format!("unit test \"{}\": {message}", test.name))
        .at(test.location.clone())
}

/// The given rows as a batch of the table's columns.
fn given_rows(
    test: &UnitTest,
    table: &UnitTestTable,
    rows: &[&Map<String, Value>],
) -> Result<RecordBatch> {
    let mut fields: Vec<Field> = match &table.schema {
        Some(schema) => {
            let nullable = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
            schema.fields().iter().map(nullable).collect()
        }
        None => Vec::new(),
    };
    for name in rows.iter().flat_map(|row| row.keys()) {
        if !fields.iter().any(|field| field.name().eq_ignore_ascii_case(name)) {
            fields.push(Field::new(name, inferred(rows, name), true));
        }
    }
    let columns = fields
        .iter()
        .map(|field| {
            let texts = rows.iter().map(|row| value_of(row, field.name()).and_then(text_of));
            typed(texts.collect(), field.data_type()).map_err(|error| {
                wrong(
                    test,
                    format!(
                        "a value given for column \"{}\" of {} is not of type {}",
                        field.name(),
                        table.name,
                        type_name(field.data_type())
                    ),
                )
                .caused_by(error)
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let schema = Arc::new(Schema::new(fields));
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(schema, columns, &options)
        .or_code(code::INTERNAL, || "given rows do not make a batch".to_owned())
}

fn value_of<'r>(row: &'r Map<String, Value>, name: &str) -> Option<&'r Value> {
    row.get(name).or_else(|| {
        row.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    })
}

/// A value as text; `None` is null.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The type that all of a column's values have.
fn inferred(rows: &[&Map<String, Value>], name: &str) -> DataType {
    let all = |test: fn(&Value) -> bool| {
        let mut values =
            rows.iter().filter_map(|row| value_of(row, name)).filter(|v| !v.is_null()).peekable();
        values.peek().is_some() && values.all(test)
    };
    if all(Value::is_i64) {
        DataType::Int64
    } else if all(Value::is_number) {
        DataType::Float64
    } else if all(Value::is_boolean) {
        DataType::Boolean
    } else {
        DataType::Utf8View
    }
}

fn typed(
    texts: Vec<Option<String>>,
    data_type: &DataType,
) -> std::result::Result<ArrayRef, arrow::error::ArrowError> {
    let texts: ArrayRef = Arc::new(StringArray::from(texts));
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    match data_type {
        // A dictionary is filled by way of its values.
        DataType::Dictionary(_, value) => {
            cast_with_options(&cast_with_options(&texts, value, &options)?, data_type, &options)
        }
        _ => cast_with_options(&texts, data_type, &options),
    }
}

/// Registers a table, with the catalog and schema that its name has.
fn register(
    ctx: &SessionContext,
    test: &UnitTest,
    name: &TableReference,
    batch: RecordBatch,
) -> Result<()> {
    let defaults = ctx.copied_config();
    let defaults = &defaults.options().catalog;
    let full = name.clone().resolve(&defaults.default_catalog, &defaults.default_schema);
    let internal = |error| wrong(test, format!("could not make table {name}")).caused_by(error);
    let catalog = match ctx.catalog(&full.catalog) {
        Some(catalog) => catalog,
        None => {
            let catalog = Arc::new(MemoryCatalogProvider::new());
            ctx.register_catalog(full.catalog.as_ref(), Arc::clone(&catalog) as _);
            catalog
        }
    };
    if catalog.schema(&full.schema).is_none() {
        catalog
            .register_schema(&full.schema, Arc::new(MemorySchemaProvider::new()))
            .map_err(internal)?;
    }
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(internal)?;
    ctx.register_table(name.clone(), Arc::new(table)).map_err(internal)?;
    Ok(())
}

/// How many times each row occurs.
type Counts = BTreeMap<Vec<Option<String>>, i64>;

/// The lines of the difference between what was expected and what the model gave.
fn difference(test: &UnitTest, schema: &Schema, batches: &[RecordBatch]) -> Result<Vec<String>> {
    let columns = expected_columns(test, schema)?;
    let types: Vec<_> = columns.iter().map(|index| schema.field(*index).data_type()).collect();
    let names: Vec<_> = columns.iter().map(|index| schema.field(*index).name().as_str()).collect();
    let mut counts = Counts::new();
    for row in shown(&names, &types, &test.expect) {
        *counts.entry(row).or_default() += 1;
    }
    for batch in batches {
        let arrays: Vec<_> = columns.iter().map(|index| batch.column(*index).clone()).collect();
        for row in texts(&arrays, batch.num_rows())? {
            *counts.entry(row).or_default() -= 1;
        }
    }
    counts.retain(|_, count| *count != 0);
    if counts.is_empty() {
        return Ok(Vec::new());
    }
    let line = |row: &[Option<String>]| {
        row.iter().map(|value| value.as_deref().unwrap_or("null")).collect::<Vec<_>>().join(" | ")
    };
    let mut lines = vec![format!("  {}", names.join(" | "))];
    let total: u64 = counts.values().map(|count| count.unsigned_abs()).sum();
    for (row, count) in &counts {
        let sign = if *count > 0 { '-' } else { '+' };
        for _ in 0..count.unsigned_abs() {
            if lines.len() > DIFF_LINES {
                lines.push(format!("  … {} more", total - DIFF_LINES as u64));
                return Ok(lines);
            }
            lines.push(format!("{sign} {}", line(row)));
        }
    }
    Ok(lines)
}

/// The model's columns that the test expects something of; all where it expects no rows.
fn expected_columns(test: &UnitTest, schema: &Schema) -> Result<Vec<usize>> {
    let mut columns: Vec<usize> = Vec::new();
    for name in test.expect.iter().flat_map(Map::keys) {
        let fields = schema.fields();
        let index = fields
            .iter()
            .position(|field| field.name() == name)
            .or_else(|| fields.iter().position(|field| field.name().eq_ignore_ascii_case(name)));
        let Some(index) = index else {
            let error = wrong(
                test,
                format!("model \"{}\" gives no column \"{name}\", which is expected", test.model),
            );
            let names = fields.iter().map(|field| field.name().as_str());
            return Err(match nearest(name, names.clone()) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint(format!("columns are {}", names.collect::<Vec<_>>().join(", "))),
            });
        };
        if !columns.contains(&index) {
            columns.push(index);
        }
    }
    if columns.is_empty() {
        columns = (0..schema.fields().len()).collect();
    }
    columns.sort_unstable();
    Ok(columns)
}

/// The expected rows as their values print in the model's types. A value that does not fit its
/// type prints as it was written, and so equals nothing that the model gives.
fn shown(
    names: &[&str],
    types: &[&DataType],
    rows: &[Map<String, Value>],
) -> Vec<Vec<Option<String>>> {
    rows.iter()
        .map(|row| {
            names
                .iter()
                .zip(types)
                .map(|(name, data_type)| {
                    let written = value_of(row, name).and_then(text_of)?;
                    let printed = typed(vec![Some(written.clone())], data_type)
                        .ok()
                        .and_then(|array| texts(&[array], 1).ok()?.pop()?.pop()?);
                    Some(printed.unwrap_or(written))
                })
                .collect()
        })
        .collect()
}

/// Rows as text.
fn texts(columns: &[ArrayRef], rows: usize) -> Result<Vec<Vec<Option<String>>>> {
    let options = FormatOptions::default();
    let formatters = columns
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<std::result::Result<Vec<_>, _>>()
        .or_code(code::INTERNAL, || "a row of a unit test could not be shown".to_owned())?;
    (0..rows)
        .map(|row| {
            columns
                .iter()
                .zip(&formatters)
                .map(|(column, formatter)| {
                    if column.is_null(row) {
                        return Ok(None);
                    }
                    let text = formatter
                        .value(row)
                        .try_to_string()
                        .or_code(code::INTERNAL, || "a value could not be shown".to_owned())?;
                    Ok(Some(if column.data_type().is_floating() { rounded(text) } else { text }))
                })
                .collect()
        })
        .collect()
}

/// A double to twelve digits, so that 0.1 + 0.2 is the 0.3 that people write.
fn rounded(text: String) -> String {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => match format!("{number:.11e}").parse::<f64>() {
            // A negative zero prints a sign that nobody expects.
            Ok(0.0) => "0".to_owned(),
            Ok(short) => short.to_string(),
            Err(_) => text,
        },
        _ => text,
    }
}
