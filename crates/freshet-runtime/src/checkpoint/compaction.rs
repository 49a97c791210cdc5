//! Merging of runs: how many there are stays bounded, however long a job lives.
//!
//! Every checkpoint adds a run for each part of an operator. The runs of some key groups, in the
//! order of their age, are merged by size: once there are [`Merging::fan_in`] neighbours of a tier
//! (a tier's sizes are below a power of that number), they become one, of a higher tier. So
//! there are fewer than `fan_in` runs in each of `log(bytes)` tiers, and what a checkpoint wrote is
//! written once more for each tier that it rises through. Where later runs together have twice the
//! bytes of the oldest, much of it is superseded: then all become one, which costs three bytes for two
//! at most. After the logarithmic method of Bentley and Saxe (1980), the size-tiered merging
//! of log-structured merge trees (O'Neil and others, 1996; Luo and Carey, "LSM-based storage
//! techniques: a survey", 2020), and the merge policy of Lucene by logarithms of sizes.
//!
//! What is merged are neighbours in age, so that the newest entry of a key stays the newest. That a key
//! is no more is forgotten where nothing older is left.
//!
//! A merge changes nothing that is there: it writes a file, and the next manifest names the new run
//! in place of its inputs, which go when no manifest and no savepoint names them. Whatever happens before
//! that manifest is durable, the inputs are all that counts.

use std::collections::BTreeMap;
use std::ops::Range;

use freshet_core::stream::{Epoch, EventTime, Generation};
use freshet_core::{Error, Result, error::code};
use serde::{Deserialize, Serialize};

use super::manifest::{Manifest, RunRef};
use super::merger::{Fetch, Merger, Wanted};
use super::repository::{Repository, Upload};
use super::run_file::RunWriter;
use crate::state::KeyGroupRange;

/// When runs are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merging {
    /// So many neighbours of a tier become one; 0 never merges any.
    pub fan_in: usize,
    /// Bytes that are one tier with all that is less.
    pub smallest: u64,
}

impl Default for Merging {
    fn default() -> Self {
        Self { fan_in: 8, smallest: 64 << 10 }
    }
}

/// Runs whose entries all die by themselves are worth merging once there are so many times more.
const MORTAL: usize = 4;

/// Runs that become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// Of this coordinator.
    pub id: u64,
    /// Whose state it is.
    pub operator: String,
    /// The groups whose entries are merged; those of others stay where they are.
    pub groups: KeyGroupRange,
    /// Oldest first.
    pub inputs: Vec<RunRef>,
    /// Whether nothing older is there of these groups.
    pub is_oldest: bool,
    /// By table, up to when entries are dead.
    pub floors: BTreeMap<u8, EventTime>,
    /// The checkpoint whose runs they are.
    pub epoch: Epoch,
}

impl Merge {
    /// The merge that the state of an operator in some groups is due, if any is.
    pub fn plan(
        manifest: &Manifest,
        operator: &str,
        groups: KeyGroupRange,
        settings: Merging,
    ) -> Option<Self> {
        let runs = manifest.operators.get(operator)?.iter();
        let runs: Vec<&RunRef> = runs.filter(|run| run.groups.overlaps(groups)).collect();
        let sizes: Vec<_> =
            runs.iter().map(|run| (run.bytes_of(groups), run.is_mortal())).collect();
        let chosen = choose(&sizes, settings)?;
        Some(Self {
            id: 0,
            operator: operator.to_owned(),
            groups,
            inputs: runs[chosen.clone()].iter().copied().cloned().collect(),
            is_oldest: chosen.start == 0,
            floors: manifest.floors.get(operator).cloned().unwrap_or_default(),
            epoch: manifest.epoch,
        })
    }

    /// Puts `output` into the place of the inputs that are there, in the runs of the operator.
    pub fn apply(&self, output: Option<RunRef>, runs: &mut Vec<RunRef>) {
        let mut place = None;
        let mut left = Vec::with_capacity(runs.len());
        for run in runs.drain(..) {
            let is_same = |input: &RunRef| (&input.file, input.offset) == (&run.file, run.offset);
            if run.groups.overlaps(self.groups) && self.inputs.iter().any(is_same) {
                let others = run.groups.without(self.groups);
                left.extend(others.map(|groups| RunRef { groups, ..run.clone() }));
                place = Some(left.len());
            } else {
                left.push(run);
            }
        }
        // Where all inputs are gone, their entries are dead.
        if let (Some(place), Some(output)) = (place, output) {
            left.insert(place, output);
        }
        *runs = left;
    }
}

