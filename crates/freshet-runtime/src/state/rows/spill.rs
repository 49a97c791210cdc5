//! Chunks of rows on disk: which go there, and what is read of them.
//!
//! A closed chunk is written segment by segment, in the form that checkpoints have of them, and what
//! was written is never changed. What finds rows stays in memory; reading a row reads its
//! segment, and the segments that were read lately stay in memory for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use freshet_core::Result;
use xxhash_rust::xxh3::xxh3_64;

use super::checkpoint::{Fresh, FreshRows, Frozen};
use super::chunk::{Chunk, batch_bytes};
use super::{RowStore, codec};
use crate::state::{Scratch, ScratchFile};

/// Bytes after which another file is begun: one is deleted when none of its chunks is left.
const FILE_BYTES: u64 = 64 << 20;

/// A segment on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    offset: u64,
    len: u32,
    hash: u64,
}

/// The segments of a chunk on disk, in their order.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    file: Arc<dyn ScratchFile>,
    blocks: Vec<Block>,
}

impl Blocks {
    /// The bytes of a segment, behind what `into` holds.
    pub(super) fn read(&self, segment: usize, into: &mut Vec<u8>) -> Result<()> {
        let Block { offset, len, hash } = self.blocks[segment];
        let start = into.len();
        into.resize(start + len as usize, 0);
        self.file.read(offset, &mut into[start..])?;
        if xxh3_64(&into[start..]) != hash {
            return Err(codec::damaged());
        }
        Ok(())
    }

    /// The rows of a segment.
    pub(super) fn rows(&self, schema: &SchemaRef, segment: usize) -> Result<RecordBatch> {
        let mut bytes = Vec::new();
        self.read(segment, &mut bytes)?;
        Ok(codec::decode(schema, &bytes)?.0)
    }

    /// Some of the segments.
    fn part(&self, first: usize, count: usize) -> Self {
        let blocks = self.blocks[first..first + count].to_vec();
        Self { file: Arc::clone(&self.file), blocks }
    }

    pub(super) fn bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Block>()
    }
}

/// What a store has on disk.
#[derive(Debug, Default)]
pub(super) struct Spill {
    /// The file that is being written, and its bytes.
    file: Option<(Arc<dyn ScratchFile>, u64)>,
    /// Closed chunks in memory, oldest first: slot and serial.
    pub(super) resident: VecDeque<(u32, u64)>,
    cache: Cache,
}

impl Spill {
    /// The rows of a segment of a chunk.
    pub(super) fn rows(
        &mut self,
        schema: &SchemaRef,
        chunk: &Chunk,
        blocks: &Blocks,
        segment: usize,
    ) -> Result<RecordBatch> {
        let key = (chunk.serial, segment as u32);
        if let Some(rows) = self.cache.get(key) {
            return Ok(rows);
        }
        let rows = blocks.rows(schema, segment)?;
        self.cache.insert(key, rows.clone());
        Ok(rows)
    }

    pub(super) fn cached(&self) -> usize {
        self.cache.bytes
    }

    fn write(
        &mut self,
        scratch: &dyn Scratch,
        bytes: &[u8],
    ) -> Result<(Arc<dyn ScratchFile>, u64)> {
        let (file, written) = match &mut self.file {
            Some(file) if file.1 < FILE_BYTES => file,
            file => file.insert((scratch.create()?, 0)),
        };
        let offset = file.append(bytes)?;
        *written += bytes.len() as u64;
        Ok((Arc::clone(file), offset))
    }
}

impl RowStore {
    /// Writes the oldest chunk that is in memory to disk; `false` where there is none.
    pub(crate) fn spill(&mut self, scratch: &dyn Scratch) -> Result<bool> {
        while let Some((slot, serial)) = self.spill.resident.pop_front() {
            let chunk = self.chunks.get_mut(slot as usize).and_then(Option::as_mut);
            let Some(chunk) = chunk.filter(|chunk| chunk.serial == serial && chunk.live > 0) else {
                continue;
            };
            let (mut bytes, mut blocks) = (Vec::new(), Vec::new());
            for segment in &chunk.segments {
                let (part, row) = chunk.locate(segment.start as usize);
                let rows = chunk.parts[part].batch.slice(row, segment.len as usize);
                let start = bytes.len();
                codec::encode(&rows, &mut bytes)?;
                let hash = xxh3_64(&bytes[start..]);
                let len = (bytes.len() - start) as u32;
                blocks.push(Block { offset: start as u64, len, hash });
            }
            let (file, offset) = self.spill.write(scratch, &bytes)?;
            for block in &mut blocks {
                block.offset += offset;
            }
            let blocks = Blocks { file, blocks };
            let frozen = self.frozen.iter_mut().filter_map(|frozen| match frozen {
                Frozen::Rows(fresh) => Some(fresh),
                _ => None,
            });
            // What a checkpoint is to be given of them must not keep them in memory.
            for fresh in self.fresh.iter_mut().chain(frozen).filter(|fresh| fresh.chunk == serial) {
                let Fresh { first, rows, segments, .. } = fresh;
                *rows = FreshRows::Disk(blocks.part(*first, segments.len()));
            }
            let chunk = self.chunks[slot as usize].as_mut().expect("it is there");
            self.resident -= chunk.resident;
            chunk.resident = 0;
            chunk.parts = Vec::new();
            self.overhead += blocks.bytes();
            chunk.overhead += blocks.bytes();
            chunk.blocks = Some(blocks);
            return Ok(true);
        }
        Ok(false)
    }

    /// Closes the chunk that takes rows, if they have more than `bytes`: then it can be spilled.
    pub(crate) fn close_above(&mut self, bytes: usize) -> Result<()> {
        match self.open.map(|open| self.chunk(open)) {
            Some(open) if open.live > 0 && open.part_bytes() > bytes => self.close(),
            _ => Ok(()),
        }
    }

    /// Lets go of segments that were read, down to `bytes`.
    pub(crate) fn shrink_cache(&mut self, bytes: usize) {
        self.spill.cache.shrink(bytes);
    }

    /// Bytes of segments that were read.
    pub(crate) fn cached(&self) -> usize {
        self.spill.cached()
    }

    /// Bytes of rows in closed chunks, which can be written to disk.
    pub(crate) fn resident(&self) -> usize {
        self.resident
    }
}

/// Segments that were read. One that was asked for since it was last considered stays once more.
#[derive(Debug, Default)]
struct Cache {
    rows: HashMap<(u64, u32), Cached>,
    queue: VecDeque<(u64, u32)>,
    bytes: usize,
}

#[derive(Debug)]
struct Cached {
    rows: RecordBatch,
    bytes: usize,
    is_used: bool,
}

impl Cache {
    fn get(&mut self, key: (u64, u32)) -> Option<RecordBatch> {
        let cached = self.rows.get_mut(&key)?;
        cached.is_used = true;
        Some(cached.rows.clone())
    }

    fn insert(&mut self, key: (u64, u32), rows: RecordBatch) {
        // The entry and its arrays take some room, too.
        let bytes = batch_bytes(&rows) + 256 * rows.num_columns();
        self.bytes += bytes;
        self.queue.push_back(key);
        self.rows.insert(key, Cached { rows, bytes, is_used: false });
    }

    fn shrink(&mut self, to: usize) {
        while self.bytes > to
            && let Some(key) = self.queue.pop_front()
        {
            let Some(cached) = self.rows.get_mut(&key) else { continue };
            if std::mem::take(&mut cached.is_used) {
                self.queue.push_back(key);
                continue;
            }
            self.bytes -= cached.bytes;
            self.rows.remove(&key);
        }
    }
}
