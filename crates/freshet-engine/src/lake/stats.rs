//! What is known of a data file's columns: made from Parquet's statistics, kept as Delta's JSON,
//! read back as values.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use datafusion::common::ScalarValue;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::ParquetMetaData;
use serde_json::{Value, json};

use super::ColumnStats;

/// Columns, from the first, of which statistics are kept: Delta's default.
const COLUMNS: usize = 32;
/// Characters of a text bound that are kept.
const TEXT: usize = 32;

/// What the JSON of a log entry says: rows, and columns by name. What cannot be read is not known.
pub(super) fn parse(text: Option<&str>) -> (Option<u64>, BTreeMap<String, ColumnStats>) {
    let Some(Value::Object(stats)) = text.and_then(|text| serde_json::from_str(text).ok()) else {
        return (None, BTreeMap::new());
    };
    let mut columns: BTreeMap<String, ColumnStats> = BTreeMap::new();
    let object = |name: &str| stats.get(name).and_then(Value::as_object).into_iter().flatten();
    for (name, value) in object("minValues").filter(|(_, value)| is_bound(value)) {
        columns.entry(name.clone()).or_default().min = Some(value.clone());
    }
    for (name, value) in object("maxValues").filter(|(_, value)| is_bound(value)) {
        columns.entry(name.clone()).or_default().max = Some(value.clone());
    }
    for (name, value) in object("nullCount") {
        columns.entry(name.clone()).or_default().nulls = value.as_u64();
    }
    (stats.get("numRecords").and_then(Value::as_u64), columns)
}

fn is_bound(value: &Value) -> bool {
    value.is_number() || value.is_string()
}

/// The JSON of a log entry.
pub(super) fn to_json(
    rows: Option<u64>,
    columns: &BTreeMap<String, ColumnStats>,
    schema: &SchemaRef,
) -> Option<String> {
    let rows = rows?;
    let bounds = |bound: fn(&ColumnStats) -> Option<&Value>| {
        let entries: Vec<_> = columns
            .iter()
            .filter_map(|(name, stats)| {
                let value = bound(stats)?;
                let is_decimal = schema
                    .field_with_name(name)
                    .is_ok_and(|field| matches!(field.data_type(), DataType::Decimal128(..)));
                // A JSON number holds all digits of a decimal; our JSON library's does not.
                let value = match value {
                    Value::String(digits) if is_decimal => digits.clone(),
                    value => value.to_string(),
                };
                Some(format!("{}:{value}", Value::from(name.as_str())))
            })
            .collect();
        entries.join(",")
    };
    let nulls: serde_json::Map<_, _> = columns
        .iter()
        .filter_map(|(name, stats)| Some((name.clone(), Value::from(stats.nulls?))))
        .collect();
    Some(format!(
        "{{\"numRecords\":{rows},\"minValues\":{{{}}},\"maxValues\":{{{}}},\"nullCount\":{}}}",
        bounds(|stats| stats.min.as_ref()),
        bounds(|stats| stats.max.as_ref()),
        Value::Object(nulls)
    ))
}

