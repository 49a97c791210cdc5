//! Formats of messages: records that come each by itself, as logs and topics have them.
//!
//! What a text means is decided by the decoders of files (`text`); other formats decode messages
//! themselves ([`raw`], [`crate::avro`]). Nothing here knows where messages come from.

mod judge;
pub mod raw;
mod text;

use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use freshet_core::contract::Contract;
use freshet_core::error::{Error, Result, code};
use freshet_core::format::{MessageDecoder, ReadSpec};
use freshet_core::registry::ConnectorContext;
use freshet_core::stream::Wait;
use serde_json::{Map, Value};

use crate::formats::{Format, FormatReader};
pub use judge::Judge;

/// A format of messages, with its contract.
pub trait MessageFormat: Debug + Send + Sync {
    /// The contract's columns.
    fn schema(&self) -> SchemaRef;

    /// A decoder that gives the columns `spec.projection` of the schema.
    fn decoder(&self, spec: &ReadSpec) -> Result<Box<dyn MessageDecoder>>;

    /// What its decoders wait for.
    fn waits(&self) -> Vec<Wait> {
        Vec::new()
    }
}

/// The format called `name`, one of `formats`, for messages of `contract`.
pub fn open(
    formats: &[Arc<dyn Format>],
    name: &str,
    options: &Value,
    contract: &Arc<Contract>,
    context: &ConnectorContext,
) -> Result<Arc<dyn MessageFormat>> {
    // A message is an object, whichever way a file would hold many.
    let name = if name == "json" { "ndjson" } else { name };
    let (format, _) = crate::formats::choose(formats, Some(name), "")?;
    if let Some(format) = format.messages(options, contract, context)? {
        return Ok(format);
    }
    let mut options = match options {
        Value::Null => Map::new(),
        Value::Object(options) => options.clone(),
        _ => return Err(Error::new(code::CONFIG, "option \"format_options\" is no object")),
    };
    if name == "csv" {
        if options.get("header").is_some_and(|header| header != &Value::Bool(false)) {
            return Err(Error::new(code::CONFIG, "messages of CSV have no header")
                .hint("leave out `header`: the columns are those of the contract, in its order"));
        }
        options.insert("header".to_owned(), Value::Bool(false));
    }
    match format.open(&Value::Object(options), None)? {
        FormatReader::Text(_) if contract.columns.is_empty() => {
            Err(Error::new(code::CONFIG, "the columns of messages have to be declared")
                .hint("declare them under `columns` of the source"))
        }
        FormatReader::Text(format) => {
            Ok(Arc::new(text::TextMessages::new(&format, name, contract)?))
        }
        FormatReader::Blocks(_) | FormatReader::Messages => {
            Err(Error::new(code::CONFIG, format!("format {name} is not for messages"))
                .hint("it is one of whole files: use ndjson, csv, avro or raw"))
        }
    }
}
