//! What a checkpoint is: the files and places from which a job goes on.

use std::collections::{BTreeMap, BTreeSet};

use freshet_core::source::Position;
use freshet_core::stream::{Epoch, EventTime, Generation, PendingCommit};
use freshet_core::{Error, Result, error::code};
use serde::{Deserialize, Serialize};

use crate::state::{KeyGroupRange, KeyGroups};

/// The version of the form that this code writes.
const VERSION: u32 = 1;

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
    /// The key groups that it may have entries of.
    pub groups: KeyGroupRange,
    /// By table, when the last of its entries is dead.
    pub expires: BTreeMap<u8, EventTime>,
}

impl RunRef {
    /// Its bytes in the file's.
    pub fn of<'a>(&self, file: &'a [u8]) -> Result<&'a [u8]> {
        let (start, end) = (self.offset as usize, (self.offset + self.len) as usize);
        file.get(start..end).ok_or_else(|| {
            Error::new(code::STATE, format!("state file \"{}\" is too short", self.file))
                .hint("restore it from a copy, or start from an older savepoint")
        })
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
            floors: BTreeMap::new(),
            sources: BTreeMap::new(),
            watermarks: BTreeMap::new(),
            sinks: BTreeMap::new(),
            finished: false,
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
            let Self { groups, operators, floors, sources, watermarks, .. } = manifest.clone();
            (groups, operators, floors, sources, watermarks)
        };
        place(self) == place(other)
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
        if version != VERSION {
            return Err(Error::new(
                code::STATE,
                format!(
                    "manifest \"{path}\" is of version {version}, this Freshet knows {VERSION}"
                ),
            )
            .hint("run the version of Freshet that wrote it, or a newer one"));
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}
