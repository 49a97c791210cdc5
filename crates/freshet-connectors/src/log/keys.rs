//! Which idempotency keys were used, and for what: rebuilt from the frames when a log is opened.

use std::collections::{BTreeMap, HashMap, VecDeque};

use freshet_core::error::{Error, Result, code};
use freshet_core::ingest::IdempotencyKey;

use super::frame::{Header, Stamp};

/// What is known of a key.
#[derive(Debug, Clone)]
struct Entry {
    digest: u128,
    /// When its first records arrived.
    time: i64,
    /// Frames that its request has.
    parts: u32,
    /// The position behind its records in each partition that has them.
    ends: BTreeMap<u32, u64>,
}

/// The keys of a log.
#[derive(Debug)]
pub(super) struct Keys {
    entries: HashMap<String, Entry>,
    /// Names by the time of their first use.
    by_time: VecDeque<(i64, String)>,
    /// Microseconds for which a key is remembered.
    window: i64,
    most: usize,
}

impl Keys {
    /// Keys that are remembered for `window` microseconds, at most so many.
    pub fn new(window: i64, most: usize) -> Self {
        Self { entries: HashMap::new(), by_time: VecDeque::new(), window, most }
    }

    /// A frame was found in a partition; several partitions are read one after the other.
    pub fn found(&mut self, partition: u32, header: &Header, stamp: Stamp) {
        let Stamp { key, parts } = stamp;
        let end = header.next();
        if let Some(entry) = self.entries.get_mut(&key.name) {
            let same = entry.digest == key.digest
                && !entry.ends.contains_key(&partition)
                && entry.time.abs_diff(header.time) < self.window.unsigned_abs();
            if same {
                entry.ends.insert(partition, end);
                entry.time = entry.time.min(header.time);
                return;
            }
            if header.time < entry.time {
                return;
            }
        }
        let ends = BTreeMap::from([(partition, end)]);
        let entry = Entry { digest: key.digest, time: header.time, parts, ends };
        self.entries.insert(key.name, entry);
    }

    /// All frames were found: the time is `now`.
    pub fn complete(&mut self, now: i64) {
        let mut names: Vec<_> =
            self.entries.iter().map(|(name, entry)| (entry.time, name.clone())).collect();
        names.sort_unstable();
        self.by_time = names.into();
        self.forget(now);
    }

    /// Forgets the keys whose time is over.
    pub fn forget(&mut self, now: i64) {
        while let Some((time, _)) = self.by_time.front()
            && time.saturating_add(self.window) <= now
            && let Some((time, name)) = self.by_time.pop_front()
        {
            if self.entries.get(&name).is_some_and(|entry| entry.time == time) {
                self.entries.remove(&name);
            }
        }
    }

    /// The partitions that have the records of this key's request already, with the positions
    /// behind them; `None` where the key is new.
    pub fn known(&self, key: &IdempotencyKey) -> Result<Option<&BTreeMap<u32, u64>>> {
        match self.entries.get(&key.name) {
            None if self.entries.len() >= self.most => Err(Error::new(
                code::BUSY,
                format!("{} idempotency keys are remembered, the most that may be", self.most),
            )
            .hint("raise `max_idempotency_keys`, or shorten `idempotency_window`")
            .retryable()),
            None => Ok(None),
            Some(entry) if entry.digest != key.digest => Err(Error::new(
                code::IDEMPOTENCY,
                format!("idempotency key \"{}\" was used for another body", key.name),
            )
            .hint("give each request a key of its own")),
            Some(entry) => Ok(Some(&entry.ends)),
        }
    }

    /// Whether all records of a known key's request were appended.
    pub fn is_whole(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.ends.len() >= entry.parts as usize)
    }

    /// Records of a key's request are being appended to a partition.
    pub fn add(&mut self, partition: u32, end: u64, time: i64, stamp: &Stamp) {
        let entry = self.entries.entry(stamp.key.name.clone()).or_insert_with(|| {
            self.by_time.push_back((time, stamp.key.name.clone()));
            let ends = BTreeMap::new();
            Entry { digest: stamp.key.digest, time, parts: stamp.parts, ends }
        });
        entry.ends.insert(partition, end);
    }
}
