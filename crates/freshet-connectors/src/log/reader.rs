//! The reading side of a log: whole frames as they lie, partition by partition.
//!
//! Where this process writes the log, a reader is told how far it is durable and reads no further.
//! Where another one does, a reader looks again and again, and makes durable itself what it finds
//! before it gives it away: so nothing that was read is ever lost.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::source::Position;
use freshet_core::stream::{Block, Fetcher, Partition, Start};
use tokio::sync::watch;

use super::frame::{self, Bad};
use super::place::Place;
use super::segment::{self, Segment};
use super::writer::Settled;

/// Bytes of a block, unless a frame alone is larger.
const BLOCK: usize = 1 << 20;

/// Fetches some partitions of a log.
#[derive(Debug)]
pub(super) struct LogFetcher {
    place: Place,
    told: watch::Receiver<Option<Settled>>,
    poll: Duration,
    cursors: Vec<Cursor>,
    /// The partition that is looked at first.
    turn: usize,
}

/// Where reading a partition stands.
#[derive(Debug, Clone)]
struct Cursor {
    partition: u32,
    /// The next record.
    offset: u64,
    spot: Option<Spot>,
}

/// A place between two frames of a file.
#[derive(Debug, Clone)]
struct Spot {
    segment: Segment,
    byte: u64,
    /// The offset of the frame there.
    base: u64,
    /// Bytes of the file that this reader has made durable.
    synced: u64,
}

impl LogFetcher {
    pub fn new(place: Place, told: watch::Receiver<Option<Settled>>, poll: Duration) -> Self {
        Self { place, told, poll, cursors: Vec::new(), turn: 0 }
    }
}

#[async_trait]
impl Fetcher for LogFetcher {
    async fn add(&mut self, partition: &Partition, start: Start) -> Result<Option<Position>> {
        let number = partition.0.parse().ok().filter(|number| *number < self.place.partitions);
        let number: u32 = number.ok_or_else(|| {
            Error::new(
                code::SOURCE,
                format!(
                    "event log \"{}\" has no partition \"{}\"",
                    self.place.root.display(),
                    partition.0
                ),
            )
        })?;
        let settled = self.told.borrow().as_ref().map(|settled| settled[number as usize]);
        let place = self.place.clone();
        let offset = blocking(move || start_offset(&place, number, start, settled)).await?;
        self.cursors.push(Cursor { partition: number, offset, spot: None });
        Ok(Some(Position(offset)))
    }

    async fn fetch(&mut self) -> Result<Option<Block>> {
        loop {
            let settled = self.told.borrow_and_update().clone();
            for turn in 0..self.cursors.len() {
                let index = (self.turn + turn) % self.cursors.len();
                let cursor = &self.cursors[index];
                let limit = settled.as_ref().map(|settled| settled[cursor.partition as usize]);
                if limit.is_some_and(|limit| cursor.offset >= limit) {
                    continue;
                }
                let (place, mut cursor) = (self.place.clone(), cursor.clone());
                // What is dropped on the way is read again: the cursor here moves with the block.
                let (cursor, frames) = blocking(move || {
                    let frames = cursor.step(&place, limit)?;
                    Ok((cursor, frames))
                })
                .await?;
                self.cursors[index] = cursor;
                if let Some(Frames { bytes, position, next, written }) = frames {
                    self.turn = index + 1;
                    return Ok(Some(Block {
                        partition: index,
                        bytes,
                        position: Position(position),
                        next: Position(next),
                        written: Some(written),
                    }));
                }
            }
            let told = self.told.changed();
            if settled.is_some() {
                told.await.or_code(code::LOG, || self.place.message("read"))?;
            } else {
                // Another process writes, or none does.
                let _ = tokio::time::timeout(self.poll, told).await;
            }
        }
    }
}

/// Frames as they lie, of which those before `position` may be a part.
struct Frames {
    bytes: Bytes,
    position: u64,
    next: u64,
    written: i64,
}

