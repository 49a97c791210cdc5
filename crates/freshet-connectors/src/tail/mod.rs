//! The connector `tail`: files that others append to, line by line, without an end.
//!
//! A file is known by how it begins, not by its name: renamed it is read on where reading stood, and
//! one that was emptied is another file. `find` says which files there are, `read` reads them,
//! `decode` makes rows of their lines.

mod decode;
mod find;
mod read;
mod source;

use std::sync::Arc;
use std::time::Duration;

use freshet_core::config::{ByteSize, HumanDuration};
use freshet_core::error::{Error, Result, code};
use freshet_core::registry::{Connector, ConnectorContext, ConnectorInfo, Role, SourceSpec};
use freshet_core::stream::StreamSource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::formats::Format;
use crate::{messages, options};
use find::Pattern;
use source::TailSource;

/// Options of the connector `tail`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TailOptions {
    /// The files, relative to the project folder: a name with `*`, `?`, `[…]`, `{a,b}` and `**`.
    /// It should match names that files are rotated to as well (`app.log*`), so that what was not
    /// read of them before is. Compressed files (`.gz`, `.zst`, `.bz2`, `.xz`) are left out.
    pub path: String,
    /// What a line is: `ndjson` (an object each), `csv` (without a header) or `raw` (one column
    /// `value`). Default: `ndjson`.
    #[serde(default = "default_format")]
    pub format: String,
    /// Options of the format.
    #[serde(default)]
    pub format_options: Map<String, Value>,
    /// Lines at the start of each file that are no records, such as a header. Default: 0.
    #[serde(default)]
    pub skip_lines: usize,
    /// Where reading begins where no checkpoint says it: `earliest`, or `latest`, which leaves out
    /// what files hold when they are looked at first. Default: `earliest`.
    #[serde(default = "default_start")]
    pub start: TailStart,
    /// How many lines, behind `skip_lines`, a file is known by: it is read from when it has them.
    /// Files that begin alike need more. Default: 1.
    #[serde(default = "default_fingerprint_lines")]
    pub fingerprint_lines: usize,
    /// How often it is looked for new lines. Default: `100ms`.
    #[serde(default = "default_poll_interval")]
    pub poll_interval: HumanDuration,
    /// How often it is looked for new files. Default: `1s`.
    #[serde(default = "default_discovery_interval")]
    pub discovery_interval: HumanDuration,
    /// The last line of a file that has not grown for so long is a record though it does not end.
    /// Default: `5m`.
    #[serde(default = "default_close_after")]
    pub close_after: HumanDuration,
    /// A record larger than this is a dead letter. Default: `1MiB`.
    #[serde(default = "default_max_record_bytes")]
    pub max_record_bytes: ByteSize,
    /// The most files that are read at a time: more are an error. Default: 1000.
    #[serde(default = "default_max_files")]
    pub max_files: usize,
}

fn default_format() -> String {
    "ndjson".to_owned()
}

fn default_start() -> TailStart {
    TailStart::Earliest
}

fn default_fingerprint_lines() -> usize {
    1
}

fn default_poll_interval() -> HumanDuration {
    HumanDuration(Duration::from_millis(100))
}

fn default_discovery_interval() -> HumanDuration {
    HumanDuration(Duration::from_secs(1))
}

fn default_close_after() -> HumanDuration {
    HumanDuration(Duration::from_secs(300))
}

fn default_max_record_bytes() -> ByteSize {
    ByteSize::mib(1)
}

fn default_max_files() -> usize {
    1000
}

/// Where reading of files begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TailStart {
    /// With their first lines.
    Earliest,
    /// Behind what is there.
    Latest,
}

impl TailOptions {
    fn read(options: &Value) -> Result<Self> {
        let read: Self = options::parse(options, "")?;
        let wrong = |message: &str| Err(Error::new(code::CONFIG, message));
        if read.poll_interval.0.is_zero() || read.discovery_interval.0.is_zero() {
            return wrong("options \"poll_interval\" and \"discovery_interval\" cannot be 0");
        }
        if !(1..=100).contains(&read.fingerprint_lines) || read.skip_lines > 100 {
            return wrong(
                "option \"fingerprint_lines\" is not 1 to 100, or \"skip_lines\" more than 100",
            );
        }
        if read.max_record_bytes.0 == 0 || read.max_record_bytes.0 > 1 << 30 {
            return wrong("option \"max_record_bytes\" is not between 1 byte and 1GiB");
        }
        Ok(read)
    }
}

/// The connector.
#[derive(Debug)]
pub struct TailConnector {
    formats: Vec<Arc<dyn Format>>,
}

impl TailConnector {
    /// A connector whose lines are of one of these formats.
    pub fn new(formats: Vec<Arc<dyn Format>>) -> Self {
        Self { formats }
    }
}

impl Connector for TailConnector {
    fn info(&self) -> ConnectorInfo {
        ConnectorInfo {
            name: "tail",
            roles: &[Role::Stream],
            summary: "Reads files that grow, line by line, whatever they are renamed to.",
            guarantee: None,
            options: schemars::schema_for!(TailOptions),
        }
    }

    fn validate(&self, options: &Value) -> Result<()> {
        let options = TailOptions::read(options)?;
        Pattern::new(&options.path, std::path::Path::new(".")).map(drop)
    }

    fn stream(
        &self,
        options: &Value,
        spec: SourceSpec,
        context: &ConnectorContext,
    ) -> Result<Arc<dyn StreamSource>> {
        let options = TailOptions::read(options)?;
        let of_format = Value::Object(options.format_options.clone());
        if options.format == "avro" {
            return Err(Error::new(code::CONFIG, "lines of files cannot be of format avro"));
        }
        let format =
            messages::open(&self.formats, &options.format, &of_format, &spec.contract, context)?;
        let pattern = Pattern::new(&options.path, &context.project_dir)?;
        let clock = Arc::clone(&context.clock);
        Ok(Arc::new(TailSource::new(options, pattern, format, clock)?))
    }
}

#[cfg(test)]
mod tests;
