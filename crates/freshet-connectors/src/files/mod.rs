//! The connector `files`: files of a local folder or an S3-compatible bucket.
//!
//! It finds and reads bytes, cuts them into chunks, keeps the books of every record, and applies
//! corrections. What the bytes mean is the format's business.

mod account;
mod codec;
mod columns;
mod corrections;
mod digest;
mod feed;
mod pattern;
mod place;
mod plan;
mod reader;
pub mod s3;
mod scan;
mod sink;
mod stitch;
mod work;
mod worker;

use std::sync::Arc;

use async_trait::async_trait;
use freshet_core::config::ByteSize;
use freshet_core::error::{Error, Result, code};
use freshet_core::registry::{
    Connector, ConnectorContext, ConnectorInfo, Role, SourceSpec, StreamSinkSpec,
};
use freshet_core::sink::Guarantee;
use freshet_core::source::{
    Boundedness, Overlay, Position, Scan, Source, Split, SplitReader, SplitRequest,
};
use freshet_core::stream::StreamSink;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::formats::{Format, FormatReader, choose};
use crate::options;
pub use codec::{Buffer, Compression, Encoding};
pub(crate) use feed::{Codec, Feed, StreamFeed};
pub use pattern::{Capture, PathPattern};
pub use place::{Blob, Listed, LocalBlob, LocalPlace, ObjectPlace, Place};

/// Options of the connector `files`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesOptions {
    /// The files: a path relative to the project folder, an absolute one, or `s3://bucket/key`,
    /// with `*`, `**`, `?`, `[a-z]` and `{csv,txt}`. `{name}` captures a part of the path as a text
    /// column, `{date:%Y%m%d}` as a date or timestamp, which also tells the span of event time that
    /// the file belongs to.
    pub path: String,
    /// The format: `csv`, `ndjson`, `json` or `parquet`. Default: what the path ends with.
    #[serde(default)]
    pub format: Option<String>,
    /// Options of the format.
    #[serde(default)]
    pub format_options: Map<String, Value>,
    /// The compression: `auto` (by the content's first bytes), `none`, `gzip` or `zstd`.
    #[serde(default)]
    pub compression: Compression,
    /// The character encoding: `utf-8`, `utf-16`, `utf-16le`, `utf-16be`, `latin-1` or
    /// `windows-1252`. A file that begins with the byte order mark of UTF-16 is read as UTF-16.
    #[serde(default)]
    pub encoding: Encoding,
    /// A record larger than this becomes a dead letter, of which this many bytes are kept.
    #[serde(default = "default_max_record_bytes")]
    pub max_record_bytes: ByteSize,
    /// How much of a large file one worker takes at a time. The result does not depend on it.
    #[serde(default = "default_split_size")]
    pub split_size: ByteSize,
    /// Memory that the dead letters of one reading may take.
    #[serde(default = "default_max_dead_letter_bytes")]
    pub max_dead_letter_bytes: ByteSize,
}

fn default_max_record_bytes() -> ByteSize {
    ByteSize::mib(1)
}

fn default_split_size() -> ByteSize {
    ByteSize::mib(4)
}

fn default_max_dead_letter_bytes() -> ByteSize {
    ByteSize::mib(512)
}

impl FilesOptions {
    /// All defaults, for `path`.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            format: None,
            format_options: Map::new(),
            compression: Compression::default(),
            encoding: Encoding::default(),
            max_record_bytes: default_max_record_bytes(),
            split_size: default_split_size(),
            max_dead_letter_bytes: default_max_dead_letter_bytes(),
        }
    }
}

/// The connector.
#[derive(Debug)]
pub struct FilesConnector {
    formats: Vec<Arc<dyn Format>>,
}

impl FilesConnector {
    /// A connector that reads these formats.
    pub fn new(formats: Vec<Arc<dyn Format>>) -> Self {
        Self { formats }
    }

    fn read_options(&self, options: &Value) -> Result<(FilesOptions, PathPattern, FormatReader)> {
        let options: FilesOptions = options::parse(options, "")?;
        let pattern = PathPattern::parse(options.path.trim_start_matches("./"))?;
        if options.max_record_bytes.0 == 0 || options.split_size.0 == 0 {
            return Err(Error::new(
                code::CONFIG,
                "options \"max_record_bytes\" and \"split_size\" cannot be 0",
            ));
        }
        if options.path.starts_with("s3://") {
            s3::bucket(&options.path)?;
        }
        let (format, extension) = choose(&self.formats, options.format.as_deref(), &options.path)?;
        let reader =
            format.open(&Value::Object(options.format_options.clone()), extension.as_deref())?;
        Ok((options, pattern, reader))
    }
}

