//! The connector `log`: a durable log of records on the machine's own disk, which is pushed to and
//! read without an end.
//!
//! One process writes a log and any number read it. What lies where is said in `place`, what the
//! bytes are in `frame`; what a record means is the format's business.

mod connector;
mod consumers;
mod decode;
mod frame;
mod keys;
pub(crate) mod os;
mod partition;
mod place;
mod reader;
mod segment;
mod service;
mod source;
mod writer;

use std::time::Duration;

use freshet_core::config::{ByteSize, HumanDuration};
use freshet_core::error::{Error, Result, code};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use connector::LogConnector;
pub use consumers::Positions;
pub(crate) use reader::blocking;
pub use service::EventLog;

/// Options of the connector `log`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogOptions {
    /// The log's folder, relative to the project folder. Default: `.freshet/log/` and the source's
    /// name.
    pub path: Option<String>,
    /// What a record is: `ndjson` (an object each), `csv` (without a header), `avro` or `raw` (one
    /// column `value`). Default: `ndjson`.
    pub format: String,
    /// Options of the format.
    pub format_options: Map<String, Value>,
    /// Partitions of the log, fixed once it is made. Records of one key go to one of them and stay
    /// in order. Default: 4.
    pub partitions: u32,
    /// When what was pushed is made durable, which its sender waits for: `group`, at once,
    /// together with all that came while the last time ran; or after a duration such as `10ms`,
    /// which costs latency and saves the disk. Default: `group`.
    pub fsync: Fsync,
    /// A segment that has this size is followed by a new one. Default: `64MiB`.
    pub segment_bytes: ByteSize,
    /// The largest record. Default: `1MiB`.
    pub max_record_bytes: ByteSize,
    /// The largest request. Default: `16MiB`.
    pub max_batch_bytes: ByteSize,
    /// What may wait to become durable; beyond it, senders are told to try again. Default: `64MiB`.
    pub max_pending_bytes: ByteSize,
    /// Segments whose records are all older are removed; `null` keeps them. Default: `7days`.
    pub retention_time: Option<HumanDuration>,
    /// The oldest segments are removed as long as the rest has this size; `null` keeps them.
    /// Default: `null`.
    pub retention_bytes: Option<ByteSize>,
    /// Whether records are kept beyond that which a consumer still needs: `needed`, or `strict` to
    /// remove them all the same. Default: `needed`.
    pub retention: Retention,
    /// How long a request is known again by its idempotency key. Default: `1day`.
    pub idempotency_window: HumanDuration,
    /// The most idempotency keys that are remembered. Default: 2000000.
    pub max_idempotency_keys: usize,
    /// The name under which a stream's positions are committed. Default: `freshet`.
    pub consumer: String,
    /// How often a reader looks for records that another process writes. Default: `10ms`.
    pub poll_interval: HumanDuration,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            path: None,
            format: "ndjson".to_owned(),
            format_options: Map::new(),
            partitions: 4,
            fsync: Fsync::Group,
            segment_bytes: ByteSize::mib(64),
            max_record_bytes: ByteSize::mib(1),
            max_batch_bytes: ByteSize::mib(16),
            max_pending_bytes: ByteSize::mib(64),
            retention_time: Some(HumanDuration(Duration::from_secs(7 * 24 * 3600))),
            retention_bytes: None,
            retention: Retention::Needed,
            idempotency_window: HumanDuration(Duration::from_secs(24 * 3600)),
            max_idempotency_keys: 2_000_000,
            consumer: "freshet".to_owned(),
            poll_interval: HumanDuration(Duration::from_millis(10)),
        }
    }
}

impl LogOptions {
    /// Whether the options make sense together.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message: String| Err(Error::new(code::CONFIG, message));
        if !(1..=1024).contains(&self.partitions) {
            return wrong(format!("option \"partitions\" is {}, not 1 to 1024", self.partitions));
        }
        // Places within a frame have 32 bits, of which one is taken.
        if self.max_batch_bytes.0 > 1 << 30 {
            return wrong("option \"max_batch_bytes\" cannot be more than 1GiB".to_owned());
        }
        for (smaller, less, larger, more) in [
            ("max_record_bytes", self.max_record_bytes, "max_batch_bytes", self.max_batch_bytes),
            ("max_batch_bytes", self.max_batch_bytes, "max_pending_bytes", self.max_pending_bytes),
        ] {
            if less > more || less.0 == 0 {
                return wrong(format!(
                    "option \"{smaller}\" cannot be 0 or more than \"{larger}\""
                ));
            }
        }
        if self.segment_bytes.0 == 0 || self.max_idempotency_keys == 0 {
            return wrong(
                "options \"segment_bytes\" and \"max_idempotency_keys\" cannot be 0".to_owned(),
            );
        }
        if self.poll_interval.0.is_zero() {
            return wrong("option \"poll_interval\" cannot be 0".to_owned());
        }
        consumers::check_name(&self.consumer)
    }
}

/// When what was pushed is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// At once, together with all that came while the last time ran.
    Group,
    /// So long after the first that came.
    #[serde(untagged)]
    Interval(HumanDuration),
}

/// Whether retention spares what a consumer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// It does.
    Needed,
    /// It does not.
    Strict,
}

#[cfg(test)]
mod tests;
