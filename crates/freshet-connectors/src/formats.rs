//! What a format is to whoever reads files: text in records, or blocks that are read by place.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use freshet_core::Contract;
use freshet_core::contract::SchemaDiff;
use freshet_core::error::{Error, Result, code};
use freshet_core::format::{ReadSpec, TextFormat, TextLayout};
use freshet_core::record::Decoded;
use freshet_core::registry::{Connector, ConnectorContext, ConnectorInfo, Role};
use serde_json::Value;

use crate::csv::{CsvFormat, CsvOptions};
use crate::files::Blob;
use crate::messages::MessageFormat;
use crate::options;

/// A format by its name in `format:`.
pub trait Format: Debug + Send + Sync {
    /// Name, summary, options.
    fn info(&self) -> ConnectorInfo;

    /// Endings of file names that mean this format, without the dot, in lower case.
    fn extensions(&self) -> &'static [&'static str];

    /// A reader with `options`; `extension` is that of the files, where they have one.
    fn open(&self, options: &Value, extension: Option<&str>) -> Result<FormatReader>;

    /// A format of messages, where they are more than records of a file: `None` where they are not.
    fn messages(
        &self,
        _options: &Value,
        _contract: &Arc<Contract>,
        _context: &ConnectorContext,
    ) -> Result<Option<Arc<dyn MessageFormat>>> {
        Ok(None)
    }
}

/// How files of a format are read.
#[derive(Debug, Clone)]
pub enum FormatReader {
    /// In chunks of text.
    Text(Arc<dyn TextFormat>),
    /// In blocks that an index at a known place tells.
    Blocks(Arc<dyn BlockFormat>),
    /// Not at all: it is one of messages.
    Messages,
}

/// A format whose files have an index of blocks.
#[async_trait]
pub trait BlockFormat: Debug + Send + Sync {
    /// What is known of one file from its index. `file` is its name, for messages.
    async fn layout(
        &self,
        blob: &Arc<dyn Blob>,
        file: &str,
        contract: &Arc<Contract>,
    ) -> Result<Arc<dyn BlockLayout>>;
}

/// What is known of one file of a [`BlockFormat`].
#[async_trait]
pub trait BlockLayout: Debug + Send + Sync {
    /// The columns that the file can give: the contract's, then new ones with the file's types.
    fn schema(&self) -> SchemaRef;

    /// What differs from the contract.
    fn diff(&self) -> Option<SchemaDiff>;

    /// The number of blocks.
    fn blocks(&self) -> usize;

    /// The number of records in all blocks, as the file says.
    fn records(&self) -> u64;

    /// Reads one block, giving the columns `spec.projection` of `schema`.
    async fn open(
        &self,
        blob: &Arc<dyn Blob>,
        block: usize,
        schema: &SchemaRef,
        spec: &ReadSpec,
    ) -> Result<Box<dyn BlockReader>>;

    /// The text in which a corrected record of such a file is written.
    fn corrections(&self) -> Result<Arc<dyn TextLayout>>;
}

/// Reads one block of a file.
#[async_trait]
pub trait BlockReader: Send {
    /// Appends the next records to `out`; `false` where there are none.
    async fn next(&mut self, out: &mut Decoded) -> Result<bool>;
}

/// The format of `formats` called `name`, or else the one that `path` ends with.
pub fn choose<'a>(
    formats: &'a [Arc<dyn Format>],
    name: Option<&str>,
    path: &str,
) -> Result<(&'a Arc<dyn Format>, Option<String>)> {
    let extension = extension(path);
    if let Some(name) = name {
        let found = formats.iter().find(|format| format.info().name == name);
        return found.map(|format| (format, extension)).ok_or_else(|| {
            let names: Vec<_> = formats.iter().map(|format| format.info().name).collect();
            let error = Error::new(code::CONFIG, format!("there is no format \"{name}\""));
            match freshet_core::config::nearest(name, names.iter().copied()) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint(format!("formats are {}", names.join(", "))),
            }
        });
    }
    let found = extension.as_deref().and_then(|extension| {
        formats.iter().find(|format| format.extensions().contains(&extension))
    });
    found.map(|format| (format, extension.clone())).ok_or_else(|| {
        let names: Vec<_> = formats.iter().map(|format| format.info().name).collect();
        Error::new(code::CONFIG, format!("the path \"{path}\" does not tell the files' format"))
            .hint(format!("set `format` to one of {}", names.join(", ")))
    })
}

/// The ending of a file's name in lower case, that of a compression left out.
pub fn extension(path: &str) -> Option<String> {
    let name = path.rsplit('/').next()?.to_ascii_lowercase();
    let mut name = name.as_str();
    for compressed in [".gz", ".gzip", ".zst", ".zstd"] {
        name = name.strip_suffix(compressed).unwrap_or(name);
    }
    let (_, extension) = name.rsplit_once('.')?;
    extension.chars().all(|c| c.is_ascii_alphanumeric()).then(|| extension.to_owned())
}

/// A format in the listing of connectors.
#[derive(Debug)]
pub struct FormatConnector(pub Arc<dyn Format>);

impl Connector for FormatConnector {
    fn info(&self) -> ConnectorInfo {
        self.0.info()
    }

    fn validate(&self, options: &Value) -> Result<()> {
        self.0.open(options, None).map(|_| ())
    }
}

/// `csv` in the listing.
#[derive(Debug)]
pub struct Csv;

impl Format for Csv {
    fn info(&self) -> ConnectorInfo {
        ConnectorInfo {
            name: "csv",
            roles: &[Role::Format],
            summary: "text in columns, with commas or another character between them",
            guarantee: None,
            options: schemars::schema_for!(CsvOptions),
        }
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["csv", "tsv", "tab", "txt", "psv"]
    }

    fn open(&self, options: &Value, extension: Option<&str>) -> Result<FormatReader> {
        let mut read: CsvOptions = options::parse(options, "format_options")?;
        if options.get("delimiter").is_none() {
            read.delimiter = match extension {
                Some("tsv" | "tab") => '\t',
                Some("psv") => '|',
                _ => read.delimiter,
            };
        }
        Ok(FormatReader::Text(Arc::new(CsvFormat::new(read)?)))
    }
}
