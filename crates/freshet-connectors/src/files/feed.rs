//! Bytes of a file in order: stored bytes, hashed as they pass, decompressed and transcoded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use freshet_core::error::{Error, Result, ResultExt, code};
use tokio::task::JoinHandle;

use super::codec::{Buffer, Compression, Decompressor, Encoding, Transcoder};
use super::digest::BlockHasher;
use super::place::Blob;

/// Bytes of one request to a remote store.
const PIECE: u64 = 4 << 20;
/// Requests that are under way while the bytes before them are decoded.
const AHEAD: usize = 3;
/// Stored bytes that a decompressor is given at once.
const INPUT: usize = 128 << 10;

/// Stored bytes from `pos` to `end`.
#[derive(Debug)]
struct Raw {
    blob: Arc<dyn Blob>,
    pos: u64,
    end: u64,
    hasher: Option<BlockHasher>,
    counter: Option<Arc<AtomicU64>>,
    ahead: VecDeque<JoinHandle<Result<Bytes>>>,
    requested: u64,
    current: Bytes,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.ahead.iter().for_each(JoinHandle::abort);
    }
}

impl Raw {
    fn new(blob: Arc<dyn Blob>, pos: u64, end: u64, hash: bool) -> Self {
        Self {
            blob,
            pos,
            end,
            hasher: hash.then(BlockHasher::default),
            counter: None,
            ahead: VecDeque::new(),
            requested: pos,
            current: Bytes::new(),
        }
    }

    fn is_done(&self) -> bool {
        self.pos == self.end
    }

    /// Appends up to `n` bytes; fewer only where a piece or the end is reached.
    async fn read(&mut self, n: usize, into: &mut Buffer) -> Result<()> {
        let n = n.min(usize::try_from(self.end - self.pos).unwrap_or(usize::MAX));
        if n == 0 {
            return Ok(());
        }
        let start = into.len();
        let taken = if let Some(local) = self.blob.local() {
            local.read_into(self.pos, &mut into.room(n)[..n])?;
            into.advance(n);
            n
        } else {
            if self.current.is_empty() {
                self.current = self.next_piece().await?;
            }
            let piece = self.current.split_to(n.min(self.current.len()));
            into.extend(&piece);
            piece.len()
        };
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&into.filled()[start..]);
        }
        if let Some(counter) = &self.counter {
            counter.fetch_add(taken as u64, Ordering::Relaxed);
        }
        self.pos += taken as u64;
        Ok(())
    }

    async fn next_piece(&mut self) -> Result<Bytes> {
        while self.ahead.len() < AHEAD && self.requested < self.end {
            let len = PIECE.min(self.end - self.requested);
            let (blob, offset) = (Arc::clone(&self.blob), self.requested);
            self.ahead
                .push_back(tokio::spawn(async move { blob.read(offset, len as usize).await }));
            self.requested += len;
        }
        let piece = self.ahead.pop_front().expect("bytes are left, so that some were requested");
        piece.await.or_code(code::INTERNAL, || "a read was stopped".to_owned())?
    }
}

/// A part of a file's text.
#[derive(Debug)]
pub enum Feed {
    /// Stored bytes that are text already: those of a range, and the line that it cuts to its end.
    Range(RangeFeed),
    /// The whole file through its codec.
    Stream(StreamFeed),
}

impl Feed {
    /// Appends text until `into` holds at least `target` bytes; `true` where it now holds the last.
    pub async fn fill(&mut self, into: &mut Buffer, target: usize) -> Result<bool> {
        match self {
            Self::Range(feed) => feed.fill(into, target).await,
            Self::Stream(feed) => feed.fill(into, target).await,
        }
    }

    /// Counts stored bytes as they are read.
    pub fn count_with(&mut self, counter: &Arc<AtomicU64>) {
        let raw = match self {
            Self::Range(feed) => &mut feed.raw,
            Self::Stream(feed) => &mut feed.raw,
        };
        raw.counter = Some(Arc::clone(counter));
    }

    /// Digests of the blocks that were read, where they were asked for.
    pub fn blocks(&mut self) -> Option<Vec<u128>> {
        let raw = match self {
            Self::Range(feed) => &mut feed.raw,
            Self::Stream(feed) => &mut feed.raw,
        };
        raw.hasher.take().map(BlockHasher::finish)
    }
}

/// Stored bytes `[start, end)` and then some more: up to the first line feed at or behind `end`, or
/// for as long as somebody asks.
#[derive(Debug)]
pub struct RangeFeed {
    raw: Raw,
    /// Where the rest of the line that the range cuts is read; `None` once it was.
    tail: Option<u64>,
    /// Bytes of the next read of it: little at first, more where the line is long.
    step: u64,
    /// Whether a line feed does not end it.
    onward: bool,
}

impl RangeFeed {
    /// The range of a file of uncompressed UTF-8.
    pub fn new(blob: Arc<dyn Blob>, start: u64, end: u64, hash: bool) -> Self {
        let tail = (end < blob.size()).then_some(end);
        let step = if blob.local().is_some() { 4 << 10 } else { 64 << 10 };
        Self { raw: Raw::new(blob, start, end, hash), tail, step, onward: false }
    }

    /// The range, and then all that follows, of which only as much is read as is asked for.
    pub fn onward(blob: Arc<dyn Blob>, start: u64, end: u64, hash: bool) -> Self {
        Self { onward: true, ..Self::new(blob, start, end, hash) }
    }

