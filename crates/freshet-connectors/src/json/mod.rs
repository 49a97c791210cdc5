//! JSON: one object a line (`ndjson`), or objects in an array or one after another (`json`).
//!
//! A scanner finds the fields of each object without building it; every byte is checked, and only
//! the fields of declared or asked columns are read.

mod decoder;
mod fields;
mod layout;
mod parse;
mod skip;

use std::sync::Arc;

use freshet_core::contract::Contract;
use freshet_core::error::Result;
use freshet_core::format::{FileHead, TextFormat, TextLayout};
use freshet_core::registry::{ConnectorInfo, Role};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::formats::{Format, FormatReader};
use crate::options;
use crate::values::ValueFormats;
use fields::Names;
use layout::JsonLayout;

/// Options of the formats `ndjson` and `json`.
///
/// A column takes the field of its name. Text takes numbers and booleans as they are written and
/// objects and arrays as JSON; other types take their value as a JSON value or as a string.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JsonOptions {
    /// Strings that mean null, beside `null` itself. Default: none.
    pub null_values: Vec<String>,
    /// `strftime` pattern of dates, unless a column has one of its own. Default: ISO 8601.
    pub date_format: Option<String>,
    /// `strftime` pattern of timestamps, unless a column has one of its own. Default: ISO 8601.
    pub timestamp_format: Option<String>,
    /// `strftime` pattern of times of day, unless a column has one of its own. Default: ISO 8601.
    pub time_format: Option<String>,
    /// Whether the `source_name` of a column is a path: `bid.price` is the field `price` of the
    /// object `bid`, and `person.at | bid.at` whichever of the two is there and not null. Null where
    /// the object is. Default: false, a field's name is taken as it is.
    pub paths: bool,
}

impl JsonOptions {
    fn names(&self) -> Names {
        if self.paths { Names::Paths } else { Names::Fields }
    }

    fn value_formats(&self) -> ValueFormats {
        ValueFormats {
            null_values: self.null_values.clone(),
            date_format: self.date_format.clone(),
            timestamp_format: self.timestamp_format.clone(),
            time_format: self.time_format.clone(),
            ..ValueFormats::default()
        }
    }
}

/// How objects stand in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One a line.
    Lines,
    /// In an array, or one after another.
    Elements,
}

/// The formats `ndjson` and `json`.
#[derive(Debug, Clone)]
pub struct JsonFormat {
    options: JsonOptions,
    shape: Shape,
}

impl JsonFormat {
    /// The format of this shape.
    pub fn new(options: JsonOptions, shape: Shape) -> Result<Self> {
        // Formats of values are checked with a column of each type that has one.
        use freshet_core::{ColumnType, ContractColumn};
        for data_type in [ColumnType::Date, ColumnType::Time, ColumnType::Timestamp] {
            let column = ContractColumn::new(data_type.to_string(), data_type);
            crate::values::Rules::compile(&column, &options.value_formats())?;
        }
        Ok(Self { options, shape })
    }
}

impl TextFormat for JsonFormat {
    fn layout(&self, head: FileHead<'_>, contract: &Arc<Contract>) -> Result<Arc<dyn TextLayout>> {
        let formats = self.options.value_formats();
        Ok(Arc::new(JsonLayout::new(self.shape, self.options.names(), formats, head, contract)?))
    }

    fn splittable(&self) -> bool {
        self.shape == Shape::Lines
    }
}

/// `ndjson` or `json` in the listing.
#[derive(Debug)]
pub struct Json(pub Shape);

impl Format for Json {
    fn info(&self) -> ConnectorInfo {
        let (name, summary) = match self.0 {
            Shape::Lines => ("ndjson", "JSON, one object a line"),
            Shape::Elements => ("json", "JSON, objects in an array or one after another"),
        };
        ConnectorInfo {
            name,
            roles: &[Role::Format],
            summary,
            guarantee: None,
            options: schemars::schema_for!(JsonOptions),
        }
    }

    fn extensions(&self) -> &'static [&'static str] {
        match self.0 {
            Shape::Lines => &["ndjson", "jsonl", "jsonlines"],
            Shape::Elements => &["json"],
        }
    }

    fn open(&self, options: &Value, _extension: Option<&str>) -> Result<FormatReader> {
        let options: JsonOptions = options::parse(options, "format_options")?;
        Ok(FormatReader::Text(Arc::new(JsonFormat::new(options, self.0)?)))
    }
}

#[cfg(test)]
mod tests;
