//! Checkpoints: what a job needs to go on after anything, and the order of the steps that make one.
//!
//! All manifests of a job are one sequence, each written where there is none of its number. Whoever
//! takes the job over writes the next one, so that an instance that was thought dead cannot write
//! it any more: the sequence is the fence. After slatedb's manifests.

mod changes;
mod compaction;
mod coordinator;
mod manifest;
mod merger;
mod repository;
mod run_file;
mod savepoint;

pub use changes::{Fate, JobPart, StateChange, changes};
pub use compaction::{Merge, Merging};
pub use coordinator::{Coordinator, Effect, Event, Part, Settings, Shape, SinkShape, StageShape};
pub use manifest::{Manifest, RunRef, SinkState};
#[cfg(test)]
pub(crate) use merger::merge_runs;
pub use merger::{Fetch, Merger, Wanted};
pub use repository::Repository;
pub use run_file::write_run;
pub use savepoint::{Restored, check_name};
