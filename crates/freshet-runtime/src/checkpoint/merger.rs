//! Several runs read as one: each key once, with what its newest run says.
//!
//! Runs come in pieces, from wherever they are: memory is bounded by the pieces, whatever the runs
//! hold. It knows no store.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use freshet_core::Result;
use freshet_core::stream::EventTime;
use futures::future::{BoxFuture, try_join_all};

use super::manifest::RunRef;
use super::run_file::{Block, Head, damaged};
use crate::state::{Entry, KeyGroupRange};

/// Gives pieces of files.
pub trait Fetch: Send + Sync {
    /// The bytes of this range, or fewer where the file ends before.
    fn fetch<'a>(&'a self, file: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>>;
}

/// Entries that are given at once.
const TOGETHER: usize = 1024;

/// Bytes of pieces that all runs have in memory together, about.
const IN_MEMORY: u64 = 64 << 20;

/// Bytes of one piece: few enough that many runs fit, enough that a distant store is not asked often.
const PIECE: Range<u64> = 256 << 10..8 << 20;

/// Runs whose first pieces are asked for at once.
const AT_ONCE: usize = 32;

/// Which entries are wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Those of these groups.
    pub groups: KeyGroupRange,
    /// By table, up to when entries are dead.
    pub floors: BTreeMap<u8, EventTime>,
    /// Whether a key is given whose newest run says that it is no more.
    pub removed: bool,
}

/// Reads runs as one, in the order of group, table and key. Errors are those of [`Fetch`], and that a run
/// is damaged.
pub struct Merger<'a> {
    fetch: &'a dyn Fetch,
    piece: u64,
    /// By table.
    floors: Vec<EventTime>,
    removed: bool,
    cursors: Vec<Cursor<'a>>,
    /// A heap of cursors, least first; of equal keys the newest run first.
    heap: Vec<usize>,
    /// The first of the heap has come to the end of its block.
    starved: bool,
    /// The last key that was met.
    last: (u128, Vec<u8>),
    batch: Vec<(usize, Head)>,
}

impl fmt::Debug for Merger<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merger").field("runs", &self.cursors.len()).finish_non_exhaustive()
    }
}

impl<'a> Merger<'a> {
    /// Of runs, oldest first. Of each, the entries count that are of its groups.
    pub async fn new(
        runs: impl IntoIterator<Item = &'a RunRef>,
        wanted: &Wanted,
        fetch: &'a dyn Fetch,
    ) -> Result<Self> {
        let runs = runs.into_iter().map(|run| (run, run.groups.intersection(wanted.groups)));
        let runs = runs.filter(|(_, groups)| groups.start < groups.end);
        let mut cursors: Vec<_> = runs.map(|(run, groups)| Cursor::new(run, groups)).collect();
        let piece = (IN_MEMORY / cursors.len().max(1) as u64).clamp(PIECE.start, PIECE.end);
        for some in cursors.chunks_mut(AT_ONCE) {
            try_join_all(some.iter_mut().map(|cursor| cursor.refill(fetch, piece))).await?;
        }
        let tables = wanted.floors.keys().last().map_or(0, |last| usize::from(*last) + 1);
        let mut floors = vec![EventTime::MIN; tables];
        for (table, floor) in &wanted.floors {
            floors[usize::from(*table)] = *floor;
        }
        let heap: Vec<_> = (0..cursors.len()).filter(|at| cursors[*at].head.is_some()).collect();
        let mut merger = Self {
            fetch,
            piece,
            floors,
            removed: wanted.removed,
            cursors,
            heap,
            starved: false,
            last: (0, Vec::new()),
            batch: Vec::with_capacity(TOGETHER),
        };
        for place in (0..merger.heap.len() / 2).rev() {
            merger.sift_down(place);
        }
        Ok(merger)
    }

    /// Goes on to the next entries; `false` where there are none.
    pub async fn advance(&mut self) -> Result<bool> {
        self.batch.clear();
        loop {
            if std::mem::take(&mut self.starved) {
                // Nothing that was given refers to its block any more.
                let top = self.heap[0];
                self.cursors[top].refill(self.fetch, self.piece).await?;
                if self.cursors[top].head.is_none() {
                    self.heap.swap_remove(0);
                }
                self.sift_down(0);
            }
            while self.batch.len() < TOGETHER && !self.starved {
                let Some(top) = self.heap.first().copied() else { break };
                self.offer(top);
                self.starved = !self.cursors[top].step()?;
                if !self.starved {
                    self.sift_down(0);
                }
            }
            if !self.batch.is_empty() || self.heap.is_empty() {
                return Ok(!self.batch.is_empty());
            }
        }
    }

    /// The entries that [`Self::advance`] came to, each with whether it says that its key is no more.
    pub fn entries(&self) -> impl Iterator<Item = (Entry<'_>, bool)> {
        let entry = |(at, head): &(usize, Head)| {
            (head.entry(self.cursors[*at].block.bytes()), head.removed)
        };
        self.batch.iter().map(entry)
    }

