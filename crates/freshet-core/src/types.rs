//! The types that a contract may declare, and their Arrow types.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A column's declared type. Names follow SQL; the usual synonyms are read too.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// `boolean`
    Boolean,
    /// `tinyint`: 8 bits, signed
    Int8,
    /// `smallint`: 16 bits, signed
    Int16,
    /// `int`: 32 bits, signed
    Int32,
    /// `bigint`: 64 bits, signed
    Int64,
    /// `real`: IEEE 754, 32 bits
    Float32,
    /// `double`: IEEE 754, 64 bits
    Float64,
    /// `decimal(precision, scale)`: exact, up to 38 digits
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits after the point, 0 to `precision`.
        scale: u8,
    },
    /// `text`: UTF-8
    Text,
    /// `date`: days
    Date,
    /// `time`: microseconds of a day
    Time,
    /// `timestamp`: microseconds, no zone
    Timestamp,
    /// `timestamptz`: microseconds in UTC
    TimestampTz,
    /// `binary`
    Binary,
}

impl ColumnType {
    /// Types that hold every value of this one and more, narrowest first.
    pub fn wider(&self) -> Vec<Self> {
        let exact = |scale| Self::Decimal { precision: 38, scale };
        let integers = [Self::Int16, Self::Int32, Self::Int64, exact(9)];
        let mut wider = match self {
            Self::Int8 => integers.to_vec(),
            Self::Int16 => integers[1..].to_vec(),
            Self::Int32 => integers[2..].to_vec(),
            Self::Int64 => integers[3..].to_vec(),
            Self::Float32 => vec![Self::Float64],
            Self::Decimal { scale, .. } => vec![exact(*scale), exact((*scale).max(9))],
            Self::Date => vec![Self::Timestamp],
            _ => Vec::new(),
        };
        wider.retain(|data_type| data_type != self);
        if *self != Self::Text {
            wider.push(Self::Text);
        }
        wider
    }

    /// Orders the types that one column may be widened to: the greater holds more.
    pub(crate) fn reach(&self) -> (u8, u8) {
        match self {
            Self::Text => (5, 0),
            Self::Decimal { scale, .. } => (4, *scale),
            Self::Int64 | Self::Float64 | Self::Timestamp => (3, 0),
            Self::Int32 => (2, 0),
            Self::Int16 => (1, 0),
            _ => (0, 0),
        }
    }

    /// The Arrow type in which columns of this type are held.
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Int8 => DataType::Int8,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal { precision, scale } => {
                DataType::Decimal128(*precision, i8::try_from(*scale).expect("scale is at most 38"))
            }
            Self::Text => DataType::Utf8View,
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC"))),
            Self::Binary => DataType::Binary,
        }
    }
}

impl FromStr for ColumnType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let (name, arguments) = match lower.split_once('(') {
            Some((name, rest)) => {
                let inner = rest
                    .strip_suffix(')')
                    .ok_or_else(|| format!("\"{text}\" is not a type: a bracket is not closed"))?;
                let numbers = inner
                    .split(',')
                    .map(|n| n.trim().parse::<u8>())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|_| {
                        format!("\"{text}\" is not a type: digits were expected in brackets")
                    })?;
                (name.trim(), numbers)
            }
            None => (lower.as_str(), Vec::new()),
        };
        Ok(match name {
            "boolean" | "bool" => Self::Boolean,
            "tinyint" | "int1" | "int8_t" => Self::Int8,
            "smallint" | "int2" => Self::Int16,
            "int" | "integer" | "int4" => Self::Int32,
            "bigint" | "long" | "int8" | "int64" => Self::Int64,
            "real" | "float4" | "float32" => Self::Float32,
            "double" | "float" | "double precision" | "float8" | "float64" => Self::Float64,
            "decimal" | "numeric" | "number" => {
                let precision = arguments.first().copied().unwrap_or(38);
                let scale =
                    arguments.get(1).copied().unwrap_or(if arguments.is_empty() { 9 } else { 0 });
                if precision == 0 || precision > 38 || scale > precision {
                    return Err(format!(
                        "\"{text}\" is not a type: a decimal has 1 to 38 digits, of which at most all are after the point"
                    ));
                }
                Self::Decimal { precision, scale }
            }
            "text" | "string" | "varchar" | "char" | "character varying" => Self::Text,
            "date" => Self::Date,
            "time" => Self::Time,
            "timestamp" | "datetime" | "timestamp without time zone" | "timestamp_ntz" => {
                Self::Timestamp
            }
            "timestamptz" | "timestamp with time zone" | "timestamp_tz" => Self::TimestampTz,
            "binary" | "bytea" | "blob" | "bytes" => Self::Binary,
            _ => {
                let names = [
                    "boolean",
                    "tinyint",
                    "smallint",
                    "int",
                    "bigint",
                    "real",
                    "double",
                    "decimal",
                    "text",
                    "date",
                    "time",
                    "timestamp",
                    "timestamptz",
                    "binary",
                ];
                return Err(match crate::config::nearest(name, names) {
                    Some(near) => format!("\"{text}\" is not a type; did you mean \"{near}\"?"),
                    None => format!("\"{text}\" is not a type; types are {}", names.join(", ")),
                });
            }
        })
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "boolean",
            Self::Int8 => "tinyint",
            Self::Int16 => "smallint",
            Self::Int32 => "int",
            Self::Int64 => "bigint",
            Self::Float32 => "real",
            Self::Float64 => "double",
            Self::Decimal { precision, scale } => return write!(f, "decimal({precision},{scale})"),
            Self::Text => "text",
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
            Self::TimestampTz => "timestamptz",
            Self::Binary => "binary",
        })
    }
}

impl Serialize for ColumnType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ColumnType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for ColumnType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ColumnType".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "a type: boolean, tinyint, smallint, int, bigint, real, double, decimal(p,s), text, date, time, timestamp, timestamptz, binary",
            "examples": ["decimal(12,2)"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_as_they_print() {
        for text in
            ["boolean", "bigint", "decimal(12,2)", "text", "date", "timestamp", "timestamptz"]
        {
            assert_eq!(text.parse::<ColumnType>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn wrong_types_name_the_nearest() {
        let message = "bigit".parse::<ColumnType>().expect_err("no such type");
        assert!(message.contains("bigint"), "{message}");
        assert!("decimal(39,2)".parse::<ColumnType>().is_err());
        assert!("decimal(5".parse::<ColumnType>().is_err());
    }
}
