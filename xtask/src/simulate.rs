//! Whole streaming jobs under a simulator, with more seeds than CI has time for.

use anyhow::{Result, bail};
use clap::Args;

use crate::sh::{self, cargo};

/// What to simulate.
#[derive(Debug, Args)]
pub struct Options {
    /// Seeds, in steps of those of one run in CI
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// This seed alone
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// As users run it: slower to build, and several times as many seeds in a second
    #[arg(long)]
    release: bool,
}

/// Seeds of one run in CI: see `crates/freshet-runtime/tests/simulation`.
const SEEDS_OF_CI: u64 = 220;

/// Runs the seeds; prints how often a process died at each step of the protocol.
pub fn run(options: &Options) -> Result<()> {
    if options.seeds == 0 {
        bail!("there is nothing to simulate\nhint: `--seeds` is at least 1");
    }
    let mut command = cargo(&["test", "-p", "freshet-runtime", "--test", "simulation"]);
    if options.release {
        // Steps are points at which a process can die in such a build as well.
        command.args(["--release", "--config", "profile.release.debug-assertions=true"]);
    }
    command.args(["--", "--nocapture", "--exact", "nothing_is_lost_or_doubled_whatever_fails"]);
    match options.seed {
        Some(seed) => command.env("FRESHET_TEST_SEED", seed.to_string()),
        None => {
            let factor = options.seeds.div_ceil(SEEDS_OF_CI);
            command.env("FRESHET_TEST_FACTOR", factor.to_string())
        }
    };
    sh::step("simulation", || sh::run(&mut command))
}