/// What Parquet's own statistics say of a file with the columns `schema`.
pub(super) fn of_file(
    metadata: &ParquetMetaData,
    schema: &SchemaRef,
) -> BTreeMap<String, ColumnStats> {
    let mut columns = BTreeMap::new();
    let parquet_schema = metadata.file_metadata().schema_descr();
    let groups = metadata.row_groups();
    let rows: i64 = groups.iter().map(|group| group.num_rows()).sum();
    for field in schema.fields().iter().take(COLUMNS) {
        if field.data_type().is_nested() {
            continue;
        }
        let Ok(converter) = StatisticsConverter::try_new(field.name(), schema, parquet_schema)
        else {
            continue;
        };
        let nulls = converter.row_group_null_counts(groups).ok().and_then(|counts| {
            (counts.null_count() == 0).then(|| counts.values().iter().sum::<u64>())
        });
        let mut stats = ColumnStats { nulls, ..ColumnStats::default() };
        // A row group that is all null has no bounds and needs none.
        let bounded = |index: usize, bounds: &ArrayRef| {
            bounds.is_valid(index)
                || converter.row_group_null_counts(groups).is_ok_and(|counts| {
                    counts.is_valid(index)
                        && groups
                            .get(index)
                            .is_some_and(|group| counts.value(index) as i64 == group.num_rows())
                })
        };
        if nulls.is_none_or(|nulls| (nulls as i64) < rows) {
            if let Ok(mins) = converter.row_group_mins(groups)
                && (0..mins.len()).all(|index| bounded(index, &mins))
            {
                stats.min = extreme(&mins, true).and_then(|value| to_value(&value, true));
            }
            if let Ok(maxes) = converter.row_group_maxes(groups)
                && (0..maxes.len()).all(|index| bounded(index, &maxes))
            {
                stats.max = extreme(&maxes, false).and_then(|value| to_value(&value, false));
            }
        }
        columns.insert(field.name().clone(), stats);
    }
    columns
}

fn extreme(values: &ArrayRef, least: bool) -> Option<ScalarValue> {
    let mut found: Option<ScalarValue> = None;
    for index in (0..values.len()).filter(|index| values.is_valid(*index)) {
        let value = ScalarValue::try_from_array(values, index).ok()?;
        let better = match &found {
            None => true,
            Some(found) => {
                let order = value.partial_cmp(found)?;
                if least { order.is_lt() } else { order.is_gt() }
            }
        };
        if better {
            found = Some(value);
        }
    }
    found
}

fn to_value(value: &ScalarValue, is_min: bool) -> Option<Value> {
    Some(match value {
        ScalarValue::Int8(Some(v)) => json!(v),
        ScalarValue::Int16(Some(v)) => json!(v),
        ScalarValue::Int32(Some(v)) => json!(v),
        ScalarValue::Int64(Some(v)) => json!(v),
        ScalarValue::Float32(Some(v)) if v.is_finite() => json!(f64::from(*v)),
        ScalarValue::Float64(Some(v)) if v.is_finite() => json!(v),
        ScalarValue::Utf8(Some(text))
        | ScalarValue::LargeUtf8(Some(text))
        | ScalarValue::Utf8View(Some(text)) => Value::String(text_bound(text, is_min)?),
        ScalarValue::Date32(Some(days)) => {
            let date = NaiveDate::from_epoch_days(*days)?;
            json!(date.format("%Y-%m-%d").to_string())
        }
        ScalarValue::TimestampMicrosecond(Some(micros), zone) => {
            let time = DateTime::from_timestamp_micros(*micros)?.naive_utc();
            let zone = if zone.is_some() { "Z" } else { "" };
            json!(format!("{}{zone}", time.format("%Y-%m-%dT%H:%M:%S%.6f")))
        }
        ScalarValue::Decimal128(Some(digits), _, scale) => {
            json!(decimal_text(*digits, u32::from(scale.unsigned_abs())))
        }
        _ => return None,
    })
}

/// A text of at most [`TEXT`] characters that is not greater, or not less, than `text`.
fn text_bound(text: &str, is_min: bool) -> Option<String> {
    let mut bound: String = text.chars().take(TEXT).collect();
    if is_min || bound.len() == text.len() {
        return Some(bound);
    }
    // The next greater text of this length: the last character that has a successor, raised.
    while let Some(last) = bound.pop() {
        if let Some(next) = char::from_u32(u32::from(last) + 1) {
            bound.push(next);
            return Some(bound);
        }
    }
    None
}

fn decimal_text(value: i128, scale: u32) -> String {
    let digits = value.unsigned_abs().to_string();
    let sign = if value < 0 { "-" } else { "" };
    let scale = scale as usize;
    if scale == 0 {
        return format!("{sign}{digits}");
    }
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, part) = digits.split_at(digits.len() - scale);
    format!("{sign}{whole}.{part}")
}

