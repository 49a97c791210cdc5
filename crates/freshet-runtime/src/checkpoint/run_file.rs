//! Sorted runs: the form in which state lies in files.
//!
//! A run is a sequence of blocks of about 64 KiB, each with the number of its bytes (u32, little
//! endian), its XXH3 (u64) and its entries. An entry is group (u16), table (u8), flags (u8: 1 for
//! removed), expiry (i64), lengths of key and value (u32 each), key, value. Entries ascend by group,
//! table and key, each key once.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use bytes::Bytes;
use freshet_core::{Error, Result, error::code};
use xxhash_rust::xxh3::xxh3_64;

use crate::state::{Delta, Entry, KeyGroup, KeyGroupRange};
use freshet_core::stream::EventTime;

const BLOCK: usize = 64 << 10;
const HEADER: usize = 12;
const FIXED: usize = 20;
const REMOVED: u8 = 1;

/// The bytes of a run of what changed, with the number of its entries.
pub fn write_run(delta: &mut Delta) -> (Bytes, u64) {
    let mut run = Vec::with_capacity(delta.bytes() + delta.len() * FIXED);
    let (mut entries, mut start) = (0, None);
    for (entry, removed) in delta.sorted() {
        let block = *start.get_or_insert_with(|| {
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
        entries += 1;
        if run.len() - block >= BLOCK {
            seal(&mut run, block);
            start = None;
        }
    }
    if let Some(block) = start {
        seal(&mut run, block);
    }
    (run.into(), entries)
}

fn seal(run: &mut [u8], block: usize) {
    let (length, hash) = ((run.len() - block) as u32, xxh3_64(&run[block..]));
    run[block - HEADER..block - 8].copy_from_slice(&length.to_le_bytes());
    run[block - 8..block].copy_from_slice(&hash.to_le_bytes());
}

/// Reads a run in order.
#[derive(Debug)]
pub struct RunReader<'a> {
    name: &'a str,
    rest: &'a [u8],
    block: &'a [u8],
}

/// An entry of a run, and whether it says that its key holds nothing any more.
pub type RunEntry<'a> = (Entry<'a>, bool);

impl<'a> RunReader<'a> {
    /// Of the run `bytes` of file `name`.
    pub fn new(name: &'a str, bytes: &'a [u8]) -> Self {
        Self { name, rest: bytes, block: &[] }
    }

    /// The next entry; `None` behind the last.
    pub fn read(&mut self) -> Result<Option<RunEntry<'a>>> {
        if self.block.is_empty() {
            if self.rest.is_empty() {
                return Ok(None);
            }
            let (header, rest) =
                self.rest.split_at_checked(HEADER).ok_or_else(|| self.damaged())?;
            let length = u32::from_le_bytes(header[..4].try_into().expect("4 bytes")) as usize;
            let hash = u64::from_le_bytes(header[4..].try_into().expect("8 bytes"));
            let (block, rest) = rest.split_at_checked(length).ok_or_else(|| self.damaged())?;
            if block.is_empty() || xxh3_64(block) != hash {
                return Err(self.damaged());
            }
            (self.block, self.rest) = (block, rest);
        }
        let fixed = self.take(FIXED)?;
        let length = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().expect("4 bytes"));
        let entry = Entry {
            group: KeyGroup(u16::from_le_bytes(fixed[..2].try_into().expect("2 bytes"))),
            table: fixed[2],
            expires: EventTime(i64::from_le_bytes(fixed[4..12].try_into().expect("8 bytes"))),
            key: self.take(length(12) as usize)?,
            value: self.take(length(16) as usize)?,
        };
        Ok(Some((entry, fixed[3] & REMOVED != 0)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.block.split_at_checked(length).ok_or_else(|| self.damaged())?;
        self.block = rest;
        Ok(taken)
    }

    fn damaged(&self) -> Error {
        Error::new(code::STATE, format!("state file \"{}\" is damaged", self.name))
            .hint("restore it from a copy, or start from an older savepoint")
    }
}

