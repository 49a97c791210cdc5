//! What a checkpoint is given of a store of rows, and how a store takes it back.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use freshet_core::Result;
use freshet_core::stream::EventTime;

use super::chunk::{CHUNK_ROWS, DEAD, Link, ROW_BITS, Segment, UNLINKED};
use super::spill::Blocks;
use super::{RowRef, RowStore, Times, codec, split};
use crate::state::{Delta, Entry, KeyGroup};

/// Segments that no checkpoint has.
#[derive(Debug)]
pub(super) struct Fresh {
    /// The serial number of their chunk.
    pub(super) chunk: u64,
    /// Where its segments are among the chunk's.
    pub(super) first: usize,
    pub(super) rows: FreshRows,
    pub(super) segments: Vec<Segment>,
    /// Of each segment, a bit for each row, where any is marked.
    pub(super) marks: Vec<Option<Vec<u8>>>,
}

/// The rows of such segments.
#[derive(Debug)]
pub(super) enum FreshRows {
    /// In memory, the first of them at this place of the chunk.
    Memory { start: u32, batch: RecordBatch },
    /// On disk.
    Disk(Blocks),
}

/// What a checkpoint is given.
#[derive(Debug)]
pub(super) enum Frozen {
    Rows(Fresh),
    Bits { group: KeyGroup, number: u64, expires: i64, bits: Vec<u8> },
    Removed { group: KeyGroup, number: u64, expires: i64 },
}

impl RowStore {
    /// Cuts a checkpoint.
    pub(crate) fn freeze(&mut self) -> Result<()> {
        self.seal()?;
        self.frozen.extend(self.fresh.drain(..).map(Frozen::Rows));
        for (serial, slot, index) in std::mem::take(&mut self.dirty) {
            let Some(chunk) = self.chunks.get_mut(slot as usize).and_then(Option::as_mut) else {
                continue;
            };
            if chunk.serial != serial {
                continue;
            }
            let Some(segment) = chunk.segments.get_mut(index as usize) else { continue };
            segment.dirty = false;
            if segment.live == 0 {
                continue;
            }
            let Segment { group, number, start, len, expires, .. } = *segment;
            let mut bits = Vec::new();
            chunk.dead.write(start as usize, len as usize, &mut bits);
            chunk.marks.write(start as usize, len as usize, &mut bits);
            self.frozen.push_back(Frozen::Bits { group, number, expires, bits });
        }
        let removed = self.removed.drain(..);
        self.frozen.extend(removed.map(|(group, number, expires)| Frozen::Removed {
            group,
            number,
            expires,
        }));
        Ok(())
    }

    /// Gives entries of the frozen checkpoint until `delta` has `enough` bytes; `true` once all were
    /// given.
    pub(crate) fn drain(&mut self, enough: usize, delta: &mut Delta) -> Result<bool> {
        let table = self.options.table;
        let mut key = self.options.prefix.clone();
        let prefix = key.len();
        while delta.bytes() < enough {
            let Some(frozen) = self.frozen.front_mut() else { return Ok(true) };
            let mut name = |number: u64, kind: u8| {
                key.truncate(prefix);
                key.extend_from_slice(&number.to_be_bytes());
                key.push(kind);
                key.clone()
            };
            match frozen {
                Frozen::Rows(fresh) => {
                    let segment = fresh.segments.pop().zip(fresh.marks.pop());
                    if let Some((segment, marks)) = segment {
                        let index = fresh.segments.len();
                        let entry = Entry {
                            group: segment.group,
                            table,
                            key: &name(segment.number, ROWS),
                            expires: EventTime(segment.expires),
                            value: &[],
                        };
                        delta.set_written(entry, |into| {
                            match &fresh.rows {
                                FreshRows::Disk(blocks) => blocks.read(index, into)?,
                                FreshRows::Memory { start, batch } => {
                                    let start = (segment.start - start) as usize;
                                    codec::encode(&batch.slice(start, segment.len as usize), into)?;
                                }
                            }
                            into.extend(marks.unwrap_or_default());
                            Ok(())
                        })?;
                        continue;
                    }
                }
                Frozen::Bits { group, number, expires, bits } => delta.set(Entry {
                    group: *group,
                    table,
                    key: &name(*number, BITS),
                    expires: EventTime(*expires),
                    value: bits,
                })?,
                Frozen::Removed { group, number, expires } => {
                    for kind in [ROWS, BITS] {
                        let key = name(*number, kind);
                        match *expires {
                            i64::MAX => delta.remove(*group, table, &key)?,
                            // What is removed is to be known for ever; what is empty dies.
                            expires => delta.set(Entry {
                                group: *group,
                                table,
                                key: &key,
                                expires: EventTime(expires),
                                value: &[],
                            })?,
                        }
                    }
                }
            }
            self.frozen.pop_front();
        }
        Ok(self.frozen.is_empty())
    }