/// A lower bound as a value of the column's type; `None` where it is not known.
pub(super) fn min_of(stats: &ColumnStats, field: &Field) -> Option<ScalarValue> {
    to_scalar(stats.min.as_ref()?, field.data_type(), true)
}

/// An upper bound as a value of the column's type; `None` where it is not known.
pub(super) fn max_of(stats: &ColumnStats, field: &Field) -> Option<ScalarValue> {
    to_scalar(stats.max.as_ref()?, field.data_type(), false)
}

fn to_scalar(value: &Value, data_type: &DataType, is_min: bool) -> Option<ScalarValue> {
    Some(match data_type {
        DataType::Int8 => ScalarValue::Int8(Some(i8::try_from(value.as_i64()?).ok()?)),
        DataType::Int16 => ScalarValue::Int16(Some(i16::try_from(value.as_i64()?).ok()?)),
        DataType::Int32 => ScalarValue::Int32(Some(i32::try_from(value.as_i64()?).ok()?)),
        DataType::Int64 => ScalarValue::Int64(Some(value.as_i64()?)),
        DataType::Float32 => {
            // Rounded outwards: the text of a 32-bit value may have been cut.
            let exact = value.as_f64()?;
            let near = exact as f32;
            let near = match is_min {
                true if f64::from(near) > exact => near.next_down(),
                false if f64::from(near) < exact => near.next_up(),
                _ => near,
            };
            ScalarValue::Float32(Some(near))
        }
        DataType::Float64 => ScalarValue::Float64(Some(value.as_f64()?)),
        DataType::Utf8View => ScalarValue::Utf8View(Some(value.as_str()?.to_owned())),
        DataType::Date32 => {
            let date = NaiveDate::parse_from_str(value.as_str()?, "%Y-%m-%d").ok()?;
            ScalarValue::Date32(Some(date.to_epoch_days()))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let micros = micros(value.as_str()?, is_min)?;
            ScalarValue::TimestampMicrosecond(Some(micros), zone.clone())
        }
        DataType::Decimal128(precision, scale) => {
            let digits = match value {
                Value::String(text) => parse_decimal(text, u32::from(scale.unsigned_abs()))?,
                // Of a number only the 64-bit floating point neighbour is left.
                Value::Number(number) => match number.as_i64() {
                    Some(whole) => i128::from(whole)
                        .checked_mul(10_i128.checked_pow(scale.unsigned_abs().into())?)?,
                    None => {
                        let near = number.as_f64()?;
                        let near = if is_min { near.next_down() } else { near.next_up() };
                        let scaled = near * 10_f64.powi(i32::from(*scale));
                        // The product is rounded as well.
                        let scaled = if is_min {
                            scaled.next_down().floor()
                        } else {
                            scaled.next_up().ceil()
                        };
                        (scaled.abs() < 1e38).then_some(scaled as i128)?
                    }
                },
                _ => return None,
            };
            ScalarValue::Decimal128(Some(digits), *precision, *scale)
        }
        _ => return None,
    })
}

fn micros(text: &str, is_min: bool) -> Option<i64> {
    let micros = match DateTime::parse_from_rfc3339(text) {
        Ok(time) => time.timestamp_micros(),
        Err(_) => NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
            .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f"))
            .ok()?
            .and_utc()
            .timestamp_micros(),
    };
    // Some writers cut to milliseconds.
    Some(if is_min || micros % 1_000 != 0 { micros } else { micros + 999 })
}

fn parse_decimal(text: &str, scale: u32) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if part.len() > scale as usize || (whole.is_empty() && part.is_empty()) {
        return None;
    }
    let joined = format!("{whole}{part:0<width$}", width = scale as usize);
    let value: i128 = joined.parse().ok()?;
    Some(if negative { -value } else { value })
}
