//! The only crate with DataFusion in its manifest: SQL planning, batch execution, checks as SQL,
//! lineage and the lake.
//!
//! It knows sources and sinks only through `freshet_core`'s traits, and nothing of schedules or of
//! the record of runs: it is handed one task at a time and reports what became of it.
//!
//! What other crates call returns boxed futures: the body of an `async fn` is compiled by the crate
//! that awaits it, and all of DataFusion that it touches once more with it.

pub mod build;
pub mod checks;
pub mod contracts;
pub mod corrections;
pub mod dead_letters;
pub mod deduplicate;
pub mod engine;
pub mod functions;
pub mod intent;
pub mod interval;
pub mod lake;
pub mod late_rows;
pub mod memory;
pub mod operators;
pub mod overlay;
pub mod publish;
pub mod query;
pub mod relations;
pub mod replay;
pub mod report;
pub mod scan;
pub mod semi_join;
pub mod session;
pub mod splits;
pub mod store;
pub mod streaming;
pub mod testing;
pub mod unit_tests;

pub use engine::Engine;
pub use report::*;
