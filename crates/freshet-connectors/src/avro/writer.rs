//! The schemas that messages were written with, and what a contract reads of each.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{
    AvroSchema, CONFLUENT_MAGIC, Fingerprint, FingerprintAlgorithm, SINGLE_OBJECT_MAGIC,
    SchemaStore,
};
use freshet_core::contract::{Contract, ContractMode};
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::record::Rule;
use freshet_core::registry::ConnectorContext;
use freshet_core::stream::Wait;
use serde_json::Value;
use tokio::runtime::Handle;

use super::encoder::fingerprint;
use super::registry::{Lookup, SchemaRegistry};
use super::{AvroOptions, Framing};
use crate::values::convert::Refusal;

/// Where schemas of messages come from.
#[derive(Debug, Clone)]
pub(super) enum Schemas {
    /// All messages have this one and do not say so.
    Plain(Arc<str>),
    /// By their fingerprints.
    Fingerprints(Arc<HashMap<u64, Arc<str>>>),
    /// From a registry, by their numbers.
    Registry(Arc<SchemaRegistry>),
}

/// What a message says its schema is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum SchemaId {
    /// Nothing.
    Only,
    /// This fingerprint.
    Fingerprint(u64),
    /// This number.
    Number(u32),
}

impl Schemas {
    /// Those that the options name.
    pub fn new(options: &AvroOptions, context: &ConnectorContext) -> Result<Self> {
        let given = options.schemas(context)?;
        for schema in &given {
            let parsed = AvroSchema::new(schema.clone());
            parsed.fingerprint(FingerprintAlgorithm::Rabin).or_code(code::CONFIG, || {
                "option \"format_options.schema\" is no schema of Avro".to_owned()
            })?;
        }
        let missing = || {
            Error::new(
                code::CONFIG,
                "format avro needs a schema: it has neither of the options \"schema\", \"schema_file\" and \"registry\"",
            )
        };
        match options.framing() {
            Framing::Plain => match given.as_slice() {
                [schema] => Ok(Self::Plain(schema.as_str().into())),
                _ => Err(missing()),
            },
            Framing::SingleObject => {
                let mut schemas = HashMap::new();
                for schema in given {
                    if let Some(fingerprint) = fingerprint(&schema) {
                        schemas.insert(fingerprint, Arc::from(schema));
                    }
                }
                if schemas.is_empty() {
                    return Err(missing());
                }
                Ok(Self::Fingerprints(Arc::new(schemas)))
            }
            Framing::Confluent => {
                let clock = Arc::clone(&context.clock);
                let registry = SchemaRegistry::new(options, &context.project_dir, clock)?;
                Ok(Self::Registry(registry.ok_or_else(missing)?))
            }
        }
    }

    /// What `message` says its schema is, and where its record begins.
    pub fn frame(&self, message: &[u8]) -> Result<(SchemaId, usize), &'static str> {
        match self {
            Self::Plain(_) => Ok((SchemaId::Only, 0)),
            Self::Fingerprints(_) => {
                let rest = message.strip_prefix(&SINGLE_OBJECT_MAGIC);
                let fingerprint = rest.and_then(|rest| rest.first_chunk::<8>());
                let fingerprint =
                    fingerprint.ok_or("it does not begin as a single object of Avro does")?;
                let begin = SINGLE_OBJECT_MAGIC.len() + fingerprint.len();
                Ok((SchemaId::Fingerprint(u64::from_le_bytes(*fingerprint)), begin))
            }
            Self::Registry(_) => {
                let rest = message.strip_prefix(&CONFLUENT_MAGIC);
                let number = rest.and_then(|rest| rest.first_chunk::<4>());
                let number = number
                    .ok_or("it does not begin with a zero byte and the number of a schema")?;
                let begin = CONFLUENT_MAGIC.len() + number.len();
                Ok((SchemaId::Number(u32::from_be_bytes(*number)), begin))
            }
        }
    }

    /// The schema itself.
    pub fn find(&self, id: SchemaId, runtime: Option<&Handle>) -> Result<Lookup> {
        Ok(match (self, id) {
            (Self::Plain(schema), _) => Lookup::Known(Arc::clone(schema)),
            (Self::Fingerprints(schemas), SchemaId::Fingerprint(fingerprint)) => {
                match schemas.get(&fingerprint) {
                    Some(schema) => Lookup::Known(Arc::clone(schema)),
                    None => Lookup::Denied(
                        format!("no schema has the fingerprint {fingerprint:016x}").into(),
                    ),
                }
            }
            (Self::Registry(registry), SchemaId::Number(number)) => {
                let runtime = runtime.ok_or_else(|| {
                    Error::internal("schemas of a registry are fetched, and nothing can do so here")
                })?;
                registry.schema(number, runtime)
            }
            _ => return Err(Error::internal("a message's schema is named in another way")),
        })
    }

    /// What is waited for.
    pub fn waits(&self) -> Vec<Wait> {
        match self {
            Self::Registry(registry) => registry.waits(),
            Self::Plain(_) | Self::Fingerprints(_) => Vec::new(),
        }
    }
}

/// What stands in front of each record as the library is given it: all of one decoder have one schema.
const PREFIX: [u8; 5] = [CONFLUENT_MAGIC[0], 0, 0, 0, 0];

/// A schema that messages were written with, as a contract reads it.
#[derive(Debug)]
pub(super) struct Writer {
    store: SchemaStore,
    /// The places of the fields that are read.
    projection: Vec<usize>,
    /// For each column of the contract its place among those.
    pub columns: Vec<Option<usize>>,
    /// Why all of its records are dead letters, if they are.
    pub condemned: Option<Refusal>,
    decoder: Decoder,
    batch_rows: usize,
}

