//! Columns: Arrow's types and Delta's, and what becomes of a table's columns when a result has
//! others.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use freshet_core::contract::{SchemaChange, type_name};
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};
use freshet_project::model::OnSchemaChange;
use serde_json::{Value, json};

/// How a result fits into a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconciled {
    /// The table's columns from now on.
    pub schema: SchemaRef,
    /// Whether they differ from before.
    pub changed: bool,
    /// How the result's columns differ from the table's.
    pub changes: Vec<SchemaChange>,
}

/// Decides what becomes of a table's columns when a result has others. A column whose type cannot
/// hold the result's is an error of code `SCHEMA_CHANGE`.
pub fn reconcile(
    table: &SchemaRef,
    result: &SchemaRef,
    on_schema_change: OnSchemaChange,
) -> Result<Reconciled> {
    let mut changes = Vec::new();
    let mut fields: Vec<_> = Vec::new();
    let mut misfits = Vec::new();
    for field in table.fields() {
        match find(result, field.name()) {
            Some(new) => {
                if !holds(field.data_type(), new.data_type()) {
                    misfits.push(format!(
                        "\"{}\" is {} in the table and {} in the result",
                        field.name(),
                        type_name(field.data_type()),
                        type_name(new.data_type())
                    ));
                }
                fields.push(Arc::clone(field));
            }
            None => {
                changes.push(SchemaChange::Missing { column: field.name().clone() });
                if on_schema_change != OnSchemaChange::SyncAllColumns {
                    fields.push(Arc::clone(field));
                }
            }
        }
    }
    if !misfits.is_empty() {
        return Err(Error::new(
            code::SCHEMA_CHANGE,
            format!("a column's type changed: {}", misfits.join("; ")),
        )
        .hint("cast the column to the table's type, or rebuild the table with `--full-refresh`"));
    }
    let adds = matches!(
        on_schema_change,
        OnSchemaChange::AppendNewColumns | OnSchemaChange::SyncAllColumns
    );
    for field in result.fields() {
        if find(table, field.name()).is_none() {
            changes.push(SchemaChange::Added {
                column: field.name().clone(),
                data_type: type_name(field.data_type()),
            });
            if adds {
                fields.push(Arc::new(stored_field(field)?));
            }
        }
    }
    if on_schema_change == OnSchemaChange::Fail && !changes.is_empty() {
        let names: Vec<_> = changes
            .iter()
            .map(|change| match change {
                SchemaChange::Added { column, .. } => format!("\"{column}\" is new"),
                SchemaChange::Missing { column } => format!("\"{column}\" is missing"),
                other => format!("{other:?}"),
            })
            .collect();
        return Err(Error::new(
            code::SCHEMA_CHANGE,
            format!("the result's columns are not the table's: {}", names.join(", ")),
        )
        .hint(
            "set `on_schema_change` to `append_new_columns` or `sync_all_columns`, or rebuild the \
             table with `--full-refresh`",
        ));
    }
    let schema = Arc::new(Schema::new(fields));
    let changed = schema.fields() != table.fields();
    Ok(Reconciled { schema, changed, changes })
}

fn find<'a>(schema: &'a Schema, name: &str) -> Option<&'a Field> {
    schema.fields().iter().find(|field| field.name() == name).map(AsRef::as_ref)
}

/// Whether every value of type `new` is one of type `table`.
fn holds(table: &DataType, new: &DataType) -> bool {
    use DataType as T;
    let Ok(new) = stored_type(new) else { return false };
    if *table == new {
        return true;
    }
    let digits = |data_type: &T| match data_type {
        T::Int8 => Some((3, 0)),
        T::Int16 => Some((5, 0)),
        T::Int32 => Some((10, 0)),
        T::Int64 => Some((19, 0)),
        T::Decimal128(precision, scale) => Some((*precision as i16, *scale as i16)),
        _ => None,
    };
    match (table, &new) {
        (T::Int16, T::Int8) | (T::Int32, T::Int8 | T::Int16) => true,
        (T::Int64, T::Int8 | T::Int16 | T::Int32) => true,
        (T::Float32, T::Int8 | T::Int16) => true,
        (T::Float64, T::Int8 | T::Int16 | T::Int32 | T::Float32) => true,
        (T::Decimal128(precision, scale), other) => {
            digits(other).is_some_and(|(new_precision, new_scale)| {
                let (precision, scale) = (i16::from(*precision), i16::from(*scale));
                scale >= new_scale && precision - scale >= new_precision - new_scale
            })
        }
        (T::Struct(table), T::Struct(new)) => {
            table.len() == new.len()
                && table
                    .iter()
                    .zip(new)
                    .all(|(a, b)| a.name() == b.name() && holds(a.data_type(), b.data_type()))
        }
        (T::List(table), T::List(new)) => holds(table.data_type(), new.data_type()),
        _ => false,
    }
}