    /// Takes what a cursor stands at into the batch, unless it is superseded, dead or not wanted.
    fn offer(&mut self, at: usize) {
        let cursor = &self.cursors[at];
        let head = cursor.head.expect("what is in the heap stands at an entry");
        let key = head.key(cursor.block.bytes());
        let (prefix, last) = &mut self.last;
        if *prefix == head.prefix && last.as_slice() == key {
            return;
        }
        *prefix = head.prefix;
        last.clear();
        last.extend_from_slice(key);
        let floor = self.floors.get(usize::from(head.table)).copied().unwrap_or(EventTime::MIN);
        let is_wanted = if head.removed { self.removed } else { head.expires > floor };
        if is_wanted {
            self.batch.push((at, head));
        }
    }

    fn order(&self, a: usize, b: usize) -> Ordering {
        let [left, right] = [a, b].map(|at| {
            let cursor = &self.cursors[at];
            (cursor.head.expect("what is in the heap stands at an entry"), cursor.block.bytes())
        });
        let keys = left.0.prefix.cmp(&right.0.prefix);
        // Newer runs come first.
        keys.then_with(|| left.0.key(left.1).cmp(right.0.key(right.1))).then(b.cmp(&a))
    }

    fn sift_down(&mut self, place: usize) {
        let mut place = place;
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let Some(mut least) = self.heap.get(left).copied() else { return };
            let mut child = left;
            if let Some(other) = self.heap.get(right).copied()
                && self.order(other, least).is_lt()
            {
                (least, child) = (other, right);
            }
            if self.order(self.heap[place], least).is_le() {
                return;
            }
            self.heap.swap(place, child);
            place = child;
        }
    }
}

/// A run and how far it was read.
struct Cursor<'a> {
    run: &'a RunRef,
    /// The groups whose entries are given.
    groups: KeyGroupRange,
    /// Bytes that were fetched.
    fetched: u64,
    /// Those that are in no block yet.
    window: Bytes,
    block: Block,
    /// The entry that it stands at.
    head: Option<Head>,
}

impl<'a> Cursor<'a> {
    fn new(run: &'a RunRef, groups: KeyGroupRange) -> Self {
        let (window, block) = (Bytes::new(), Block::default());
        Self { run, groups, fetched: 0, window, block, head: None }
    }

    /// Goes on to the next entry of the block; `false` where it has none.
    fn step(&mut self) -> Result<bool> {
        self.head = None;
        while let Some(head) = self.block.next(&self.run.file)? {
            if head.group.0 >= self.groups.end {
                // What is behind is of later groups; entries that were given are in the block.
                (self.fetched, self.window) = (self.run.len, Bytes::new());
                self.block.skip();
                return Ok(false);
            }
            if head.group.0 >= self.groups.start {
                self.head = Some(head);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Goes on to the first entry of a later block; to none where there is none.
    async fn refill(&mut self, fetch: &dyn Fetch, piece: u64) -> Result<()> {
        loop {
            let missing = self.block.refill(&mut self.window, &self.run.file)?;
            if missing == 0 {
                if self.step()? {
                    return Ok(());
                }
                continue;
            }
            let left = self.run.len - self.fetched;
            if left == 0 && self.window.is_empty() {
                return Ok(());
            }
            if missing > left {
                return Err(damaged(&self.run.file));
            }
            let start = self.run.offset + self.fetched;
            let wanted = missing.max(piece).min(left);
            let more = fetch.fetch(&self.run.file, start..start + wanted).await?;
            if more.len() as u64 != wanted {
                return Err(damaged(&self.run.file));
            }
            self.fetched += wanted;
            self.window = if self.window.is_empty() {
                more
            } else {
                let mut both = BytesMut::with_capacity(self.window.len() + more.len());
                both.extend_from_slice(&self.window);
                both.extend_from_slice(&more);
                both.freeze()
            };
        }
    }
}

/// Calls `each` with the entries of runs in memory, oldest first.
#[cfg(test)]
pub(crate) fn merge_runs(
    runs: &[(&str, &[u8])],
    floors: impl Fn(u8) -> EventTime,
    groups: KeyGroupRange,
    mut each: impl FnMut(&[Entry<'_>]) -> Result<()>,
) -> Result<()> {
    let (refs, files) = tests::in_memory(runs);
    let floors = (0..8).map(|table| (table, floors(table))).collect();
    let wanted = Wanted { groups, floors, removed: false };
    futures::executor::block_on(async {
        let mut merger = Merger::new(&refs, &wanted, &files).await?;
        while merger.advance().await? {
            each(&merger.entries().map(|(entry, _)| entry).collect::<Vec<_>>())?;
        }
        Ok(())
    })
}

#[cfg(test)]
pub(super) mod tests;
