//! What a checkpoint is: the files and places from which a job goes on.

use std::collections::{BTreeMap, BTreeSet};

use freshet_core::source::Position;
use freshet_core::stream::{Epoch, EventTime, Generation, PendingCommit};
use freshet_core::{Error, Result, error::code};
use serde::{Deserialize, Serialize};

use crate::state::{KeyGroupRange, KeyGroups};

/// The version of the form that this code writes. Of version 1, a run's entries all counted, since none
/// was merged, and [`Manifest::changed`] was not there.
const VERSION: u32 = 2;

/// A checkpoint. Operators, sources and sinks are named by the ids of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of its form.
    pub(super) version: u32,
    /// The job.
    pub job: String,
    /// Its number: the one before it ended where this one's epoch begins.
    pub epoch: Epoch,
    /// Who wrote it.
    pub generation: Generation,
    /// When, in microseconds since 1970.
    pub created: i64,
    /// How many key groups the job has.
    pub groups: KeyGroups,
    /// The state of each operator: newest files last.
    pub operators: BTreeMap<String, Vec<RunRef>>,
    /// The last checkpoint that added to it; merging runs adds nothing.
    #[serde(default)]
    pub changed: Epoch,
    /// Up to when entries are dead, by operator and table.
    pub floors: BTreeMap<String, BTreeMap<u8, EventTime>>,
    /// Where reading stands, by source and split.
    pub sources: BTreeMap<String, BTreeMap<String, Position>>,
    /// How far event time has come, by stage.
    pub watermarks: BTreeMap<String, EventTime>,
    /// What is to be committed, by sink.
    pub sinks: BTreeMap<String, SinkState>,
    /// Whether the job came to its end: all of its input was read.
    pub finished: bool,
    /// What operators, sources and sinks are called, for people.
    #[serde(default)]
    pub names: BTreeMap<String, String>,
}

/// A part of a state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRef {
    /// The file, in the store.
    pub file: String,
    /// Where the run begins in it.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// Entries in it.
    pub entries: u64,
    /// The key groups whose entries count. It may have others, which were merged into another run.
    pub groups: KeyGroupRange,
    /// By table, when the last of its entries is dead.
    pub expires: BTreeMap<u8, EventTime>,
}

impl RunRef {
    /// About how many of its bytes are of these groups.
    pub(super) fn bytes_of(&self, groups: KeyGroupRange) -> u64 {
        let (all, some) = (self.groups.count(), self.groups.intersection(groups).count());
        let share = u128::from(self.len) * u128::from(some) / u128::from(all.max(1));
        share as u64
    }

    /// Whether all of its entries die by themselves.
    pub(super) fn is_mortal(&self) -> bool {
        self.expires.values().all(|expires| *expires < EventTime::MAX)
    }
}

/// What a sink holds staged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkState {
    /// The epochs that may not be committed yet, ascending. An epoch is taken out by the first
    /// manifest after its commit.
    pub pending: Vec<PendingCommit>,
}

impl Manifest {
    /// The one before the first: nothing was read, nothing is held.
    pub fn empty(job: impl Into<String>, groups: KeyGroups) -> Self {
        Self {
            version: VERSION,
            job: job.into(),
            epoch: Epoch(0),
            generation: Generation(0),
            created: 0,
            groups,
            operators: BTreeMap::new(),
            changed: Epoch(0),
            floors: BTreeMap::new(),
            sources: BTreeMap::new(),
            watermarks: BTreeMap::new(),
            sinks: BTreeMap::new(),
            finished: false,
            names: BTreeMap::new(),
        }
    }

    /// Forgets the runs all of whose entries are dead: what is given anew for a key never expires
    /// before what was there, so that nothing older comes back.
    pub fn forget_dead(&mut self) {
        for (operator, runs) in &mut self.operators {
            let Some(floors) = self.floors.get(operator) else { continue };
            let is_dead = |(table, expires): (&u8, &EventTime)| {
                floors.get(table).is_some_and(|floor| expires <= floor)
            };
            runs.retain(|run| !run.expires.iter().all(is_dead));
        }
    }

    /// Whether a job that goes on from it goes on from the same place as from `other`: what was read
    /// and what is held is the same.
    pub fn is_same_place(&self, other: &Self) -> bool {
        let place = |manifest: &Self| {
            let Self { groups, floors, sources, watermarks, .. } = manifest.clone();
            (groups, floors, sources, watermarks)
        };
        // Runs are merged while nothing is read; the first version does not say when they changed.
        let same_state = match (self.changed, other.changed) {
            (Epoch(0), _) | (_, Epoch(0)) => self.operators == other.operators,
            (own, others) => own == others,
        };
        same_state && place(self) == place(other)
    }

    /// The files that it needs.
    pub fn files(&self) -> BTreeSet<&str> {
        self.operators.values().flatten().map(|run| run.file.as_str()).collect()
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest has string keys alone")
    }

    /// What [`Self::encode`] made, of this version or an older one.
    pub fn decode(bytes: &[u8], path: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |error: serde_json::Error| {
            Error::new(code::STATE, format!("manifest \"{path}\" is damaged")).caused_by(error)
        };
        let Versioned { version } = serde_json::from_slice(bytes).map_err(damaged)?;
        if !(1..=VERSION).contains(&version) {
            return Err(Error::new(
                code::STATE,
                format!(
                    "manifest \"{path}\" is of version {version}, this Freshet knows {VERSION}"
                ),
            )
            .hint("run the version of Freshet that wrote it, or a newer one"));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(damaged)?;
        Ok(Self { version: VERSION, ..manifest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first version wrote it.
    const FIRST: &str = r#"{
  "version": 1,
  "job": "orders",
  "epoch": 41,
  "generation": 3,
  "created": 1790000000000000,
  "groups": 128,
  "operators": {
    "count": [
      {
        "file": "orders/state/00000000000000000040-3-1.0",
        "offset": 12,
        "len": 340,
        "entries": 7,
        "groups": { "start": 0, "end": 64 },
        "expires": { "0": 1790000060000000 }
      }
    ]
  },
  "floors": { "count": { "0": 1790000000000000 } },
  "sources": { "log": { "0": 77 } },
  "watermarks": { "log": 1790000000000000 },
  "sinks": { "lake": { "pending": [] } },
  "finished": false
}"#;

    #[test]
    fn the_first_version_is_read() {
        let read = Manifest::decode(FIRST.as_bytes(), "a path").expect("it is known");
        assert_eq!((read.epoch, read.changed), (Epoch(41), Epoch(0)));
        assert_eq!(read.operators["count"][0].bytes_of(KeyGroupRange { start: 0, end: 32 }), 170);
        let again = Manifest::decode(&read.encode(), "a path").expect("it is known");
        assert_eq!(again, read);
        let newer = FIRST.replace("\"version\": 1", "\"version\": 3");
        let error = Manifest::decode(newer.as_bytes(), "a path").expect_err("it is not known");
        assert_eq!(error.code(), code::STATE);
    }

    #[test]
    fn merging_runs_leaves_a_checkpoint_where_it_is() {
        let first = Manifest::decode(FIRST.as_bytes(), "a path").expect("it is known");
        let mut merged = first.clone();
        merged.operators.clear();
        assert!(!first.is_same_place(&merged), "nobody knows when they changed");
        let first = Manifest { changed: Epoch(40), ..first };
        assert!(first.is_same_place(&Manifest { changed: Epoch(40), ..merged.clone() }));
        assert!(!first.is_same_place(&Manifest { changed: Epoch(41), ..merged }));
    }
}