/// The columns in which a result is stored: Delta's types, all nullable.
pub(super) fn stored(schema: &Schema) -> Result<SchemaRef> {
    let mut names = std::collections::HashSet::new();
    let mut fields = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        if !names.insert(field.name().to_lowercase()) {
            return Err(Error::new(
                code::SQL,
                format!("two columns of the result are called \"{}\"", field.name()),
            )
            .hint("give one of them another name with `as`; upper and lower case are the same"));
        }
        fields.push(stored_field(field)?);
    }
    if fields.is_empty() {
        return Err(Error::new(code::SQL, "the result has no columns"));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn stored_field(field: &Field) -> Result<Field> {
    let data_type = stored_type(field.data_type()).map_err(|name| {
        Error::new(
            code::SQL,
            format!("column \"{}\" has the type {name}, which a table cannot hold", field.name()),
        )
        .hint("cast it, e.g. to text")
    })?;
    Ok(Field::new(field.name(), data_type, true))
}

/// The type in which values of `data_type` are stored and read; the type's name where there is none.
fn stored_type(data_type: &DataType) -> Result<DataType, String> {
    use DataType as T;
    Ok(match data_type {
        T::Boolean | T::Int8 | T::Int16 | T::Int32 | T::Int64 => data_type.clone(),
        T::Float32 | T::Float64 | T::Date32 => data_type.clone(),
        T::UInt8 => T::Int16,
        T::UInt16 => T::Int32,
        T::UInt32 => T::Int64,
        T::UInt64 => T::Decimal128(20, 0),
        T::Float16 => T::Float32,
        T::Date64 => T::Date32,
        T::Decimal32(precision, scale)
        | T::Decimal64(precision, scale)
        | T::Decimal128(precision, scale)
        | T::Decimal256(precision, scale)
            if *precision <= 38 && *scale >= 0 =>
        {
            T::Decimal128(*precision, *scale)
        }
        T::Timestamp(_, None) => T::Timestamp(TimeUnit::Microsecond, None),
        T::Timestamp(_, Some(_)) => T::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        // Delta has no time of day and no untyped null.
        T::Time32(_) | T::Time64(_) | T::Null => T::Utf8View,
        T::Utf8 | T::LargeUtf8 | T::Utf8View => T::Utf8View,
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => T::Binary,
        T::Dictionary(_, value) => stored_type(value)?,
        T::RunEndEncoded(_, value) => stored_type(value.data_type())?,
        T::List(item) | T::LargeList(item) | T::FixedSizeList(item, _) | T::ListView(item) => {
            T::List(Arc::new(Field::new("element", stored_type(item.data_type())?, true)))
        }
        T::Struct(fields) => T::Struct(
            fields
                .iter()
                .map(|field| Ok(Field::new(field.name(), stored_type(field.data_type())?, true)))
                .collect::<Result<Fields, String>>()?,
        ),
        other => return Err(other.to_string()),
    })
}

/// The columns in Delta's JSON.
pub(super) fn to_json(schema: &Schema) -> Result<String> {
    let fields = struct_json(schema.fields())?;
    serde_json::to_string(&fields)
        .map_err(|error| Error::internal("could not write a schema as JSON").caused_by(error))
}

fn struct_json(fields: &Fields) -> Result<Value> {
    let fields = fields
        .iter()
        .map(|field| {
            Ok(json!({
                "name": field.name(),
                "type": type_json(field.data_type())?,
                "nullable": true,
                "metadata": {},
            }))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(json!({ "type": "struct", "fields": fields }))
}

fn type_json(data_type: &DataType) -> Result<Value> {
    use DataType as T;
    Ok(match data_type {
        T::Boolean => json!("boolean"),
        T::Int8 => json!("byte"),
        T::Int16 => json!("short"),
        T::Int32 => json!("integer"),
        T::Int64 => json!("long"),
        T::Float32 => json!("float"),
        T::Float64 => json!("double"),
        T::Date32 => json!("date"),
        T::Utf8View => json!("string"),
        T::Binary => json!("binary"),
        T::Timestamp(_, None) => json!("timestamp_ntz"),
        T::Timestamp(_, Some(_)) => json!("timestamp"),
        T::Decimal128(precision, scale) => json!(format!("decimal({precision},{scale})")),
        T::List(item) => json!({
            "type": "array",
            "elementType": type_json(item.data_type())?,
            "containsNull": true,
        }),
        T::Struct(fields) => struct_json(fields)?,
        other => {
            return Err(Error::internal(format!("the type {other} was not made storable")));
        }
    })
}

/// The columns that Delta's JSON describes.
pub(super) fn from_json(text: &str) -> Result<SchemaRef> {
    let broken = || Error::new(code::LAKE, "the table's schema could not be read");
    let value: Value = serde_json::from_str(text).map_err(|error| broken().caused_by(error))?;
    let fields = struct_fields(&value).map_err(|reason| broken().caused_by(reason))?;
    Ok(Arc::new(Schema::new(fields)))
}

fn struct_fields(value: &Value) -> Result<Fields, String> {
    let fields = value["fields"].as_array().ok_or("\"fields\" is not an array")?;
    fields
        .iter()
        .map(|field| {
            let name = field["name"].as_str().ok_or("a column has no name")?;
            Ok(Field::new(name, type_from_json(&field["type"])?, true))
        })
        .collect()
}

fn type_from_json(value: &Value) -> Result<DataType, String> {
    use DataType as T;
    if let Some(name) = value.as_str() {
        return Ok(match name {
            "boolean" => T::Boolean,
            "byte" => T::Int8,
            "short" => T::Int16,
            "integer" => T::Int32,
            "long" => T::Int64,
            "float" => T::Float32,
            "double" => T::Float64,
            "date" => T::Date32,
            "string" => T::Utf8View,
            "binary" => T::Binary,
            "timestamp" => T::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            "timestamp_ntz" => T::Timestamp(TimeUnit::Microsecond, None),
            "decimal" => T::Decimal128(10, 0),
            other => decimal(other).ok_or_else(|| format!("the type {other} is not known"))?,
        });
    }
    match value["type"].as_str() {
        Some("struct") => Ok(T::Struct(struct_fields(value)?)),
        Some("array") => {
            let item = type_from_json(&value["elementType"])?;
            Ok(T::List(Arc::new(Field::new("element", item, true))))
        }
        Some("map") => {
            let entries = Fields::from(vec![
                Field::new("key", type_from_json(&value["keyType"])?, false),
                Field::new("value", type_from_json(&value["valueType"])?, true),
            ]);
            let entries = Field::new("key_value", T::Struct(entries), false);
            Ok(T::Map(Arc::new(entries), false))
        }
        _ => Err(format!("the type {value} is not known")),
    }
}

fn decimal(name: &str) -> Option<DataType> {
    let (precision, scale) = name.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
    let precision: u8 = precision.trim().parse().ok()?;
    let scale: i8 = scale.trim().parse().ok()?;
    ((1..=38).contains(&precision) && (0..=precision as i8).contains(&scale))
        .then_some(DataType::Decimal128(precision, scale))
}

/// Gives a batch the columns of `schema`: by name, cast where the type differs, null where the
/// batch has no such column. A value that does not fit is an error.
pub(super) fn fit(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    let strict = CastOptions { safe: false, ..Default::default() };
    let columns = schema
        .fields()
        .iter()
        .map(|field| {
            let Some(column) = batch.column_by_name(field.name()) else {
                return Ok(new_null_array(field.data_type(), batch.num_rows()));
            };
            cast_column(column, field.data_type(), &strict).or_code(code::EXECUTION, || {
                format!(
                    "a value of column \"{}\" does not fit the type {}",
                    field.name(),
                    type_name(field.data_type())
                )
            })
        })
        .collect::<Result<Vec<_>>>()?;
    batch_of(schema, columns, batch.num_rows())
}

fn cast_column(
    column: &ArrayRef,
    to: &DataType,
    options: &CastOptions<'_>,
) -> Result<ArrayRef, arrow::error::ArrowError> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    cast_with_options(column, to, options)
}

/// A batch of columns that are known to fit.
pub(super) fn batch_of(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|error| Error::internal("columns do not fit their schema").caused_by(error))
}

/// How the columns of one version differ from those of an earlier one.
pub(super) fn differences(before: &Schema, after: &Schema) -> Vec<SchemaChange> {
    let mut changes = Vec::new();
    for field in before.fields() {
        match find(after, field.name()) {
            None => changes.push(SchemaChange::Missing { column: field.name().clone() }),
            Some(new) if new.data_type() != field.data_type() => {
                changes.push(SchemaChange::Retyped {
                    column: field.name().clone(),
                    from: type_name(field.data_type()),
                    to: type_name(new.data_type()),
                });
            }
            Some(_) => {}
        }
    }
    for field in after.fields() {
        if find(before, field.name()).is_none() {
            changes.push(SchemaChange::Added {
                column: field.name().clone(),
                data_type: type_name(field.data_type()),
            });
        }
    }
    let order = |schema: &Schema, other: &Schema| -> Vec<String> {
        let names = schema.fields().iter().map(|field| field.name().clone());
        names.filter(|name| find(other, name).is_some()).collect()
    };
    if order(before, after) != order(after, before) {
        changes.push(SchemaChange::Reordered);
    }
    changes
}
