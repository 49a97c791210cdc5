//! What a change of a job's plan does to what its checkpoint holds.
//!
//! Parts are known by their ids, which say what they do and what they do it to: an operator whose
//! input is computed in another way is another operator. What a plan no longer has is left out of the
//! next checkpoint: it would be out of date if it came back.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::manifest::Manifest;
use crate::plan::{JobPlan, StageInput};

/// What becomes of one part of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StateChange {
    /// Its id in manifests.
    pub id: String,
    /// What it is, for people; the id where nobody knows any more.
    pub name: String,
    /// Which part.
    pub part: JobPart,
    /// What becomes of it.
    pub fate: Fate,
    /// Bytes of state that the checkpoint holds of it.
    pub bytes: u64,
}

/// A part of a job of which a checkpoint holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobPart {
    /// Where reading stands.
    Source,
    /// State.
    Operator,
    /// What is staged and not committed.
    Sink,
}

/// What becomes of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It goes on as it was.
    Kept,
    /// It is new, and all that it builds on is read from the beginning.
    Rebuilt,
    /// It is new, and what it builds on is read from where it stands: it knows nothing of the rows
    /// before.
    Empty,
    /// The plan has it no more.
    Lost,
}

/// The parts of `plan` in its order, then those that only `manifest` has.
pub fn changes(plan: &JobPlan, manifest: &Manifest) -> Vec<StateChange> {
    let bytes = |id: &str| -> u64 {
        manifest.operators.get(id).into_iter().flatten().map(|run| run.len).sum()
    };
    let is_first = manifest.generation.0 == 0;
    let fate = |known: bool, anew: bool| match (known, anew || is_first) {
        (true, _) => Fate::Kept,
        (false, true) => Fate::Rebuilt,
        (false, false) => Fate::Empty,
    };
    let mut all = Vec::new();
    // Whether all sources below a stage are read from the beginning.
    let mut anew: Vec<bool> = Vec::new();
    let mut names = BTreeMap::new();
    for stage in &plan.stages {
        let knows_stage = manifest.watermarks.contains_key(&stage.id);
        let is_anew = match &stage.input {
            StageInput::Source { .. } => {
                let known = manifest.sources.contains_key(&stage.id);
                all.push(StateChange {
                    id: stage.id.clone(),
                    name: stage.id.clone(),
                    part: JobPart::Source,
                    fate: fate(known, true),
                    bytes: 0,
                });
                !known
            }
            StageInput::Edges(edges) => edges.iter().all(|edge| anew[edge.from]),
        };
        anew.push(is_anew);
        for (id, operator) in stage.operators.iter().filter(|(_, operator)| operator.has_state()) {
            names.insert(id.clone(), operator.name());
            let known = knows_stage || manifest.operators.contains_key(id);
            all.push(StateChange {
                id: id.clone(),
                name: operator.name(),
                part: JobPart::Operator,
                fate: fate(known, is_anew),
                bytes: bytes(id),
            });
        }
        if let Some(sink) = &stage.sink {
            let known = manifest.sinks.contains_key(&sink.id);
            all.push(StateChange {
                id: sink.id.clone(),
                name: sink.sink.target(),
                part: JobPart::Sink,
                fate: fate(known, true),
                bytes: 0,
            });
        }
    }
    let known: BTreeSet<String> = all.iter().map(|change| change.id.clone()).collect();
    let lost = |id: &String, part: JobPart| StateChange {
        id: id.clone(),
        name: manifest.names.get(id).unwrap_or(id).clone(),
        part,
        fate: Fate::Lost,
        bytes: bytes(id),
    };
    let operators = manifest.operators.iter().filter(|(_, runs)| !runs.is_empty());
    let gone = manifest
        .sources
        .keys()
        .map(|id| (id, JobPart::Source))
        .chain(operators.map(|(id, _)| (id, JobPart::Operator)))
        .chain(manifest.sinks.keys().map(|id| (id, JobPart::Sink)));
    let gone: Vec<StateChange> =
        gone.filter(|(id, _)| !known.contains(*id)).map(|(id, part)| lost(id, part)).collect();
    all.extend(gone);
    all
}

impl StateChange {
    /// Whether something is gone that cannot be had again by going on: state, or rows that are staged.
    pub fn is_loss(&self, manifest: &Manifest) -> bool {
        self.fate == Fate::Lost
            && match self.part {
                JobPart::Source => false,
                JobPart::Operator => self.bytes > 0,
                JobPart::Sink => {
                    manifest.sinks.get(&self.id).is_some_and(|sink| !sink.pending.is_empty())
                }
            }
    }
}

impl Manifest {
    /// Leaves out what `plan` does not have, and notes what its parts are called.
    pub fn fit(&mut self, plan: &JobPlan) {
        for change in changes(plan, self) {
            if change.fate == Fate::Lost {
                let id = &change.id;
                self.sources.remove(id);
                self.operators.remove(id);
                self.floors.remove(id);
                self.sinks.remove(id);
                self.names.remove(id);
            } else {
                self.names.insert(change.id, change.name);
            }
        }
        let stages: BTreeSet<&str> = plan.stages.iter().map(|stage| stage.id.as_str()).collect();
        self.watermarks.retain(|id, _| stages.contains(id.as_str()));
    }
}

#[cfg(test)]
mod tests;