/// Calls `each` with neighbouring entries of several runs, oldest first, as they stand together:
/// each key once, with what its newest run says, in the order of group, table and key; without
/// those that were removed, expired by `floors`, or are not in `groups`.
pub(crate) fn merge_runs(
    runs: &[(&str, &[u8])],
    floors: impl Fn(u8) -> EventTime,
    groups: KeyGroupRange,
    mut each: impl FnMut(&[Entry<'_>]) -> Result<()>,
) -> Result<()> {
    /// Entries that are given at once.
    const TOGETHER: usize = 1024;
    let mut readers: Vec<_> =
        runs.iter().map(|(name, bytes)| RunReader::new(name, bytes)).collect();
    let mut heads = BinaryHeap::with_capacity(readers.len());
    for (run, reader) in readers.iter_mut().enumerate() {
        let head = reader.read()?.map(|(entry, removed)| Reverse(Head { entry, removed, run }));
        heads.extend(head);
    }
    let mut together = Vec::with_capacity(TOGETHER);
    while let Some(mut newest) = next_head(&mut heads, &mut readers)? {
        // Of one key, older runs come first.
        while heads.peek().is_some_and(|Reverse(head)| head.place() == newest.place()) {
            newest = next_head(&mut heads, &mut readers)?.expect("there is one");
        }
        let Head { entry, removed, .. } = newest;
        let alive = !removed && entry.expires > floors(entry.table);
        if alive && groups.contains(entry.group) {
            together.push(entry);
            if together.len() == TOGETHER {
                each(&together)?;
                together.clear();
            }
        }
    }
    if together.is_empty() { Ok(()) } else { each(&together) }
}

/// What a run gives next.
#[derive(Debug)]
struct Head<'a> {
    entry: Entry<'a>,
    removed: bool,
    /// The run, newest last.
    run: usize,
}

impl<'a> Head<'a> {
    fn place(&self) -> (KeyGroup, u8, &'a [u8]) {
        (self.entry.group, self.entry.table, self.entry.key)
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place()).then(self.run.cmp(&other.run))
    }
}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head<'_> {}

/// Takes the least head; its run gives its next one.
fn next_head<'a>(
    heads: &mut BinaryHeap<Reverse<Head<'a>>>,
    readers: &mut [RunReader<'a>],
) -> Result<Option<Head<'a>>> {
    let Some(mut least) = heads.peek_mut() else { return Ok(None) };
    let run = least.0.run;
    Ok(Some(match readers[run].read()? {
        Some((entry, removed)) => std::mem::replace(&mut least.0, Head { entry, removed, run }),
        None => PeekMut::pop(least).0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: KeyGroupRange = KeyGroupRange { start: 0, end: u16::MAX };

    fn run(entries: &[(u16, &str, Option<&str>)]) -> Bytes {
        let mut delta = Delta::default();
        for (group, key, value) in entries {
            match value {
                Some(value) => delta.set(Entry {
                    group: KeyGroup(*group),
                    table: 0,
                    key: key.as_bytes(),
                    expires: EventTime(i64::from(*group)),
                    value: value.as_bytes(),
                }),
                None => delta.remove(KeyGroup(*group), 0, key.as_bytes()),
            }
            .expect("it fits");
        }
        let (bytes, count) = write_run(&mut delta);
        assert_eq!(count, entries.len() as u64);
        bytes
    }

    fn merged(runs: &[Bytes], floor: i64, groups: KeyGroupRange) -> Result<Vec<String>> {
        let runs: Vec<_> = runs.iter().map(|bytes| ("a run", bytes.as_ref())).collect();
        let mut seen = Vec::new();
        merge_runs(
            &runs,
            |_| EventTime(floor),
            groups,
            |entries| {
                seen.extend(entries.iter().map(|entry| {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    format!("{} {}={}", entry.group.0, text(entry.key), text(entry.value))
                }));
                Ok(())
            },
        )?;
        Ok(seen)
    }

    #[test]
    fn the_newest_run_decides() {
        let old = run(&[(1, "a", Some("old")), (1, "b", Some("old")), (2, "a", Some("old"))]);
        let new = run(&[(1, "a", Some("new")), (1, "b", None), (3, "c", Some("new"))]);
        let both = [old, new];
        assert_eq!(merged(&both, 0, ALL).expect("sound"), ["1 a=new", "2 a=old", "3 c=new"]);
        assert_eq!(merged(&both, 1, ALL).expect("sound"), ["2 a=old", "3 c=new"]);
        let some = KeyGroupRange { start: 2, end: 3 };
        assert_eq!(merged(&both, 0, some).expect("sound"), ["2 a=old"]);
        assert!(merged(&[], 0, ALL).expect("sound").is_empty());
    }

    #[test]
    fn damage_anywhere_is_found() {
        let long = "x".repeat(3000);
        let keys: Vec<String> = (0..100).map(|number| format!("{number:03}")).collect();
        let entries: Vec<_> =
            keys.iter().map(|key| (1, key.as_str(), Some(long.as_str()))).collect();
        let sound = run(&entries);
        assert_eq!(merged(std::slice::from_ref(&sound), 0, ALL).expect("sound").len(), 100);
        assert!(sound.len() > 3 * BLOCK, "several blocks");
        for at in (0..sound.len()).step_by(1009) {
            let mut bytes = sound.to_vec();
            bytes[at] ^= 0x10;
            let error = merged(&[bytes.into()], 0, ALL).expect_err("a bit was turned");
            assert_eq!(error.code(), code::STATE);
            if at > 0 && at < sound.len() {
                let cut = merged(&[sound.slice(..at)], 0, ALL);
                // A cut between two blocks is found by the manifest, which knows the length.
                assert!(cut.is_err() || cut.is_ok_and(|seen| seen.len() < 100));
            }
        }
    }
}
