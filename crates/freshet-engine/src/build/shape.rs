//! The columns of a result: declared types are cast to, and types that no lake has are widened.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, DFSchema};
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{Expr, ExprSchemable, cast};
use freshet_core::error::code;
use freshet_core::{Error, Location, Result};
use freshet_project::Node;

use crate::session::query_error;

/// Casts the columns of a node's result to what its table holds.
pub fn shape(frame: DataFrame, node: &Node) -> Result<DataFrame> {
    let schema = frame.schema().clone();
    unique_names(&schema, node)?;
    let mut changed = false;
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (qualifier, field) in schema.iter() {
        let declared = node
            .columns
            .iter()
            .find(|column| column.name.eq_ignore_ascii_case(field.name()))
            .and_then(|column| column.data_type.as_ref())
            .map(|data_type| data_type.arrow());
        let target = declared.or_else(|| stored(field.data_type()));
        let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
        columns.push(match target {
            Some(target) if target != *field.data_type() => {
                changed = true;
                // Checks that the cast exists at all; values that do not fit fail when it runs.
                column.clone().cast_to(&target, &schema).map_err(|error| {
                    query_error(error, || {
                        format!("could not give column \"{}\" its declared type", field.name())
                    })
                })?;
                cast(column, target).alias(field.name())
            }
            _ => column,
        });
    }
    if !changed {
        return Ok(frame);
    }
    frame
        .select(columns)
        .map_err(|error| query_error(error, || format!("could not shape model \"{}\"", node.id)))
}

fn unique_names(schema: &DFSchema, node: &Node) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    for field in schema.fields() {
        if !seen.insert(field.name().as_str()) {
            return Err(Error::new(
                code::SQL,
                format!("model \"{}\" has two columns called \"{}\"", node.id, field.name()),
            )
            .at(Location::file(node.path.display().to_string()))
            .hint("give one of them another name with `as`"));
        }
    }
    Ok(())
}

/// The type in which the lake keeps a type; `None` where it keeps it as it is.
fn stored(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Null => DataType::Utf8View,
        DataType::Dictionary(_, value) => stored(value).unwrap_or_else(|| value.as_ref().clone()),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Timestamp(unit, zone) if *unit != TimeUnit::Microsecond => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| "UTC".into()))
        }
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() != "UTC" => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        // A lake has no time of day: microseconds since midnight.
        DataType::Time32(_) | DataType::Time64(_) => DataType::Int64,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal256(_, scale) => DataType::Decimal128(38, *scale),
        _ => return None,
    })
}
