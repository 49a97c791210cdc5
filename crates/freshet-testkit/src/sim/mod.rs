//! Whole streaming jobs on one thread, under a clock and a scheduler that a seed decides.
//!
//! A [`World`] holds what outlives processes: the machine's disk, the log that is read, the targets
//! that are written. A [`Process`] is one life of a job's program, which can be left alone for a
//! while, or ended at any moment between two steps. Nothing happens but by a step that the seed
//! chose, so that a seed that fails fails again.

mod batches;
mod log;
mod process;
mod scratch;
mod slow;
mod steps;
mod target;

use std::sync::Arc;

use freshet_core::clock::{Clock, ManualClock};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub use batches::BatchSource;
pub use log::{Draw, LogSource, Record, Silence, SimLog};
pub use process::{Process, Stepped};
pub use scratch::SimScratch;
pub use slow::{Faults, SlowStore, Weather};
pub use steps::{Fate, Steps};
pub use target::{SimSink, Target, TargetMutant};

/// Chance, shared by all that happens in a simulation.
#[derive(Debug, Clone)]
pub struct Chance(Arc<Mutex<SmallRng>>);

impl Chance {
    /// Chance of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(SmallRng::seed_from_u64(seed))))
    }

    /// A number below `end`.
    pub fn below(&self, end: usize) -> usize {
        self.0.lock().random_range(0..end)
    }

    /// A number from `range`.
    pub fn between(&self, range: std::ops::Range<i64>) -> i64 {
        self.0.lock().random_range(range)
    }

    /// Whether something of this probability happens.
    pub fn happens(&self, probability: f64) -> bool {
        self.0.lock().random_bool(probability)
    }
}

/// Where a simulated day begins.
const DAWN: i64 = 1_790_000_000_000_000;

/// The clock of all machines of a simulation, and chance.
#[derive(Debug, Clone)]
pub struct World {
    /// The time of day.
    pub clock: Arc<ManualClock>,
    /// Chance.
    pub chance: Chance,
}

impl World {
    /// Lets a process run to its end.
    ///
    /// # Errors
    /// The error with which its job ended, or that nothing could happen any more.
    pub fn run(&self, process: &mut Process) -> Result<(), String> {
        loop {
            match process.step() {
                Stepped::Worked => {}
                Stepped::Ended => return process.ended().expect("it has ended").map(drop),
                Stepped::Waits(Some(until)) => {
                    let wait = until - self.clock.now_micros();
                    self.clock.advance_micros(wait.max(1));
                }
                Stepped::Waits(None) => return Err("nothing can happen any more".into()),
                Stepped::Died(step) => return Err(format!("the process died at {step}")),
            }
        }
    }

    /// A world of this seed.
    pub fn new(seed: u64) -> Self {
        Self { clock: Arc::new(ManualClock::new(DAWN)), chance: Chance::new(seed) }
    }

    /// Microseconds since the beginning.
    pub fn elapsed(&self) -> i64 {
        self.clock.now_micros() - DAWN
    }
}
