//! Runs: a graph of tasks, one a model, with attempts, states and outputs, and the record of them.
//!
//! What a run does next is decided by a pure function ([`state`]); the executor only carries it
//! out. The metadata store is an index that can be rebuilt from the lake's intents.

mod adapter;
pub mod builder;
pub mod executor;
#[cfg(test)]
mod fixture;
pub mod lock;
pub mod meta;
pub mod plan;
pub mod report;
mod run_id;
pub mod state;

pub use builder::{BuildFailure, Builder, IntentRecord, RecoveredIntent, Recovery};
pub use executor::{RunContext, run, run_selected};
pub use meta::MetaStore;
pub use plan::{TaskGraph, TaskIndex};
pub use report::*;
pub use run_id::run_id;
