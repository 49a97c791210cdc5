//! For tests: a file system that forgets and fails, clocks, seeds, golden files, and a harness
//! that kills processes.
//!
//! It knows `freshet-core` and nothing of what is tested with it.

pub mod clock;
pub mod fault;
pub mod golden;
pub mod kill;
pub mod lying;
pub mod seeds;

pub use clock::TestClock;
pub use fault::{FaultFs, Mutant};
pub use lying::{Lie, LyingStore};
