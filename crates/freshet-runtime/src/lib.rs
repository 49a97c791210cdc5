//! The streaming runtime: operators, workers, exchanges, watermarks, barriers, state, checkpoints.
//!
//! It knows no connector, no SQL and no thread pool of anybody else's: sources and sinks are traits,
//! scalar expressions are [`freshet_core::scalar::ScalarExpr`], clock and store are given to it. So
//! a whole job also runs on one thread under a simulator that decides what happens when.
//!
//! Where to start reading: [`operator`] is what an operator is, [`task`] how one instance of a chain
//! of them is driven, [`exchange`] how rows get from one to another, [`checkpoint`] how what they
//! hold outlives them, and [`job`] how all of it is begun, ended and begun again.

pub mod aggregate;
pub mod checkpoint;
pub mod exchange;
pub mod executor;
pub mod figures;
pub mod job;
pub mod keys;
pub mod monitor;
pub mod operator;
pub mod operators;
pub mod plan;
pub mod source;
pub mod state;
pub mod task;
pub mod time;
