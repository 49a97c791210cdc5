//! `log` in the listing, and the logs that this process has open.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use freshet_core::error::Result;
use freshet_core::ingest::Ingest;
use freshet_core::registry::{Connector, ConnectorContext, ConnectorInfo, Role, SourceSpec};
use freshet_core::stream::StreamSource;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use super::LogOptions;
use super::decode;
use super::os::{OsFiles, WriterLock};
use super::place::Place;
use super::reader::telling;
use super::service::EventLog;
use super::source::{LogIngest, LogSource};
use super::writer::Settled;
use crate::formats::Format;
use crate::messages::{self, Judge, MessageFormat};
use crate::options;

/// Where logs lie that name no folder.
const FOLDER: &str = ".freshet/log";

/// The connector.
#[derive(Debug)]
pub struct LogConnector {
    formats: Vec<Arc<dyn Format>>,
    files: Arc<OsFiles>,
    logs: Mutex<HashMap<PathBuf, Open>>,
}

/// A log that this process reads or writes: its readers are told by its writer.
#[derive(Debug)]
struct Open {
    told: watch::Sender<Option<Settled>>,
    writer: Weak<EventLog>,
}

impl LogConnector {
    /// A connector of these formats and `raw`.
    pub fn new(formats: Vec<Arc<dyn Format>>) -> Self {
        Self { formats, files: Arc::default(), logs: Mutex::default() }
    }

    fn options(&self, options: &Value) -> Result<LogOptions> {
        let options: LogOptions = options::parse(options, "")?;
        options.validate()?;
        Ok(options)
    }

    fn format(
        &self,
        options: &LogOptions,
        spec: &SourceSpec,
        context: &ConnectorContext,
    ) -> Result<Arc<dyn MessageFormat>> {
        let format_options = Value::Object(options.format_options.clone());
        messages::open(&self.formats, &options.format, &format_options, &spec.contract, context)
    }

    fn root(options: &LogOptions, spec: &SourceSpec, context: &ConnectorContext) -> PathBuf {
        let root = match &options.path {
            Some(path) => context.project_dir.join(path),
            None => context.project_dir.join(FOLDER).join(&spec.name),
        };
        std::path::absolute(&root).unwrap_or(root)
    }

    fn told(&self, root: &Path) -> watch::Sender<Option<Settled>> {
        let mut logs = self.logs.lock();
        let open = logs
            .entry(root.to_owned())
            .or_insert_with(|| Open { told: telling(), writer: Weak::new() });
        open.told.clone()
    }
}

impl Connector for LogConnector {
    fn info(&self) -> ConnectorInfo {
        ConnectorInfo {
            name: "log",
            roles: &[Role::Stream, Role::Ingest],
            summary: "a durable log on the machine's own disk, which records are pushed to",
            guarantee: None,
            options: schemars::schema_for!(LogOptions),
        }
    }

    fn validate(&self, options: &Value) -> Result<()> {
        self.options(options).map(|_| ())
    }

    fn stream(
        &self,
        options: &Value,
        spec: SourceSpec,
        context: &ConnectorContext,
    ) -> Result<Arc<dyn StreamSource>> {
        let options = self.options(options)?;
        let format = self.format(&options, &spec, context)?;
        let root = Self::root(&options, &spec, context);
        Ok(Arc::new(LogSource {
            schema: decode::schema(&*format, &spec.contract)?,
            told: self.told(&root),
            place: Place::open(self.files.clone(), root, options.partitions)?,
            options,
            format,
        }))
    }

    /// Takes the log's lock and settles what an earlier process left; the log is free for others
    /// when the last one that was made of it here is dropped.
    fn ingest(
        &self,
        options: &Value,
        spec: SourceSpec,
        context: &ConnectorContext,
    ) -> Result<Arc<dyn Ingest>> {
        let options = self.options(options)?;
        let format = self.format(&options, &spec, context)?;
        let root = Self::root(&options, &spec, context);
        let told = self.told(&root);
        let mut logs = self.logs.lock();
        let known = logs.get(&root).and_then(|open| open.writer.upgrade());
        let format_name = match options.format.as_str() {
            "json" => "ndjson".to_owned(),
            name => name.to_owned(),
        };
        let max_record_bytes = options.max_record_bytes.as_usize();
        let log = match known {
            Some(log) => log,
            None => {
                let place = Place::open(self.files.clone(), root.clone(), options.partitions)?;
                let lock = WriterLock::take(&root)?;
                let clock = Arc::clone(&context.clock);
                let log = Arc::new(EventLog::start(place, options, clock, told, Some(lock))?);
                if let Some(open) = logs.get_mut(&root) {
                    open.writer = Arc::downgrade(&log);
                }
                log
            }
        };
        Ok(Arc::new(LogIngest { log, judge: Judge::new(format, max_record_bytes), format_name }))
    }
}
