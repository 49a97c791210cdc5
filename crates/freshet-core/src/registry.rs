//! The registry of connectors. Only the binary knows who fills it.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::config::{HumanDuration, Share, nearest};
use crate::contract::Contract;
use crate::error::{Error, Result, code};
use crate::ingest::Ingest;
use crate::sink::{Guarantee, Sink};
use crate::source::Source;
use crate::stream::{StreamSink, StreamSource};

/// What a connector can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is read.
    Source,
    /// It is read without an end.
    Stream,
    /// Records are pushed to it.
    Ingest,
    /// It is written.
    Sink,
    /// It is written without an end.
    StreamSink,
    /// It turns bytes into records.
    Format,
}

/// A connector or format as users see it: listing, docs and schema come from here.
#[derive(Debug, Clone)]
pub struct ConnectorInfo {
    /// The name in `connector:` or `format:`.
    pub name: &'static str,
    /// What it can be used for.
    pub roles: &'static [Role],
    /// One sentence.
    pub summary: &'static str,
    /// What it promises as a sink.
    pub guarantee: Option<Guarantee>,
    /// JSON schema of its options, with a description and default for each.
    pub options: schemars::Schema,
}

/// What every connector is given beside its own options.
#[derive(Debug, Clone)]
pub struct ConnectorContext {
    /// The project folder: relative paths start here.
    pub project_dir: PathBuf,
    /// Options of the named connection in the environment, secrets resolved; empty without one.
    pub connection: serde_json::Map<String, serde_json::Value>,
    /// Now, for `settle`.
    pub clock: Arc<dyn crate::clock::Clock>,
}

/// What a source is asked for beside its options.
#[derive(Debug, Clone)]
pub struct SourceSpec {
    /// `source.table`, for messages.
    pub name: String,
    /// The declared columns and modes.
    pub contract: Arc<Contract>,
    /// The share of bad records from which a file is set aside.
    pub max_bad: Share,
    /// Files younger than this are left for the next run.
    pub settle: HumanDuration,
}

/// What a sink of a stream is asked for beside its options.
#[derive(Debug, Clone)]
pub struct StreamSinkSpec {
    /// Who writes, the same as long as the job is the same: `environment/model`.
    pub writer: String,
    /// The name of what is written, where the options give none: the model's.
    pub table: String,
    /// The columns of the rows.
    pub schema: SchemaRef,
    /// The columns that identify a row, where the model says so.
    pub unique_key: Vec<String>,
}

impl StreamSinkSpec {
    /// An error where the rows have no such column; `option` is what names it.
    pub fn check_column(&self, option: &str, column: &str) -> Result<()> {
        if self.schema.index_of(column).is_ok() {
            return Ok(());
        }
        let names = self.schema.fields().iter().map(|field| field.name().as_str());
        let error = Error::new(
            code::CONFIG,
            format!("the result has no column \"{column}\", which option \"{option}\" names"),
        );
        Err(match nearest(column, names.clone()) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error.hint(format!("columns are {}", names.collect::<Vec<_>>().join(", "))),
        })
    }
}

/// A connector, its option types erased.
///
/// Options arrive as JSON, already rendered; an error names the path of the field (`format.delimiter`).
pub trait Connector: Debug + Send + Sync {
    /// Name, summary, options.
    fn info(&self) -> ConnectorInfo;

    /// Checks options without touching anything outside.
    fn validate(&self, options: &serde_json::Value) -> Result<()>;

    /// Makes a source.
    fn source(
        &self,
        _options: &serde_json::Value,
        _spec: SourceSpec,
        _context: &ConnectorContext,
    ) -> Result<Arc<dyn Source>> {
        Err(self.not(Role::Source))
    }

    /// Makes a source without an end.
    fn stream(
        &self,
        _options: &serde_json::Value,
        _spec: SourceSpec,
        _context: &ConnectorContext,
    ) -> Result<Arc<dyn StreamSource>> {
        Err(self.not(Role::Stream))
    }

    /// Makes what records of a source are pushed to.
    fn ingest(
        &self,
        _options: &serde_json::Value,
        _spec: SourceSpec,
        _context: &ConnectorContext,
    ) -> Result<Arc<dyn Ingest>> {
        Err(self.not(Role::Ingest))
    }

    /// Makes a sink that writes `table`.
    fn sink(
        &self,
        _options: &serde_json::Value,
        _table: &str,
        _context: &ConnectorContext,
    ) -> Result<Arc<dyn Sink>> {
        Err(self.not(Role::Sink))
    }

    /// JSON schema of its options as a sink of streams, where they are not those of
    /// [`Self::info`].
    fn stream_sink_options(&self) -> Option<schemars::Schema> {
        None
    }

    /// Checks options of a sink of a stream without touching anything outside.
    fn validate_stream_sink(&self, options: &serde_json::Value) -> Result<()> {
        if !self.info().roles.contains(&Role::StreamSink) {
            return Err(self.not(Role::StreamSink));
        }
        self.validate(options)
    }

    /// Makes a sink that is written without an end. Touches nothing outside.
    fn stream_sink(
        &self,
        _options: &serde_json::Value,
        _spec: &StreamSinkSpec,
        _context: &ConnectorContext,
    ) -> Result<Arc<dyn StreamSink>> {
        Err(self.not(Role::StreamSink))
    }

    /// The error of asking for a role that the connector does not have.
    fn not(&self, role: Role) -> Error {
        let what = match role {
            Role::Source => "read",
            Role::Stream => "read as a stream",
            Role::Ingest => "pushed to",
            Role::Sink => "written",
            Role::StreamSink => "written as a stream",
            Role::Format => "used as a format",
        };
        Error::new(code::CONFIG, format!("connector \"{}\" cannot be {what}", self.info().name))
            .hint("`freshet connectors` lists what each can do")
    }
}

/// All connectors of this build.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    connectors: Vec<Arc<dyn Connector>>,
}

impl Registry {
    /// A registry of these.
    pub fn new(connectors: Vec<Arc<dyn Connector>>) -> Self {
        Self { connectors }
    }

    /// The connector called `name`.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn Connector>> {
        self.connectors.iter().find(|connector| connector.info().name == name).ok_or_else(|| {
            let infos: Vec<_> = self.connectors.iter().map(|connector| connector.info()).collect();
            let error = Error::new(code::CONFIG, format!("there is no connector \"{name}\""));
            match nearest(name, infos.iter().map(|info| info.name)) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint("`freshet connectors` lists all"),
            }
        })
    }

    /// All of them, in the order of registration.
    pub fn connectors(&self) -> &[Arc<dyn Connector>] {
        &self.connectors
    }

    /// What users can choose from, in the order of registration.
    pub fn infos(&self) -> Vec<ConnectorInfo> {
        self.connectors.iter().map(|connector| connector.info()).collect()
    }
}
