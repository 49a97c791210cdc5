//! Sorted runs: the form in which state lies in files.
//!
//! A run is a sequence of blocks of about 64 KiB, each with the number of its bytes (u32, little
//! endian), its XXH3 (u64) and its entries. An entry is group (u16), table (u8), flags (u8: 1 for
//! removed), expiry (i64), lengths of key and value (u32 each), key, value. Entries ascend by group,
//! table and key, each key once.

use std::collections::BTreeMap;

use bytes::Bytes;
use freshet_core::{Error, Result, error::code};
use xxhash_rust::xxh3::xxh3_64;

use crate::state::{Delta, Entry, KeyGroup};
use freshet_core::stream::EventTime;

const BLOCK: usize = 64 << 10;
const HEADER: usize = 12;
const FIXED: usize = 20;
const REMOVED: u8 = 1;

/// The bytes of a run of what changed, with the number of its entries.
pub fn write_run(delta: &mut Delta) -> (Bytes, u64) {
    let mut writer = RunWriter::with_capacity(delta.bytes() + delta.len() * FIXED);
    for (entry, removed) in delta.sorted() {
        writer.push(&entry, removed);
    }
    let bytes = writer.take();
    (bytes, writer.entries)
}

/// Writes a run, whose bytes may be taken away in pieces.
#[derive(Debug, Default)]
pub(crate) struct RunWriter {
    bytes: Vec<u8>,
    /// Where the entries of the block begin that is being written.
    block: Option<usize>,
    /// How many were written.
    pub(crate) entries: u64,
    /// By table, when the last of its entries is dead.
    pub(crate) expires: BTreeMap<u8, EventTime>,
}

impl RunWriter {
    /// With room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Bytes that were written and not taken.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the next entry, or that its key is no more.
    pub(crate) fn push(&mut self, entry: &Entry<'_>, removed: bool) {
        let run = &mut self.bytes;
        let block = *self.block.get_or_insert_with(|| {
            run.extend_from_slice(&[0; HEADER]);
            run.len()
        });
        run.extend_from_slice(&entry.group.0.to_le_bytes());
        run.push(entry.table);
        run.push(if removed { REMOVED } else { 0 });
        run.extend_from_slice(&entry.expires.0.to_le_bytes());
        run.extend_from_slice(&(entry.key.len() as u32).to_le_bytes());
        run.extend_from_slice(&(entry.value.len() as u32).to_le_bytes());
        run.extend_from_slice(entry.key);
        run.extend_from_slice(entry.value);
        self.entries += 1;
        let last = self.expires.entry(entry.table).or_insert(entry.expires);
        *last = entry.expires.max(*last);
        if run.len() - block >= BLOCK {
            self.seal();
        }
    }

    /// Takes all that was written since the last time, as whole blocks.
    pub(crate) fn take(&mut self) -> Bytes {
        self.seal();
        std::mem::take(&mut self.bytes).into()
    }

    fn seal(&mut self) {
        let Some(block) = self.block.take() else { return };
        let run = &mut self.bytes;
        let (length, hash) = ((run.len() - block) as u32, xxh3_64(&run[block..]));
        run[block - HEADER..block - 8].copy_from_slice(&length.to_le_bytes());
        run[block - 8..block].copy_from_slice(&hash.to_le_bytes());
    }
}

/// A block that is being read.
#[derive(Debug, Default)]
pub(super) struct Block {
    bytes: Bytes,
    /// Where the next entry begins.
    at: usize,
}

impl Block {
    /// What [`Head`]s refer to.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the next block off `window`; gives how many bytes the window lacks for it.
    pub(super) fn refill(&mut self, window: &mut Bytes, file: &str) -> Result<u64> {
        if window.len() < HEADER {
            return Ok((HEADER - window.len()) as u64);
        }
        let length = u32::from_le_bytes(window[..4].try_into().expect("4 bytes")) as usize;
        let hash = u64::from_le_bytes(window[4..HEADER].try_into().expect("8 bytes"));
        let Some(block) = window.get(HEADER..HEADER + length) else {
            return Ok((HEADER + length - window.len()) as u64);
        };
        if block.is_empty() || xxh3_64(block) != hash {
            return Err(damaged(file));
        }
        self.bytes = window.split_to(HEADER + length).slice(HEADER..);
        self.at = 0;
        Ok(0)
    }

    /// Leaves out the entries that were not read.
    pub(super) fn skip(&mut self) {
        self.at = self.bytes.len();
    }

    /// The next entry; `None` behind the last.
    pub(super) fn next(&mut self, file: &str) -> Result<Option<Head>> {
        let rest = &self.bytes[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let (fixed, rest) = rest.split_at_checked(FIXED).ok_or_else(|| damaged(file))?;
        let length = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().expect("4 bytes"));
        let (key, value) = (length(12), length(16));
        if key as usize + value as usize > rest.len() {
            return Err(damaged(file));
        }
        let head = Head {
            group: KeyGroup(u16::from_le_bytes(fixed[..2].try_into().expect("2 bytes"))),
            table: fixed[2],
            removed: fixed[3] & REMOVED != 0,
            expires: EventTime(i64::from_le_bytes(fixed[4..12].try_into().expect("8 bytes"))),
            start: (self.at + FIXED) as u32,
            key,
            value,
            prefix: prefix(fixed, &rest[..key as usize]),
        };
        self.at += FIXED + key as usize + value as usize;
        Ok(Some(head))
    }
}

/// What orders an entry before its key is looked at: group, table, the first bytes of its key.
fn prefix(fixed: &[u8], key: &[u8]) -> u128 {
    let mut prefix = [0; 16];
    (prefix[0], prefix[1], prefix[2]) = (fixed[1], fixed[0], fixed[2]);
    let length = key.len().min(13);
    prefix[3..3 + length].copy_from_slice(&key[..length]);
    u128::from_be_bytes(prefix)
}

/// An entry of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) group: KeyGroup,
    pub(super) table: u8,
    /// It says that its key is no more.
    pub(super) removed: bool,
    pub(super) expires: EventTime,
    /// Entries of lesser ones come first; those of equal ones by key.
    pub(super) prefix: u128,
    start: u32,
    key: u32,
    value: u32,
}

impl Head {
    /// Its key, in the bytes of its block.
    pub(super) fn key<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        &block[self.start as usize..][..self.key as usize]
    }

    /// The entry, in the bytes of its block.
    pub(super) fn entry<'a>(&self, block: &'a [u8]) -> Entry<'a> {
        let Self { group, table, expires, .. } = *self;
        let value = &block[self.start as usize + self.key as usize..][..self.value as usize];
        Entry { group, table, key: self.key(block), expires, value }
    }
}

/// What is said of a file that is not as it was written.
pub(super) fn damaged(file: &str) -> Error {
    Error::new(code::STATE, format!("state file \"{file}\" is damaged"))
        .hint("restore it from a copy, or start from an older savepoint")
}
