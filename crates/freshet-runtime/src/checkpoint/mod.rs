//! Checkpoints: what a job needs to go on after anything, and the order of the steps that make one.
//!
//! All manifests of a job are one sequence, each written where there is none of its number. Whoever
//! takes the job over writes the next one, so that an instance that was thought dead cannot write
//! it any more: the sequence is the fence. After slatedb's manifests.

mod coordinator;
mod manifest;
mod repository;
mod run_file;
mod savepoint;

pub use coordinator::{Coordinator, Effect, Event, Part, Settings, Shape, SinkShape, StageShape};
pub use manifest::{Manifest, RunRef, SinkState};
pub use repository::Repository;
pub(crate) use run_file::merge_runs;
pub use run_file::{RunReader, write_run};
pub use savepoint::{Restored, check_name};