/// Which of some runs, given by size and mortality, oldest first, are to become one.
fn choose(runs: &[(u64, bool)], settings: Merging) -> Option<Range<usize>> {
    let Merging { fan_in, smallest } = settings;
    if fan_in < 2 || runs.len() < fan_in {
        return None;
    }
    let is_worth = |some: &[(u64, bool)]| {
        let factor = if some.iter().all(|(_, mortal)| *mortal) { MORTAL } else { 1 };
        some.len() >= fan_in.saturating_mul(factor)
    };
    let later: u64 = runs[1..].iter().map(|(bytes, _)| bytes).sum();
    if later >= runs[0].0.saturating_mul(2) && is_worth(runs) {
        return Some(0..runs.len());
    }
    // A run counts as large as the largest that is newer: what stands between two of a tier is merged
    // with them.
    let mut end = runs.len();
    while end > 0 {
        let of = tier(runs[end - 1].0, fan_in as u64, smallest);
        let before = runs[..end].iter().rposition(|run| tier(run.0, fan_in as u64, smallest) > of);
        let start = before.map_or(0, |before| before + 1);
        if is_worth(&runs[start..end]) {
            return Some(start..end);
        }
        end = start;
    }
    None
}

fn tier(bytes: u64, fan_in: u64, smallest: u64) -> u32 {
    (bytes / smallest.max(1)).checked_ilog(fan_in).unwrap_or(0)
}

/// Bytes of a merged file that are written at once: what is smaller is one write. Stores in the cloud
/// take no parts of less than 5 MiB.
const PART: usize = 8 << 20;

/// Bytes that are merged before others have their turn, about: a millisecond's work.
const TURN: usize = 256 << 10;

impl Repository {
    /// Writes what the inputs of a merge come to; `None` where nothing is left. Stops with an error
    /// once `goes_on` says so.
    pub async fn merge(
        &self,
        merge: &Merge,
        generation: Generation,
        fetch: &dyn Fetch,
        goes_on: impl Fn() -> bool,
    ) -> Result<Option<RunRef>> {
        let name = format!("{:020}-{}-merged.{}", merge.epoch.0, generation.0, merge.id);
        let file = self.state_path(&name);
        let wanted = Wanted {
            groups: merge.groups,
            floors: merge.floors.clone(),
            removed: !merge.is_oldest,
        };
        let mut merger = Merger::new(&merge.inputs, &wanted, fetch).await?;
        let mut writer = RunWriter::default();
        let mut upload: Option<Upload> = None;
        let (mut len, mut turn) = (0, 0);
        while merger.advance().await? {
            if !goes_on() {
                if let Some(mut upload) = upload {
                    upload.abort().await;
                }
                return Err(Error::new(code::STATE, "nobody waits for this merge any more"));
            }
            for (entry, removed) in merger.entries() {
                writer.push(&entry, removed);
                turn += entry.key.len() + entry.value.len();
            }
            if writer.len() >= PART {
                let part = writer.take();
                len += part.len() as u64;
                let upload = match &mut upload {
                    Some(upload) => upload,
                    none => none.insert(self.begin_upload(&file).await?),
                };
                upload.put_part(part).await?;
            }
            if turn >= TURN {
                turn = 0;
                others_first().await;
            }
        }
        let last = writer.take();
        len += last.len() as u64;
        match upload {
            Some(mut upload) => {
                if !last.is_empty() {
                    upload.put_part(last).await?;
                }
                upload.complete().await?;
            }
            None if len == 0 => return Ok(None),
            None => self.put(&file, vec![last]).await?,
        }
        let (entries, expires) = (writer.entries, writer.expires);
        Ok(Some(RunRef { file, offset: 0, len, entries, groups: merge.groups, expires }))
    }
}

/// Lets others have their turn.
async fn others_first() {
    let mut had = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut had, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests;