    /// What an entry of a checkpoint holds; `key` is without the store's prefix.
    pub(crate) fn read<'a>(schema: &SchemaRef, key: &[u8], value: &'a [u8]) -> Result<Loaded<'a>> {
        let (number, kind) = key.split_first_chunk::<8>().ok_or_else(codec::damaged)?;
        let number = u64::from_be_bytes(*number);
        match (kind, value) {
            (_, []) => Ok(Loaded::Nothing),
            ([ROWS], value) => {
                let (batch, marks) = codec::decode(schema, value)?;
                if !marks.is_empty() && marks.len() != batch.num_rows().div_ceil(8) {
                    return Err(codec::damaged());
                }
                Ok(Loaded::Rows { number, batch, marks })
            }
            ([BITS], bits) => Ok(Loaded::Bits { number, bits }),
            _ => Err(codec::damaged()),
        }
    }

    /// Takes rows of a checkpoint, with the keys' numbers; links them.
    pub(crate) fn restore(&mut self, rows: &Restored<'_>) -> Result<Range<RowRef>> {
        let Restored { batch, keys, group, number, marks, expires, times } = *rows;
        let rows = batch.num_rows();
        if rows == 0 || rows > CHUNK_ROWS {
            return Err(codec::damaged());
        }
        self.next_number = self.next_number.max(number + 1);
        if let Some(open) = self.open
            && self.chunk(open).len() + rows > CHUNK_ROWS
        {
            self.close()?;
        }
        let slot = self.room(expires)?;
        let counts = self.options.counts;
        let chunk = self.chunk_mut(slot);
        let first = chunk.len();
        debug_assert_eq!(chunk.sealed, first, "nothing but restored rows came before");
        chunk.links.extend(keys.iter().map(|key| Link { next: UNLINKED, key: *key }));
        chunk.places.extend((first..first + rows).map(|place| place as u16));
        for row in 0..rows {
            if marks.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1) {
                chunk.marks.set(first + row);
            }
        }
        chunk.times.extend((0..rows).filter_map(|row| times.of(row)));
        chunk.last_expires = chunk.last_expires.max(expires);
        if counts {
            chunk.counts.resize(first + rows, UNKNOWN);
        }
        let segment = Segment {
            group,
            number,
            start: first as u32,
            len: rows as u32,
            live: rows as u32,
            expires,
            dirty: false,
        };
        chunk.add_sealed(first, batch.clone(), vec![segment])?;
        chunk.sealed = first + rows;
        chunk.live += rows as u32;
        self.live += rows;
        let base = slot << ROW_BITS;
        let refs = base | first as u32..(base | first as u32) + rows as u32;
        for row in refs.clone() {
            self.link(row);
        }
        Ok(refs)
    }

    /// Applies what became of the rows of segment `number` of `group` after they were written. Gives the
    /// keys of rows that are no more.
    pub(crate) fn restore_bits(&mut self, rows: Range<RowRef>, bits: &[u8]) -> Result<Vec<u32>> {
        let len = rows.len();
        let bytes = len.div_ceil(8);
        if bits.len() != 2 * bytes {
            return Err(codec::damaged());
        }
        let is_set = |bits: &[u8], row: usize| bits[row / 8] >> (row % 8) & 1 == 1;
        let (dead, marks) = bits.split_at(bytes);
        let mut gone = Vec::new();
        for (index, row) in rows.enumerate() {
            let (slot, number) = split(row);
            let chunk = self.chunk_mut(slot);
            let place = usize::from(chunk.places[number]);
            if is_set(marks, index) {
                chunk.marks.set(place);
            }
            if is_set(dead, index) {
                let key = chunk.links[number].key;
                if key == DEAD {
                    continue;
                }
                self.kill(row, false);
                self.prune(key);
                gone.push(key);
            }
        }
        Ok(gone)
    }
}

const ROWS: u8 = 0;
const BITS: u8 = 1;

/// The counter of a row that was restored.
pub(crate) const UNKNOWN: u32 = u32::MAX;

/// An entry of a checkpoint.
#[derive(Debug)]
pub(crate) enum Loaded<'a> {
    /// Nothing any more.
    Nothing,
    /// Rows.
    Rows { number: u64, batch: RecordBatch, marks: &'a [u8] },
    /// What became of them.
    Bits { number: u64, bits: &'a [u8] },
}

/// Rows of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restored<'a> {
    pub(crate) batch: &'a RecordBatch,
    /// The numbers of their keys.
    pub(crate) keys: &'a [u32],
    pub(crate) group: KeyGroup,
    pub(crate) number: u64,
    pub(crate) marks: &'a [u8],
    /// When the entry is dead.
    pub(crate) expires: i64,
    /// The times of its rows.
    pub(crate) times: Times<'a>,
}
