//! Rows to messages of Avro.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow_avro::schema::{
    AVRO_FIELD_DEFAULT_METADATA_KEY, AVRO_NAME_METADATA_KEY, AVRO_NAMESPACE_METADATA_KEY,
    AvroSchema, Fingerprint, FingerprintAlgorithm, FingerprintStrategy, SCHEMA_METADATA_KEY,
};
use arrow_avro::writer::format::{AvroBinaryFormat, AvroSoeFormat};
use arrow_avro::writer::{EncodedRows, Encoder, WriterBuilder};
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::registry::ConnectorContext;

use super::{AvroOptions, Framing};

/// Encodes rows of one schema.
#[derive(Debug)]
pub struct AvroEncoder {
    encoder: Encoder,
    columns: SchemaRef,
}

/// Columns and the schema that messages of them have.
#[derive(Debug, Clone)]
pub struct WrittenSchema {
    columns: SchemaRef,
    /// The schema, as JSON.
    pub json: Arc<str>,
}

impl WrittenSchema {
    /// The schema of rows with these columns: the options', or one that is made of the columns, in
    /// which those that may be null are null by default, so that later schemas may leave them out.
    pub fn of(columns: &Schema, options: &AvroOptions, context: &ConnectorContext) -> Result<Self> {
        let given = options.schemas(context)?;
        let given = match given.as_slice() {
            [] => None,
            [one] => Some(one),
            _ => {
                return Err(Error::new(
                    code::CONFIG,
                    "messages are written with one schema of Avro",
                ));
            }
        };
        let (namespace, name) = match options.record_name.rsplit_once('.') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, options.record_name.as_str()),
        };
        let mut metadata = HashMap::from([(AVRO_NAME_METADATA_KEY.to_owned(), name.to_owned())]);
        if let Some(namespace) = namespace {
            metadata.insert(AVRO_NAMESPACE_METADATA_KEY.to_owned(), namespace.to_owned());
        }
        if let Some(given) = given {
            metadata.insert(SCHEMA_METADATA_KEY.to_owned(), given.clone());
        }
        let mut fields = Vec::with_capacity(columns.fields().len());
        for field in columns.fields() {
            if !is_name(field.name()) {
                return Err(Error::new(
                    code::CONFIG,
                    format!("column \"{}\" cannot be a field of Avro", field.name()),
                )
                .hint("names are letters, digits and underscores, a digit not first: rename it"));
            }
            let mut of_field = HashMap::new();
            if field.is_nullable() && given.is_none() {
                of_field.insert(AVRO_FIELD_DEFAULT_METADATA_KEY.to_owned(), "null".to_owned());
            }
            fields.push(Arc::new(Field::clone(field).with_metadata(of_field)) as Arc<Field>);
        }
        let columns = Arc::new(Schema::new_with_metadata(fields, metadata));
        let schema = AvroSchema::try_from(&*columns)
            .or_code(code::CONFIG, || "these columns have no schema of Avro".to_owned())?;
        Ok(Self { columns, json: schema.json_string.into() })
    }
}

/// Whether Avro can have a field of this name.
fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl AvroEncoder {
    /// An encoder of rows of `schema`, whose number is `id` where a registry gave it one.
    pub fn new(schema: &WrittenSchema, framing: Framing, id: u32) -> Result<Self> {
        let builder = WriterBuilder::new(Schema::clone(&schema.columns));
        let encoder = match framing {
            Framing::Plain => builder.build_encoder::<AvroBinaryFormat>(),
            Framing::SingleObject => builder
                .with_fingerprint_strategy(FingerprintStrategy::Rabin)
                .build_encoder::<AvroSoeFormat>(),
            Framing::Confluent => builder
                .with_fingerprint_strategy(FingerprintStrategy::Id(id))
                .build_encoder::<AvroSoeFormat>(),
        };
        let encoder = encoder.map_err(|error| {
            Error::new(code::CONFIG, "rows cannot be written as Avro").caused_by(error)
        })?;
        Ok(Self { encoder, columns: Arc::clone(&schema.columns) })
    }

    /// The message of each row.
    pub fn encode(&mut self, batch: &RecordBatch) -> Result<EncodedRows> {
        let failure = || "rows could not be written as Avro".to_owned();
        // Text and bytes come in several layouts.
        let columns = batch.columns().iter().zip(self.columns.fields());
        let columns = columns.map(|(array, field)| cast(array, field.data_type()));
        let columns = columns.collect::<std::result::Result<Vec<_>, _>>();
        let batch = columns
            .and_then(|columns| RecordBatch::try_new(Arc::clone(&self.columns), columns))
            .or_code(code::LOAD, failure)?;
        self.encoder
            .encode(&batch)
            .map_err(|error| Error::new(code::LOAD, failure()).caused_by(error))?;
        Ok(self.encoder.flush())
    }
}

/// The fingerprint of a schema, as messages of single objects have it.
pub fn fingerprint(schema: &str) -> Option<u64> {
    match AvroSchema::new(schema.to_owned()).fingerprint(FingerprintAlgorithm::Rabin) {
        Ok(Fingerprint::Rabin(fingerprint)) => Some(fingerprint),
        _ => None,
    }
}