impl Connector for FilesConnector {
    fn info(&self) -> ConnectorInfo {
        ConnectorInfo {
            name: "files",
            roles: &[Role::Source, Role::StreamSink],
            summary: "files of a local folder or an S3-compatible bucket",
            guarantee: Some(Guarantee::ExactlyOnce),
            options: schemars::schema_for!(FilesOptions),
        }
    }

    fn validate(&self, options: &Value) -> Result<()> {
        self.read_options(options).map(|_| ())
    }

    fn stream_sink_options(&self) -> Option<schemars::Schema> {
        Some(schemars::schema_for!(sink::FilesSinkOptions))
    }

    fn validate_stream_sink(&self, options: &Value) -> Result<()> {
        sink::FilesSinkOptions::read(options).map(drop)
    }

    fn stream_sink(
        &self,
        options: &Value,
        spec: &StreamSinkSpec,
        context: &ConnectorContext,
    ) -> Result<Arc<dyn StreamSink>> {
        Ok(Arc::new(sink::FilesSink::new(sink::FilesSinkOptions::read(options)?, spec, context)?))
    }

    fn source(
        &self,
        options: &Value,
        spec: SourceSpec,
        context: &ConnectorContext,
    ) -> Result<Arc<dyn Source>> {
        let (options, pattern, reader) = self.read_options(options)?;
        for capture in pattern.captures() {
            if spec.contract.index_of(&capture.name).is_some() {
                return Err(Error::new(
                    code::CONFIG,
                    format!(
                        "column \"{}\" of source \"{}\" is declared and captured from the file's name",
                        capture.name, spec.name
                    ),
                )
                .hint("rename it in `path`: captured columns need no declaration"));
            }
        }
        let place = place_of(&options.path, context)?;
        Ok(Arc::new(FilesSource {
            inner: Arc::new(SourceInner {
                spec,
                options,
                pattern,
                reader,
                place,
                clock: Arc::clone(&context.clock),
            }),
        }))
    }
}

/// The place that a path or URL is in.
pub(crate) fn place_of(path: &str, context: &ConnectorContext) -> Result<Arc<dyn Place>> {
    if path.starts_with("s3://") {
        let bucket = s3::bucket(path)?;
        let store = s3::open(bucket, &context.connection)?;
        return Ok(Arc::new(ObjectPlace::new(store, format!("s3://{bucket}/"))));
    }
    Ok(Arc::new(LocalPlace::new(context.project_dir.clone())))
}

/// A configured source of files.
#[derive(Debug, Clone)]
pub(crate) struct FilesSource {
    inner: Arc<SourceInner>,
}

/// What all parts of a source share.
#[derive(Debug)]
pub(crate) struct SourceInner {
    pub(crate) spec: SourceSpec,
    pub(crate) options: FilesOptions,
    pub(crate) pattern: PathPattern,
    pub(crate) reader: FormatReader,
    pub(crate) place: Arc<dyn Place>,
    pub(crate) clock: Arc<dyn freshet_core::clock::Clock>,
}

impl std::ops::Deref for FilesSource {
    type Target = SourceInner;

    fn deref(&self) -> &SourceInner {
        &self.inner
    }
}

#[async_trait]
impl Source for FilesSource {
    fn boundedness(&self) -> Boundedness {
        Boundedness::Bounded
    }

    async fn splits(&self) -> Result<Vec<Split>> {
        let listed = self.place.list(&self.pattern).await?;
        let now = self.clock.now();
        let settle =
            chrono::Duration::from_std(self.spec.settle.0).unwrap_or(chrono::Duration::MAX);
        let mut splits: Vec<Split> = listed
            .into_iter()
            .filter(|file| settle.is_zero() || now.signed_duration_since(file.modified) >= settle)
            .filter_map(|file| {
                let matched = self.pattern.matches(&file.id)?;
                Some(Split {
                    id: file.id,
                    size: Some(file.size),
                    version: file.version,
                    modified: Some(file.modified),
                    captured: matched.captured,
                    interval: matched.interval,
                })
            })
            .collect();
        splits.sort_by(|a, b| (a.interval, &a.id).cmp(&(b.interval, &b.id)));
        Ok(splits)
    }

    async fn plan(
        &self,
        requests: Vec<SplitRequest>,
        overlay: Arc<Overlay>,
    ) -> Result<Arc<dyn Scan>> {
        let files = plan::read_heads(self, requests, &overlay).await?;
        Ok(Arc::new(scan::FilesScan::new(self.clone(), files)?))
    }

    async fn reader(&self, split: &Split, from: Position) -> Result<Box<dyn SplitReader>> {
        reader::open(self.clone(), split, from).await
    }
}
