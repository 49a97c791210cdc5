//! The format `raw`: a message is the value of the one column.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, RecordBatch, RecordBatchOptions};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use freshet_core::contract::{Contract, ContractColumn};
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::format::{Decoding, Message, MessageDecoder, ReadSpec};
use freshet_core::record::{Decoded, Reject, Rule};
use freshet_core::registry::{ConnectorContext, ConnectorInfo, Role};
use freshet_core::types::ColumnType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::MessageFormat;
use crate::formats::{Format, FormatReader};
use crate::options;
use crate::values::{Column, Rules, ValueFormats};

/// Options of the format `raw`: it has none, the contract's only column says what a message is,
/// `text` or `binary`. Without a contract it is called `value` and is text.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawOptions {}

/// `raw` in the listing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw;

impl Format for Raw {
    fn info(&self) -> ConnectorInfo {
        ConnectorInfo {
            name: "raw",
            roles: &[Role::Format],
            summary: "messages as they are, in one column of text or bytes",
            guarantee: None,
            options: schemars::schema_for!(RawOptions),
        }
    }

    fn extensions(&self) -> &'static [&'static str] {
        &[]
    }

    fn open(&self, options: &Value, _extension: Option<&str>) -> Result<FormatReader> {
        options::parse::<RawOptions>(options, "format_options")?;
        Ok(FormatReader::Messages)
    }

    fn messages(
        &self,
        options: &Value,
        contract: &Arc<Contract>,
        _context: &ConnectorContext,
    ) -> Result<Option<Arc<dyn MessageFormat>>> {
        self.open(options, None)?;
        Ok(Some(Arc::new(RawMessages::new(contract)?)))
    }
}

/// Messages as values of one column.
#[derive(Debug)]
struct RawMessages {
    rules: Arc<Rules>,
    /// The schema of that column.
    schema: SchemaRef,
}

impl RawMessages {
    fn new(contract: &Contract) -> Result<Self> {
        let column = match contract.columns.as_slice() {
            [] => ContractColumn::new("value", ColumnType::Text),
            [column] if matches!(column.data_type, ColumnType::Text | ColumnType::Binary) => {
                column.clone()
            }
            _ => {
                return Err(Error::new(
                    code::CONFIG,
                    "messages of format raw have one column, of type text or binary",
                ));
            }
        };
        let schema = Contract { columns: vec![column.clone()], ..Contract::default() }.schema();
        // An empty message is an empty text, and no text stands for null.
        let formats = ValueFormats { null_values: Vec::new(), ..ValueFormats::default() };
        Ok(Self { rules: Arc::new(Rules::compile(&column, &formats)?), schema })
    }
}

impl MessageFormat for RawMessages {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn decoder(&self, spec: &ReadSpec) -> Result<Box<dyn MessageDecoder>> {
        Ok(Box::new(RawDecoder::new(&self.rules, &self.schema, spec)?))
    }
}

/// Messages to values of one column.
struct RawDecoder {
    rules: Arc<Rules>,
    /// The column where it is text; bytes are taken as they are.
    text: Option<Box<dyn Column>>,
    /// How often the column is given.
    copies: usize,
    output: SchemaRef,
    spec: ReadSpec,
}

impl RawDecoder {
    fn new(rules: &Arc<Rules>, schema: &SchemaRef, spec: &ReadSpec) -> Result<Self> {
        let output = schema
            .project(&spec.projection)
            .or_code(code::INTERNAL, || "a projection has no such column".to_owned())?;
        let copies = spec.projection.len();
        let is_text = rules.declared().data_type == ColumnType::Text;
        Ok(Self {
            text: is_text.then(|| rules.column(copies > 0)),
            rules: Arc::clone(rules),
            copies,
            output: Arc::new(output),
            spec: spec.clone(),
        })
    }

    fn check(&mut self, message: &[u8]) -> std::result::Result<(), (Rule, Cow<'static, str>)> {
        let Some(column) = &mut self.text else { return Ok(()) };
        if simdutf8::basic::from_utf8(message).is_err() {
            return Err((Rule::Encoding, Cow::Borrowed("the record is not UTF-8")));
        }
        let Err(fault) = column.append(message, 0, message.len(), true) else { return Ok(()) };
        if self.copies > 0 {
            let held = column.len() - 1;
            column.remove(held, &[0]);
        }
        Err((fault.rule(), self.rules.message(fault, message)))
    }
}

impl MessageDecoder for RawDecoder {
    fn decode(
        &mut self,
        bytes: &Bytes,
        messages: &[Message],
        out: &mut Decoded,
    ) -> Result<Decoding> {
        for messages in messages.chunks(self.spec.batch_rows.max(1)) {
            let mut good = Vec::with_capacity(messages.len());
            let mut binary = BinaryBuilder::new();
            for message in messages {
                let value = message.of(bytes);
                out.records += 1;
                out.lines += 1;
                if value.len() > self.spec.max_record_bytes {
                    let limit = self.spec.max_record_bytes;
                    out.rejects.push(Reject::too_large(message.position, 1, limit, value));
                    continue;
                }
                match self.check(value) {
                    Ok(()) => {
                        good.push(i64::try_from(message.position).unwrap_or(i64::MAX));
                        if self.text.is_none() && self.copies > 0 {
                            binary.append_value(value);
                        }
                    }
                    Err((rule, why)) => out.rejects.push(Reject {
                        offset: message.position,
                        line: 1,
                        rule,
                        column: (rule != Rule::Encoding).then(|| self.rules.name().to_owned()),
                        message: why,
                        raw: value.into(),
                    }),
                }
            }
            if good.is_empty() {
                continue;
            }
            out.good += good.len() as u64;
            let options = RecordBatchOptions::new().with_row_count(Some(good.len()));
            let columns: Vec<ArrayRef> = match (&mut self.text, self.copies) {
                (_, 0) => Vec::new(),
                (Some(text), copies) => vec![text.finish(); copies],
                (None, copies) => vec![Arc::new(binary.finish()) as ArrayRef; copies],
            };
            let batch =
                RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)
                    .or_code(code::INTERNAL, || "columns of a batch differ".to_owned())?;
            out.batches.push(batch);
            if self.spec.offsets {
                out.offsets.push(ScalarBuffer::from(good));
            }
        }
        Ok(Decoding::Done)
    }
}
