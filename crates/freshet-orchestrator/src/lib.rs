//! Runs: a graph of tasks, one a model, with attempts, states and outputs, and the record of them.
//!
//! What a run does next is decided by a pure function; the executor only carries it out. The
//! metadata store is an index that can be rebuilt from the lake's intents.

pub mod builder;
pub mod report;

pub use builder::{BuildFailure, Builder, IntentRecord, RecoveredIntent, Recovery};
pub use report::*;
