//! The format `avro`: messages of Apache Avro, each with or without a word on its schema.
//!
//! - `registry`: a client of a schema registry, and the schemas that it gave.
//! - `writer`: a schema that messages were written with, bound to the contract.
//! - `decoder`: messages to rows.
//! - `encoder`: rows to messages.
//!
//! The bytes are read and written by `arrow-avro`. It gives what the schema of the writer says; the
//! contract decides what becomes of it, as it does with the columns of a Parquet file.

mod decoder;
mod encoder;
mod references;
mod registry;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use freshet_core::config::{HumanDuration, Secret};
use freshet_core::contract::Contract;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::format::{MessageDecoder, ReadSpec};
use freshet_core::registry::{ConnectorContext, ConnectorInfo, Role};
use freshet_core::stream::Wait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::formats::{Format, FormatReader};
use crate::messages::MessageFormat;
use crate::options;

pub use encoder::{AvroEncoder, WrittenSchema};
pub use registry::{Lookup, SchemaRegistry};

use decoder::AvroDecoder;
use writer::Schemas;

/// Options of the format `avro`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AvroOptions {
    /// How a message says what its schema is: `confluent`, by a zero byte and the number that the
    /// registry has for it; `single_object`, by two bytes and its fingerprint, as Avro's own
    /// encoding of single objects has it; or `plain`, not at all. Default: `confluent` where
    /// `registry` is given, else `plain`.
    pub framing: Option<Framing>,
    /// The schema of the messages, as an object or as text, where there is no registry; with
    /// `single_object` it can be several in a list. A sink writes with this one. Default: none, a
    /// sink makes one of its columns.
    pub schema: Option<Value>,
    /// A file of the schema, relative to the project folder, in place of `schema`. Default: none.
    pub schema_file: Option<PathBuf>,
    /// The address of the schema registry, as Confluent's clients have it. Default: none.
    pub registry: Option<String>,
    /// The user to log in to the registry as. Default: none.
    pub registry_username: Option<String>,
    /// The user's password, by reference: `${env:NAME}` or `${file:/path}`.
    pub registry_password: Option<Secret>,
    /// PEM file of the authorities that may have signed the registry's certificate, beside those
    /// that the system trusts. Default: none.
    pub registry_ca_file: Option<PathBuf>,
    /// How long the registry may take to answer before it is asked again. Default: `10s`.
    pub registry_timeout: HumanDuration,
    /// As a sink: the subject under which the schema is registered. Default: the topic's name and
    /// `-value`.
    pub subject: Option<String>,
    /// As a sink: the full name of the record in the schema that is made of the columns. Default:
    /// `freshet.Row`.
    pub record_name: String,
}

impl Default for AvroOptions {
    fn default() -> Self {
        Self {
            framing: None,
            schema: None,
            schema_file: None,
            registry: None,
            registry_username: None,
            registry_password: None,
            registry_ca_file: None,
            registry_timeout: HumanDuration(Duration::from_secs(10)),
            subject: None,
            record_name: "freshet.Row".to_owned(),
        }
    }
}

/// How a message says what its schema is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// By a zero byte and the number that a registry has for it, of four bytes.
    Confluent,
    /// By two bytes and its fingerprint of eight.
    SingleObject,
    /// Not at all.
    Plain,
}

impl AvroOptions {
    /// Reads the options of a format.
    pub fn read(options: &Value) -> Result<Self> {
        let read: Self = options::parse(options, "format_options")?;
        read.validate()?;
        Ok(read)
    }

    /// How messages say what their schema is.
    pub fn framing(&self) -> Framing {
        self.framing.unwrap_or(match self.registry {
            Some(_) => Framing::Confluent,
            None => Framing::Plain,
        })
    }

    fn validate(&self) -> Result<()> {
        let wrong = |message: &str| Err(Error::new(code::CONFIG, message));
        if self.schema.is_some() && self.schema_file.is_some() {
            return wrong(
                "options \"schema\" and \"schema_file\" of format avro exclude each other",
            );
        }
        if self.framing() == Framing::Confluent && self.registry.is_none() {
            return wrong("format avro with `framing: confluent` needs option \"registry\"");
        }
        if self.registry_timeout.0.is_zero() {
            return wrong("option \"format_options.registry_timeout\" cannot be 0");
        }
        Ok(())
    }

    /// The schemas that the options give, as JSON.
    fn schemas(&self, context: &ConnectorContext) -> Result<Vec<String>> {
        let one = |schema: &Value| match schema {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let value = match (&self.schema, &self.schema_file) {
            (Some(schema), _) => schema.clone(),
            (None, Some(path)) => {
                let path = context.project_dir.join(path);
                let failure = || format!("could not read schema \"{}\"", path.display());
                let text = std::fs::read_to_string(&path).or_code(code::CONFIG, failure)?;
                serde_json::from_str(&text).or_code(code::CONFIG, failure)?
            }
            (None, None) => return Ok(Vec::new()),
        };
        Ok(match (&value, self.framing()) {
            // A list on its own is a union, which is no record.
            (Value::Array(several), Framing::SingleObject) => several.iter().map(one).collect(),
            (schema, _) => vec![one(schema)],
        })
    }
}

/// `avro` in the listing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Avro;

impl Format for Avro {
    fn info(&self) -> ConnectorInfo {
        ConnectorInfo {
            name: "avro",
            roles: &[Role::Format],
            summary: "messages of Apache Avro, with a schema registry or without",
            guarantee: None,
            options: schemars::schema_for!(AvroOptions),
        }
    }

    fn extensions(&self) -> &'static [&'static str] {
        &[]
    }

    fn open(&self, options: &Value, _extension: Option<&str>) -> Result<FormatReader> {
        AvroOptions::read(options)?;
        Ok(FormatReader::Messages)
    }

    fn messages(
        &self,
        options: &Value,
        contract: &Arc<Contract>,
        context: &ConnectorContext,
    ) -> Result<Option<Arc<dyn MessageFormat>>> {
        let options = AvroOptions::read(options)?;
        if contract.columns.is_empty() {
            return Err(Error::new(code::CONFIG, "the columns of messages have to be declared")
                .hint("declare them under `columns` of the source"));
        }
        let schemas = Schemas::new(&options, context)?;
        Ok(Some(Arc::new(AvroMessages { schemas, contract: Arc::clone(contract) })))
    }
}

/// Messages of Avro, with their contract.
#[derive(Debug)]
struct AvroMessages {
    schemas: Schemas,
    contract: Arc<Contract>,
}

impl MessageFormat for AvroMessages {
    fn schema(&self) -> SchemaRef {
        self.contract.schema()
    }

    fn decoder(&self, spec: &ReadSpec) -> Result<Box<dyn MessageDecoder>> {
        Ok(Box::new(AvroDecoder::new(self.schemas.clone(), &self.contract, spec)?))
    }

    fn waits(&self) -> Vec<Wait> {
        self.schemas.waits()
    }
}

#[cfg(test)]
mod tests;