    async fn fill(&mut self, into: &mut Buffer, target: usize) -> Result<bool> {
        let within = !self.raw.is_done();
        while !self.raw.is_done() {
            if into.len() >= target {
                return Ok(false);
            }
            let n = target - into.len();
            self.raw.read(n, into).await?;
        }
        if self.onward && within {
            // Whoever reads looks first whether it needs more than the range.
            return Ok(self.tail.is_none());
        }
        while let Some(at) = self.tail {
            let blob = &self.raw.blob;
            let n = self.step.min(blob.size() - at) as usize;
            let before = into.len();
            if let Some(local) = blob.local() {
                local.read_into(at, &mut into.room(n)[..n])?;
                into.advance(n);
            } else {
                into.extend(&blob.read(at, n).await?);
            }
            if self.onward {
                let next = at + n as u64;
                self.tail = (next < blob.size()).then_some(next);
                self.step = (self.step * 4).min(1 << 20);
                return Ok(self.tail.is_none());
            }
            if let Some(found) = memchr::memchr(b'\n', &into.filled()[before..]) {
                into.truncate(before + found + 1);
                self.tail = None;
            } else {
                let next = at + n as u64;
                self.tail = (next < blob.size()).then_some(next);
                self.step = (self.step * 4).min(1 << 20);
                if into.len() >= target {
                    return Ok(self.tail.is_none());
                }
            }
        }
        Ok(true)
    }
}

/// A whole file, decompressed and transcoded.
#[derive(Debug)]
pub struct StreamFeed {
    raw: Raw,
    name: String,
    decompressor: Option<Decompressor>,
    transcoder: Option<Transcoder>,
    /// Bytes of a byte order mark still to be left out.
    mark: usize,
    input: Buffer,
    taken: usize,
    plain: Buffer,
    done: bool,
}

/// How a file's stored bytes become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codec {
    /// Resolved.
    pub compression: Compression,
    /// Resolved.
    pub encoding: Encoding,
    /// Bytes of a byte order mark to be left out.
    pub mark: usize,
}

impl Codec {
    /// Whether stored bytes are text.
    pub fn is_plain(self) -> bool {
        self.compression == Compression::None && self.encoding == Encoding::Utf8
    }
}

impl StreamFeed {
    /// The text of a file called `name`.
    pub fn new(blob: Arc<dyn Blob>, name: &str, codec: Codec, hash: bool) -> Result<Self> {
        let size = blob.size();
        Ok(Self {
            raw: Raw::new(blob, 0, size, hash),
            name: name.to_owned(),
            decompressor: Decompressor::new(codec.compression)?,
            transcoder: Transcoder::new(codec.encoding),
            mark: codec.mark,
            input: Buffer::default(),
            taken: 0,
            plain: Buffer::default(),
            done: false,
        })
    }

    async fn fill(&mut self, into: &mut Buffer, target: usize) -> Result<bool> {
        while !self.done && into.len() < target {
            if self.transcoder.is_none() {
                self.done = self.step(into, target).await?;
                continue;
            }
            let mut plain = std::mem::take(&mut self.plain);
            plain.truncate(0);
            let result = self.step(&mut plain, INPUT).await;
            self.plain = plain;
            self.done = result?;
            let skipped = self.mark.min(self.plain.len());
            self.mark -= skipped;
            if let Some(transcoder) = &mut self.transcoder {
                transcoder.decode(&self.plain.filled()[skipped..], self.done, into);
            }
        }
        Ok(self.done)
    }

    /// Appends some decompressed bytes; `true` at the end.
    async fn step(&mut self, into: &mut Buffer, target: usize) -> Result<bool> {
        let n = target.saturating_sub(into.len()).max(1);
        let Some(decompressor) = &mut self.decompressor else {
            self.raw.read(n, into).await?;
            return Ok(self.raw.is_done());
        };
        if self.taken == self.input.len() && !self.raw.is_done() {
            self.input.truncate(0);
            self.taken = 0;
            self.raw.read(INPUT, &mut self.input).await?;
        }
        into.room(n);
        let before = into.len();
        let broken = |why: String| {
            Error::new(code::FILE_BROKEN, format!("file \"{}\" is broken: {why}", self.name))
                .hint("replace the file and run again")
        };
        let taken =
            decompressor.decode(&self.input.filled()[self.taken..], into).map_err(broken)?;
        self.taken += taken;
        let at_end = self.raw.is_done() && self.taken == self.input.len();
        if at_end && taken == 0 && into.len() == before {
            if decompressor.is_complete() {
                return Ok(true);
            }
            return Err(broken("its compressed content is cut off".to_owned()));
        }
        if taken == 0 && into.len() == before && self.taken < self.input.len() {
            return Err(broken("its compressed content makes no progress".to_owned()));
        }
        Ok(false)
    }
}

/// The digest's blocks of a whole file.
pub async fn hash_file(blob: &Arc<dyn Blob>) -> Result<Vec<u128>> {
    let mut raw = Raw::new(Arc::clone(blob), 0, blob.size(), true);
    let mut buffer = Buffer::with_capacity(1 << 20);
    while !raw.is_done() {
        buffer.truncate(0);
        raw.read(1 << 20, &mut buffer).await?;
    }
    Ok(raw.hasher.take().map(BlockHasher::finish).unwrap_or_default())
}
