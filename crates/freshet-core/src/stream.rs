//! The traits of streams: sources without an end, and sinks that commit by epochs.
//!
//! A source gives bytes as they were fetched, which is asynchronous, and decoders for them, which are
//! not: fetching happens beside the workers, decoding on them. A sink takes rows on the workers,
//! stages what an epoch wrote, and makes it visible once the epoch's checkpoint is durable.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::error::Result;
use crate::format::Decoding;
use crate::record::Decoded;
use crate::rows::Rows;
use crate::sink::Guarantee;
use crate::source::Position;

/// An instant of event time, in microseconds since 1970 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventTime(pub i64);

impl EventTime {
    /// Before all others: nothing is known of how far time has come.
    pub const MIN: Self = Self(i64::MIN);
    /// After all others: no row will come any more.
    pub const MAX: Self = Self(i64::MAX);
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self, chrono::DateTime::from_timestamp_micros(self.0)) {
            (Self::MIN, _) => f.write_str("-"),
            (Self::MAX, _) => f.write_str("end"),
            (_, Some(time)) => write!(f, "{}", time.format("%Y-%m-%dT%H:%M:%S%.fZ")),
            (_, None) => write!(f, "{}us", self.0),
        }
    }
}

/// A number of checkpoints and of what lies between them: ascends by one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of an instance of a job: each that takes over has the next one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// What an instance of a job has when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Its number.
    pub generation: Generation,
    /// The epoch from which it goes on: every commit so far is of an earlier one.
    pub epoch: Epoch,
}

/// Told that somebody may have something to do.
pub trait Wake: fmt::Debug + Send + Sync {
    /// Wakes whoever sleeps, or keeps them from falling asleep.
    fn wake(&self);
}

/// A part of a stream that is read in order: a partition of a topic, a file that grows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub String);

/// Where reading begins where no checkpoint says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record that there is.
    Earliest,
    /// Behind the newest.
    Latest,
    /// At this record.
    At(Position),
    /// Where the source's own options say.
    Configured,
}

/// Something that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// What waits, e.g. a partition.
    pub what: String,
    /// Why.
    pub reason: String,
    /// Since when, in microseconds since 1970.
    pub since: i64,
}

/// A record that is to be read in place of a bad one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamCorrection {
    /// Ascends over all corrections of a source, from 1.
    pub sequence: u64,
    /// Where the bad record lies.
    pub partition: Partition,
    /// Where it lies in the partition.
    pub position: Position,
    /// The corrected record; empty to say that it is to be dropped.
    pub record: Bytes,
    /// When it was given, in microseconds since 1970.
    pub at: i64,
}

/// The corrections of a source's bad records, to which more may be added at any time.
#[async_trait]
pub trait StreamCorrections: fmt::Debug + Send + Sync {
    /// Those behind the number `after`, ascending; from 0, all.
    async fn since(&self, after: u64) -> Result<Vec<StreamCorrection>>;
}

/// Bytes of one partition as they were fetched: what a [`BlockDecoder`] of the same source reads.
#[derive(Debug, Clone)]
pub struct Block {
    /// The partition, by its place in [`Fetcher::add`]'s calls.
    pub partition: usize,
    /// The bytes; whether they are framed, compressed or plain the decoder knows.
    pub bytes: Bytes,
    /// The position of the first record.
    pub position: Position,
    /// The position behind the last one.
    pub next: Position,
    /// When the newest record was written, in microseconds since 1970, where that is known.
    pub written: Option<i64>,
}

/// A configured source without an end.
#[async_trait]
pub trait StreamSource: fmt::Debug + Send + Sync {
    /// The contract's columns, then what the source knows of each record.
    fn schema(&self) -> SchemaRef;

    /// The partitions that there are now; those that were there stay.
    async fn partitions(&self) -> Result<Vec<Partition>>;

    /// Begins to fetch; partitions are added to it.
    async fn fetcher(&self) -> Result<Box<dyn Fetcher>>;

    /// A decoder of the blocks of any partition, of the columns `projection` of the schema.
    fn decoder(&self, projection: &[usize]) -> Result<Box<dyn BlockDecoder>>;

    /// The bytes of a block that holds `record` alone, as if it had been fetched at `position` of
    /// `partition`: what a correction is decoded from. `at` stands for the time at which it came, in
    /// microseconds since 1970. An error where it cannot be a record of this source; `None` where a
    /// source knows no such block.
    fn block_of(
        &self,
        _partition: &Partition,
        _position: Position,
        _record: &[u8],
        _at: i64,
    ) -> Result<Option<Bytes>> {
        Ok(None)
    }

    /// What its fetchers wait for, new records apart.
    fn waits(&self) -> Vec<Wait> {
        Vec::new()
    }

    /// The positions behind the newest records, of the partitions where they are known. Asks nobody,
    /// and never waits.
    fn ends(&self) -> BTreeMap<Partition, Position> {
        BTreeMap::new()
    }

    /// How often [`Self::partitions`] is to be asked for new ones; `None` is never.
    fn discovery_interval(&self) -> Option<Duration> {
        None
    }

