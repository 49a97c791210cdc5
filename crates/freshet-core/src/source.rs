//! The traits of sources: a place with splits that can be read, to an end or without one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use chrono::{DateTime, NaiveDateTime, Utc};
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::contract::{Evolution, SchemaDiff};
use crate::error::{Error, Result};
use crate::record::{Decoded, Reject};

/// Whether reading a source comes to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundedness {
    /// It ends: files, tables.
    Bounded,
    /// It does not: topics, logs, change streams.
    Unbounded,
}

/// A half-open span of event time, `[start, end)`, in UTC without a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Interval {
    /// First instant in it.
    pub start: NaiveDateTime,
    /// First instant after it.
    pub end: NaiveDateTime,
}

/// One part of a source that is read in order: a file, a partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The file's path or URL as listed, or the partition. Unique within the source, stable.
    pub id: String,
    /// Bytes, where known.
    pub size: Option<u64>,
    /// What changes when the content does: the etag, or the modification time in microseconds.
    pub version: String,
    /// When it was last written.
    pub modified: Option<DateTime<Utc>>,
    /// Values captured from its name, as text, by column name.
    pub captured: BTreeMap<String, String>,
    /// The span of event time that its name says it belongs to.
    pub interval: Option<Interval>,
}

/// Where reading a split stands: everything before it has been read.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Position(pub u64);

/// Identity of a file's content: 128 bits of XXH3 in hexadecimal, independent of its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContentDigest(pub String);

/// A corrected record, to be read instead of the bad one at the same place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correction {
    /// Ascends over all corrections of a source; says which ones a table already holds.
    pub sequence: u64,
    /// Offset of the bad record, as its dead letter has it.
    pub offset: u64,
    /// The corrected record, without a line terminator; empty to say that it is to be dropped.
    #[serde(with = "as_text_or_bytes")]
    pub bytes: Vec<u8>,
}

mod as_text_or_bytes {
    //! UTF-8 as a JSON string, anything else as an array of numbers.
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Either::Text(text.to_owned()),
            Err(_) => Either::Bytes(bytes.to_vec()),
        }
        .serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Ok(match Either::deserialize(deserializer)? {
            Either::Text(text) => text.into_bytes(),
            Either::Bytes(bytes) => bytes,
        })
    }
}

/// All corrections of one source, by content and offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlay {
    /// For each content, its size in bytes and its corrections by offset.
    pub contents: BTreeMap<ContentDigest, (u64, BTreeMap<u64, Correction>)>,
}

impl Overlay {
    /// The highest sequence in it; 0 where it is empty.
    pub fn last_sequence(&self) -> u64 {
        self.contents
            .values()
            .flat_map(|(_, corrections)| corrections.values())
            .map(|correction| correction.sequence)
            .max()
            .unwrap_or(0)
    }
}

/// What to read of a split.
#[derive(Debug, Clone)]
pub enum Extent {
    /// Every record, corrections applied.
    Whole,
    /// Only the corrections with a higher sequence than this: the rest was consumed before.
    CorrectionsAfter(u64),
}

/// A split and how much of it to read.
#[derive(Debug, Clone)]
pub struct SplitRequest {
    /// The split.
    pub split: Split,
    /// How much of it.
    pub extent: Extent,
}

/// A configured source.
#[async_trait]
pub trait Source: Debug + Send + Sync {
    /// Whether reading comes to an end.
    fn boundedness(&self) -> Boundedness;

    /// The splits that there are now, ordered by interval, then by id. Splits that are still being
    /// written (`settle`) are left out.
    async fn splits(&self) -> Result<Vec<Split>>;

    /// Reads the heads of `requests` and fixes the schema of reading them together. A split that
    /// cannot be read at all is not an error: it is in the scan's report, set aside.
    async fn plan(
        &self,
        requests: Vec<SplitRequest>,
        overlay: Arc<Overlay>,
    ) -> Result<Arc<dyn Scan>>;

    /// Reads one split in order from `from`, for as long as there is more.
    async fn reader(&self, split: &Split, from: Position) -> Result<Box<dyn SplitReader>>;
}

