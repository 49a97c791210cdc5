//! For tests: a file system that forgets and fails, clocks, seeds, golden files, and a harness
//! that kills processes; and a simulator of whole streaming jobs.
//!
//! It knows `freshet-core` and, for the simulator, `freshet-runtime`.

pub mod clock;
pub mod fault;
pub mod golden;
pub mod kill;
pub mod lying;
pub mod seeds;
pub mod sim;
pub mod stream_sinks;

pub use clock::TestClock;
pub use fault::{FaultFs, Mutant};
pub use lying::{Lie, LyingStore};