    /// A checkpoint at `positions` is durable: for the eyes of others alone, nothing rests on it.
    async fn publish(&self, _positions: &BTreeMap<Partition, Position>) -> Result<()> {
        Ok(())
    }
}

/// Fetches the bytes of some partitions of a source.
#[async_trait]
pub trait Fetcher: Send {
    /// Fetches this partition as well: the `n`th that is added is number `n`, from 0. Gives where
    /// reading begins, unless that is not known yet.
    async fn add(&mut self, partition: &Partition, start: Start) -> Result<Option<Position>>;

    /// The next bytes of any partition, those of each in order. Waits for them; `None` once all
    /// partitions came to an end, which most never do. Dropping the future loses nothing.
    async fn fetch(&mut self) -> Result<Option<Block>>;
}

/// Bytes of blocks to rows: synchronous, one block after another.
pub trait BlockDecoder: Send {
    /// The next number of a partition means this one, as it does with [`Fetcher::add`]: to be called
    /// before the first block of it.
    fn add(&mut self, _partition: &Partition) {}

    /// Decodes a block, appending to `out`. A bad record is a reject, whose offset is its position.
    /// Never waits: a block that cannot be decoded yet is to be given again a little later, before
    /// any other one.
    fn decode(&mut self, block: &Block, out: &mut Decoded) -> Result<Decoding>;
}

/// What is behind a sink's part of an epoch once it is durable, as the sink alone understands it.
pub type Token = serde_json::Value;

/// What a sink is to commit of one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingCommit {
    /// The epoch.
    pub epoch: Epoch,
    /// What each of the sink's writers staged.
    pub parts: Vec<Token>,
}

/// A row that a sink's target can never hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its place among the rows.
    pub row: usize,
    /// The column at fault.
    pub column: String,
    /// Why.
    pub reason: String,
}

/// Which changes a sink can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// New rows alone: a result that takes rows back cannot be written to it.
    Append,
    /// Rows replace those with the same key, and rows that are taken back are deleted by their key.
    /// What was before an update need not be told.
    Upsert {
        /// The columns that make the key.
        key: Vec<String>,
    },
    /// Every change, what was before an update included.
    All,
}

/// A configured sink of a stream.
#[async_trait]
pub trait StreamSink: fmt::Debug + Send + Sync {
    /// What it promises.
    fn guarantee(&self) -> Guarantee;

    /// Which changes it can take.
    fn changes(&self) -> Changes {
        Changes::Append
    }

    /// What it writes to, in a few words: `topic "orders"`. It stays the same for as long as it is
    /// the same target: checkpoints know the sink by it.
    fn target(&self) -> String;

    /// Whether rows are seen only once their checkpoint is durable.
    fn waits_for_checkpoint(&self) -> bool {
        self.guarantee() == Guarantee::ExactlyOnce
    }

    /// Whether each commit makes files, so that few large commits are better than many small ones.
    fn makes_files(&self) -> bool {
        false
    }

    /// Where staged rows may be kept until they are committed: as durable as checkpoints, and the
    /// same for all instances of the job. Told before [`Self::open`].
    fn stage_in(&self, _store: Arc<dyn ObjectStore>) {}

    /// Whether there are rows that the target can never hold: [`Self::refuses`] is asked for each batch
    /// then.
    fn can_refuse(&self) -> bool {
        false
    }

    /// The rows that the target can never hold, ascending; they become dead letters and are not
    /// written. Depends on nothing but the rows.
    fn refuses(&self, _rows: &Rows) -> Result<Vec<Refused>> {
        Ok(Vec::new())
    }

    /// As many writers as there are in `wakes`, each of which is to be woken when its writer has room
    /// again. From then on nothing that an instance of an earlier generation does can change the
    /// target: an error of code [`crate::error::code::FENCED`] says that there is a later one.
    ///
    /// Where the target holds a later epoch than the claim's, the job's checkpoints were lost or set
    /// back: that is an error too, since what the job is about to write again would be taken for
    /// what is there.
    async fn open(&self, claim: Claim, wakes: &[Arc<dyn Wake>])
    -> Result<Vec<Box<dyn SinkWriter>>>;

    /// Makes epochs visible that were staged, ascending. Those that are visible already are left.
    async fn commit(&self, generation: Generation, pending: &[PendingCommit]) -> Result<()>;
}

/// Writes the rows of one task into a sink.
pub trait SinkWriter: fmt::Debug + Send {
    /// Takes rows.
    fn write(&mut self, rows: Rows) -> Result<()>;

    /// Event time has come this far.
    fn on_watermark(&mut self, _watermark: EventTime) -> Result<()> {
        Ok(())
    }

    /// Whether it can take more now; where it cannot, it wakes the task's owner once it can.
    fn has_room(&self) -> bool {
        true
    }

    /// Ends an epoch. What is given comes to its end once all rows of the epoch are durable, staged
    /// or in the target as the sink's guarantee has it.
    fn cut(&mut self, epoch: Epoch) -> Result<BoxFuture<'static, Result<Token>>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_for_people() {
        assert_eq!(EventTime(1_500_000).to_string(), "1970-01-01T00:00:01.500Z");
        assert_eq!(EventTime::MIN.to_string(), "-");
        assert_eq!(EventTime::MAX.to_string(), "end");
    }
}