/// Reads one split in order: the streaming side of a source.
#[async_trait]
pub trait SplitReader: Send {
    /// The next records; `None` at the end of a bounded split. An unbounded one waits.
    async fn next(&mut self) -> Result<Option<Decoded>>;

    /// Everything before this was returned by `next`.
    fn position(&self) -> Position;
}

/// What a scan is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// An answer: nobody asks for digests, and bytes that no column needs are not read.
    #[default]
    Query,
    /// A table: its report is entered into the books.
    Build,
}

/// Some splits of a source with one schema, ready to be read any number of times.
pub trait Scan: Debug + Send + Sync {
    /// Contract columns, new columns, captured columns, then `_file` (text) and `_offset` (bigint).
    fn schema(&self) -> SchemaRef;

    /// What the heads showed to differ from the contract.
    fn diffs(&self) -> Vec<SchemaDiff>;

    /// Bytes to read, as stored; for progress and plans.
    fn total_bytes(&self) -> u64;

    /// About how many records there are, for choosing between plans: never a count to answer with,
    /// since bad records are among them.
    fn estimated_records(&self) -> Option<u64> {
        None
    }

    /// Whether the rows of each worker's stream ascend by `_file`, compared as bytes, and `_offset`.
    fn is_in_order(&self) -> bool {
        false
    }

    /// Starts reading the columns `projection` of `schema`, in that order.
    fn start(
        &self,
        projection: &[usize],
        batch_rows: usize,
        purpose: Purpose,
    ) -> Result<Arc<dyn RunningScan>>;
}

/// A scan that is being read by several workers, each of which takes work until none is left.
pub trait RunningScan: Debug + Send + Sync {
    /// A stream of batches for one more worker. The rows of all workers together are the rows of
    /// the scan; their order is not fixed.
    ///
    /// Ends with an error of code `FILE_TOO_BAD` or `FILE_BROKEN` as soon as a split turns out to
    /// have to be set aside after some of its rows were given: whoever reads must forget all rows,
    /// exclude that split ([`ScanReport`]) and start again.
    fn worker(&self) -> BoxStream<'static, Result<RecordBatch>>;

    /// Bytes read so far.
    fn bytes_read(&self) -> u64;

    /// Records decoded so far.
    fn records_read(&self) -> u64;

    /// What the data needs of a contract that evolves: where there is anything, the workers' streams
    /// of a build have ended with an error, and the scan is to be planned again with that contract.
    fn evolution(&self) -> Evolution {
        Evolution::default()
    }

    /// What happened to each split. Final once all workers' streams have ended.
    fn report(&self) -> ScanReport;
}

/// What reading some splits came to.
#[derive(Debug, Clone, Default)]
pub struct ScanReport {
    /// One for each split, in the order of the request.
    pub splits: Vec<SplitReport>,
}

/// What became of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitStatus {
    /// Read to its end.
    Read,
    /// Set aside whole; none of its rows count.
    SetAside,
    /// It holds nothing.
    Empty,
    /// Not read to its end: another error stopped the scan.
    Unfinished,
}

/// What reading one split came to.
#[derive(Debug, Clone)]
pub struct SplitReport {
    /// The split.
    pub split: Split,
    /// What became of it.
    pub status: SplitStatus,
    /// Identity of its content, once read whole for a build.
    pub digest: Option<ContentDigest>,
    /// Records in it, good and bad.
    pub records: u64,
    /// Records given as rows.
    pub good: u64,
    /// Records that a correction dropped on purpose.
    pub dropped: u64,
    /// Values replaced by null because the contract says `discard_value`.
    pub discarded_values: u64,
    /// Bad records, ordered by offset; lines are absolute. For a split that was set aside, the
    /// first few, as a sample.
    pub rejects: Vec<Reject>,
    /// Highest sequence of the corrections that were applied or were there to apply.
    pub corrections: u64,
    /// Why it was set aside.
    pub error: Option<Arc<Error>>,
}
