//! Reading of one unit of a file: chunks to records, with the books kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use freshet_core::error::{Error, Result};
use freshet_core::format::{Chunk, Decoder};
use freshet_core::record::{Decoded, Reject};

use super::codec::Buffer;
use super::feed::Feed;

/// Text that is decoded at once: it should stay in a core's cache between reading and decoding.
pub const CHUNK: usize = 512 << 10;
/// Buffers that wait for their last batch to be dropped.
const RETIRED: usize = 6;

/// Buffers of one worker, used again once no batch refers to them.
#[derive(Debug, Default)]
pub struct Pool {
    retired: VecDeque<Bytes>,
}

impl Pool {
    /// An empty buffer of at least `capacity`.
    pub fn take(&mut self, capacity: usize) -> Buffer {
        for index in 0..self.retired.len() {
            let candidate = &self.retired[index];
            if candidate.len() < capacity || !candidate.is_unique() {
                continue;
            }
            let bytes = self.retired.remove(index).expect("the index was just looked at");
            match bytes.try_into_mut() {
                Ok(memory) => return Buffer::reuse(memory),
                Err(shared) => self.retire(shared),
            }
        }
        Buffer::with_capacity(capacity)
    }

    /// Keeps `bytes`, a whole buffer, until it is free.
    pub fn retire(&mut self, bytes: Bytes) {
        if self.retired.len() == RETIRED {
            self.retired.pop_front();
        }
        self.retired.push_back(bytes);
    }
}

/// Bytes behind a record that are none of its own, a carriage return and a line feed: a decoder may
/// want to see them before it says that the record is too large.
const LINE_END: usize = 2;

/// Some text of one file and the decoder of its records.
pub struct TextUnit {
    feed: Feed,
    decoder: Box<dyn Decoder>,
    chunk: usize,
    max_record_bytes: usize,
    /// Bytes at the front that are no records: the header.
    discard: u64,
    /// Whether all up to the next line feed belongs to an earlier unit, or to a record that was
    /// rejected already.
    seek: Option<Seek>,
    buffer: Buffer,
    /// Records that begin here or behind belong to another unit.
    stop: u64,
    offset: u64,
    lines: u64,
    done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seek {
    /// The line was begun by another unit, which counts it.
    Others,
    /// The line is that of a record that is too large.
    TooLarge,
}

/// Where a unit's text begins and how it is cut.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Offset in the text of the feed's first byte.
    pub offset: u64,
    /// Offset in the text of the file's first record, or of the unit's where that is known.
    pub data_offset: u64,
    /// Where a unit that begins in the file's middle finds its first record.
    pub first: First,
    /// Records that begin here or behind belong to another unit, as the decoder knows.
    pub stop: Option<u64>,
    /// Bytes of a chunk.
    pub chunk: usize,
    /// A record larger than this is a dead letter.
    pub max_record_bytes: usize,
}

/// Where a unit that begins in a file's middle finds its first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// Behind the next line feed.
    NextLine,
    /// At `data_offset`.
    Known,
}