impl Cursor {
    /// The next frames, of those that end at `limit` at most; without a limit those that there are.
    fn step(&mut self, place: &Place, limit: Option<u64>) -> Result<Option<Frames>> {
        let files = &*place.files;
        loop {
            let mut spot = match self.spot.take() {
                Some(spot) => spot,
                None => match self.locate(place, limit)? {
                    Some(spot) => spot,
                    None => return Ok(None),
                },
            };
            let path = spot.segment.path.clone();
            let message = || format!("could not read \"{}\"", path.display());
            let read = |byte: u64, len: usize| files.read(&path, byte, len);
            let size = match files.metadata(&path) {
                // It was replaced by one that begins at the same offset, or is too old.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entry => entry.or_code(code::LOG, message)?.size,
            };
            if limit.is_none() && size > spot.synced {
                if spot.synced == 0 {
                    files.sync_dir(&place.dir(self.partition)).or_code(code::LOG, message)?;
                }
                files.sync_file(&path).or_code(code::LOG, message)?;
                spot.synced = size;
            }
            let there = usize::try_from(size.saturating_sub(spot.byte)).unwrap_or(usize::MAX);
            let mut bytes = read(spot.byte, there.min(BLOCK)).or_code(code::LOG, message)?;
            if let Err(Bad::Short(len)) = frame::check(&bytes)
                && len > bytes.len()
                && len <= there
            {
                bytes = read(spot.byte, len).or_code(code::LOG, message)?;
            }
            let (mut from, mut at, mut written) = (0, 0, 0);
            let mut bad = None;
            while at < bytes.len() && limit.is_none_or(|limit| spot.base < limit) {
                match frame::check(&bytes[at..]) {
                    Ok(header) if header.base == spot.base => {
                        at += header.len;
                        spot.base = header.next();
                        written = header.time;
                        if spot.base <= self.offset {
                            from = at;
                        }
                        continue;
                    }
                    Ok(_) => bad = Some("offsets do not follow"),
                    Err(Bad::Damaged(what)) => bad = Some(what),
                    Err(Bad::Short(_)) => bad = Some("the file ends within a frame"),
                }
                // What was sound so far is given first; then it is looked at again.
                break;
            }
            spot.byte += at as u64;
            if from < at {
                let frames = Frames {
                    bytes: bytes.slice(from..at),
                    position: self.offset,
                    next: spot.base,
                    written,
                };
                self.offset = spot.base;
                self.spot = Some(spot);
                return Ok(Some(frames));
            }
            if at > 0 {
                // All of it lies before what is wanted.
                self.spot = Some(spot);
                continue;
            }
            // The segment has no more: it ends where the next one begins.
            let (segments, _) = list(place, self.partition)?;
            let after = |segment: &&Segment| {
                (segment.base, segment.attempt) > (spot.segment.base, spot.segment.attempt)
            };
            match segments.iter().filter(after).min_by_key(|segment| segment.base) {
                // Or before that: a writer that opens the log writes the frames anew of which nothing says
                // that they are durable, and what was read of them here is the same there.
                Some(next) if next.base <= spot.base => continue,
                None if limit.is_none_or(|limit| limit <= spot.base) => {
                    if spot.base < self.offset {
                        return Err(beyond(place, self.partition, self.offset, spot.base));
                    }
                    self.spot = Some(spot);
                    return Ok(None);
                }
                _ => {
                    let what = bad.unwrap_or("the file is too short");
                    return Err(segment::damaged(&spot.segment.path, spot.byte, what));
                }
            }
        }
    }

    /// The start of the segment that has the next record.
    fn locate(&self, place: &Place, limit: Option<u64>) -> Result<Option<Spot>> {
        let (segments, _) = list(place, self.partition)?;
        let holds = segments.iter().rfind(|segment| segment.base <= self.offset);
        match (holds, segments.first()) {
            (Some(segment), _) => Ok(Some(Spot::start(segment.clone()))),
            (None, None) if self.offset == 0 && limit.is_none_or(|limit| limit == 0) => Ok(None),
            (None, None) => Err(beyond(place, self.partition, self.offset, 0)),
            (None, Some(first)) => Err(Error::new(
                code::SOURCE,
                format!(
                    "the records of event log \"{}\" from position {} of partition {} are gone, the oldest is {}",
                    place.root.display(),
                    self.offset,
                    self.partition,
                    first.base
                ),
            )
            .hint("keep records for longer (`retention_time`, `retention_bytes`), or start at the earliest")),
        }
    }
}

/// All frames that a reader of another process finds now, with the offset of the first one in each.
#[cfg(test)]
pub(super) fn drain(place: &Place, partition: u32) -> Result<Vec<(u64, Bytes)>> {
    let offset = start_offset(place, partition, Start::Earliest, None)?;
    let mut cursor = Cursor { partition, offset, spot: None };
    let mut found = Vec::new();
    while let Some(frames) = cursor.step(place, None)? {
        found.push((frames.position, frames.bytes));
    }
    Ok(found)
}

impl Spot {
    fn start(segment: Segment) -> Self {
        let base = segment.base;
        Self { segment, byte: 0, base, synced: 0 }
    }
}

fn start_offset(place: &Place, partition: u32, start: Start, settled: Option<u64>) -> Result<u64> {
    match (start, settled) {
        (Start::At(position), Some(settled)) if position.0 > settled => {
            Err(beyond(place, partition, position.0, settled))
        }
        (Start::At(position), _) => Ok(position.0),
        (Start::Earliest | Start::Configured, _) => {
            Ok(list(place, partition)?.0.first().map_or(0, |segment| segment.base))
        }
        (Start::Latest, Some(settled)) => Ok(settled),
        (Start::Latest, None) => {
            let (segments, _) = list(place, partition)?;
            let Some(last) = segments.last() else { return Ok(0) };
            Ok(segment::recover(&*place.files, last, |_, _| {})?.end)
        }
    }
}

fn list(place: &Place, partition: u32) -> Result<(Vec<Segment>, Vec<Segment>)> {
    segment::list(&*place.files, &place.dir(partition))
        .or_code(code::LOG, || place.message("list the files of"))
}

fn beyond(place: &Place, partition: u32, offset: u64, end: u64) -> Error {
    Error::new(
        code::SOURCE,
        format!(
            "event log \"{}\" has no position {offset} in partition {partition}, it ends at {end}",
            place.root.display()
        ),
    )
    .hint("it is not the log that was read before, or an older copy of it: start at the earliest")
}

/// Runs blocking work off the async threads, where there are any.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime
            .spawn_blocking(work)
            .await
            .or_code(code::INTERNAL, || "a blocking task was lost".to_owned())?,
        Err(_) => work(),
    }
}

/// How far the log is durable, as readers of this process are told.
pub(super) fn telling() -> watch::Sender<Option<Settled>> {
    watch::Sender::new(None::<Arc<[u64]>>)
}