/// What is wrong with some records.
#[derive(Debug)]
pub(super) enum Broken {
    /// This one is, and those before it are not known to be.
    At(usize, String),
    /// One of them or more.
    Some(String),
}

impl Writer {
    /// Binds `schema` to `contract`; a text says why records of it cannot be read.
    pub fn new(
        schema: &str,
        contract: &Contract,
        batch_rows: usize,
    ) -> Result<std::result::Result<Self, String>> {
        let fields = match field_names(schema) {
            Ok(fields) => fields,
            Err(why) => return Ok(Err(why)),
        };
        let mut projection = Vec::new();
        let mut columns = Vec::new();
        let mut condemned = None;
        let modes = contract.modes;
        for column in &contract.columns {
            let name = column.name_in_data();
            let place = fields.iter().position(|field| field == name);
            columns.push(place.map(|place| {
                projection.push(place);
                projection.len() - 1
            }));
            if place.is_some() {
                continue;
            }
            if modes.missing_columns == ContractMode::Freeze {
                return Err(frozen(format!("the schema has no field \"{name}\"")));
            }
            if !column.nullable || modes.missing_columns == ContractMode::DiscardRow {
                condemned.get_or_insert(Refusal {
                    rule: Rule::MissingColumn,
                    column: column.name.clone(),
                    message: Cow::Owned(format!("the schema has no field \"{name}\"")),
                });
            }
        }
        let known = |field: &String| contract.columns.iter().any(|c| c.name_in_data() == field);
        if let Some(new) = fields.iter().find(|field| !known(field)) {
            let message = format!("the contract does not declare the field \"{new}\"");
            match modes.new_columns {
                ContractMode::Evolve | ContractMode::DiscardValue => {}
                ContractMode::DiscardRow => {
                    condemned.get_or_insert(Refusal {
                        rule: Rule::NewColumn,
                        column: new.clone(),
                        message: Cow::Owned(message),
                    });
                }
                ContractMode::Freeze => return Err(frozen(message)),
            }
        }
        // Two columns may read one field.
        let mut unique = projection.clone();
        unique.sort_unstable();
        unique.dedup();
        for column in columns.iter_mut().flatten() {
            *column = unique.binary_search(&projection[*column]).unwrap_or(0);
        }
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        let schema = AvroSchema::new(schema.to_owned());
        if let Err(error) = store.set(Fingerprint::Id(0), schema) {
            return Ok(Err(error.to_string()));
        }
        let decoder = match build(&store, &unique, batch_rows) {
            Ok(decoder) => decoder,
            Err(why) => return Ok(Err(why)),
        };
        Ok(Ok(Self { store, projection: unique, columns, condemned, decoder, batch_rows }))
    }

    /// Decodes records, `batch_rows` at most; on failure none is.
    pub fn decode<'a>(
        &mut self,
        records: impl Iterator<Item = &'a [u8]>,
    ) -> Result<std::result::Result<RecordBatch, Broken>> {
        let mut broken = None;
        for (index, record) in records.enumerate() {
            if let Err(why) = self.one(record) {
                broken = Some(Broken::At(index, why));
                break;
            }
        }
        let broken = match broken {
            Some(broken) => broken,
            None => match self.decoder.flush() {
                Ok(Some(batch)) => return Ok(Ok(batch)),
                Ok(None) => Broken::Some("there is no record".to_owned()),
                Err(error) => Broken::Some(error.to_string()),
            },
        };
        // It may hold a part of a record.
        self.decoder = build(&self.store, &self.projection, self.batch_rows)
            .map_err(|why| Error::internal("a schema cannot be bound again").caused_by(why))?;
        Ok(Err(broken))
    }

    fn one(&mut self, record: &[u8]) -> std::result::Result<(), String> {
        if record.is_empty() {
            return Err("the message holds no record".to_owned());
        }
        let before = self.decoder.capacity();
        self.decoder.decode(&PREFIX).map_err(|error| error.to_string())?;
        let read = self.decoder.decode(record).map_err(|error| error.to_string())?;
        if self.decoder.capacity() + 1 != before {
            return Err("the message ends within its record".to_owned());
        }
        if read != record.len() {
            return Err(format!("{} bytes follow the record", record.len() - read));
        }
        Ok(())
    }
}

fn build(store: &SchemaStore, projection: &[usize], batch_rows: usize) -> Result<Decoder, String> {
    ReaderBuilder::new()
        // One more than ever comes, so that it is never full.
        .with_batch_size(batch_rows + 1)
        // Its views of text forget which are null.
        .with_utf8_view(false)
        .with_writer_schema_store(store.clone())
        .with_projection(projection.to_vec())
        .build_decoder()
        .map_err(|error| error.to_string())
}

/// The names of a record's fields.
fn field_names(schema: &str) -> Result<Vec<String>, String> {
    let schema: Value =
        serde_json::from_str(schema).map_err(|error| format!("the schema is no JSON: {error}"))?;
    let fields = schema.get("fields").and_then(Value::as_array);
    let (Some("record"), Some(fields)) = (schema.get("type").and_then(Value::as_str), fields)
    else {
        return Err("the schema is not that of a record".to_owned());
    };
    let name = |field: &Value| field.get("name").and_then(Value::as_str).map(str::to_owned);
    let names: Option<Vec<_>> = fields.iter().map(name).collect();
    names.ok_or_else(|| "a field of the schema has no name".to_owned())
}

fn frozen(message: String) -> Error {
    Error::new(code::HEADER, message)
        .hint("change the contract, or set its modes to evolve or discard_value")
}