impl std::fmt::Debug for TextUnit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextUnit").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl TextUnit {
    /// Reads `feed` from `start` on.
    pub fn new(
        mut feed: Feed,
        decoder: Box<dyn Decoder>,
        start: Start,
        read: &Arc<AtomicU64>,
    ) -> Self {
        feed.count_with(read);
        let inside =
            start.first == First::NextLine && start.offset > 0 && start.data_offset <= start.offset;
        Self {
            feed,
            decoder,
            chunk: start.chunk,
            max_record_bytes: start.max_record_bytes,
            discard: start.data_offset.saturating_sub(start.offset),
            seek: inside.then_some(Seek::Others),
            buffer: Buffer::default(),
            stop: start.stop.unwrap_or(u64::MAX),
            offset: start.offset,
            lines: 0,
            done: false,
        }
    }

    /// Offset in the text behind the last record that was decoded; once all were, where the next
    /// unit's records begin.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Digests of the blocks that were read.
    pub fn blocks(&mut self) -> Option<Vec<u128>> {
        self.feed.blocks()
    }

    /// Decodes one more chunk into `out`; `false` where none is left. Lines of rejects count from
    /// the unit's first.
    pub async fn step(&mut self, pool: &mut Pool, out: &mut Decoded) -> Result<bool> {
        if self.done {
            return Ok(false);
        }
        let target = self.chunk.max(self.buffer.len() * 2);
        if self.buffer.capacity() < target {
            let carried = std::mem::replace(&mut self.buffer, pool.take(target + (16 << 10)));
            self.buffer.extend(carried.filled());
        }
        let last = self.feed.fill(&mut self.buffer, target).await?;
        let Some(begin) = self.begin(last, out) else {
            self.buffer.truncate(0);
            // The first record is known only once all in front of it was passed.
            let found = self.discard == 0 && self.seek.is_none();
            self.done = last || (found && self.offset >= self.stop);
            return Ok(!self.done);
        };
        if self.offset >= self.stop {
            self.done = true;
            return Ok(false);
        }
        let (bytes, end) = std::mem::take(&mut self.buffer).freeze();
        let text = bytes.slice(begin..end);
        let chunk = Chunk { bytes: text.clone(), offset: self.offset, last };
        let before = (out.rejects.len(), out.lines);
        let consumed = self.decoder.decode(&chunk, out)?;
        drop(chunk);
        for reject in &mut out.rejects[before.0..] {
            reject.line += self.lines;
        }
        self.lines += out.lines - before.1;
        self.offset += consumed as u64;
        let mut tail = &text[consumed..];
        if last || self.offset >= self.stop {
            if !tail.is_empty() && self.offset < self.stop {
                return Err(Error::internal("a decoder left bytes at the end of its input"));
            }
            self.done = true;
        } else if consumed == 0
            && tail.len() > self.max_record_bytes.saturating_add(self.chunk.max(LINE_END))
        {
            tail = self.too_large(tail, out);
        }
        if !self.done {
            self.buffer = pool.take(self.chunk.max(tail.len()) + (16 << 10));
            self.buffer.extend(tail);
        }
        drop(text);
        pool.retire(bytes);
        Ok(!self.done)
    }

    /// Passes over what is not to be decoded; the place in the buffer where records begin, or
    /// `None` where all of it is passed over.
    fn begin(&mut self, last: bool, out: &mut Decoded) -> Option<usize> {
        let filled = self.buffer.filled();
        let mut begin = 0;
        if self.discard > 0 {
            begin = usize::try_from(self.discard).unwrap_or(usize::MAX).min(filled.len());
            self.discard -= begin as u64;
            self.offset += begin as u64;
        }
        if let Some(seek) = self.seek {
            let found = memchr::memchr(b'\n', &filled[begin..]);
            let passed = found.map_or(filled.len() - begin, |found| found + 1);
            begin += passed;
            self.offset += passed as u64;
            if seek == Seek::TooLarge && (found.is_some() || last) {
                self.lines += 1;
                out.lines += 1;
            }
            if found.is_some() {
                self.seek = None;
            }
        }
        (begin < filled.len()).then_some(begin)
    }

    /// Rejects a record of which no decoder can see the end, and passes over its first line.
    fn too_large<'a>(&mut self, tail: &'a [u8], out: &mut Decoded) -> &'a [u8] {
        let line = memchr::memchr(b'\n', tail);
        let record = line.map_or(tail, |end| &tail[..end]);
        if self.decoder.is_record(record) {
            out.rejects.push(Reject::too_large(
                self.offset,
                self.lines + 1,
                self.max_record_bytes,
                record,
            ));
            out.records += 1;
        }
        match line {
            Some(end) => {
                self.offset += end as u64 + 1;
                self.lines += 1;
                out.lines += 1;
                &tail[end + 1..]
            }
            None => {
                self.offset += tail.len() as u64;
                self.seek = Some(Seek::TooLarge);
                &[]
            }
        }
    }
}
