//! Whole jobs under a seeded simulation: processes that die or freeze at every step of the checkpoint
//! and commit protocol, power cuts, full disks, slow and failing storage, lost answers, and another
//! parallelism after each; what the sinks published is held against the logs that were read.

use std::cell::RefCell;

use freshet_testkit::fault::Mutant;
use freshet_testkit::lying::Lie;
use freshet_testkit::seeds;
use freshet_testkit::sim::TargetMutant;

mod bad_records;
mod case;
mod full_disk;
mod reference;
mod restarts;
mod script;
mod time;
mod topology;

use case::{Broken, Case};
use script::Tally;

const SECOND: i64 = 1_000_000;

/// Each topology dies once at each step of the protocol, at least where it comes there.
const SEEDS: u64 = topology::TOPOLOGIES * freshet_core::crash::JOB_STEPS.len() as u64;

fn simulate(seed: u64, broken: Option<Broken>) -> Result<Tally, String> {
    let case = Case::new(seed, broken);
    let mut tally = Tally::default();
    case.run(&mut tally)?;
    case.verify()?;
    Ok(tally)
}

/// `FRESHET_TEST_SEED` runs one seed alone, `FRESHET_TEST_FACTOR` so many times as many.
#[test]
fn nothing_is_lost_or_doubled_whatever_fails() {
    let all = RefCell::new(Tally::default());
    seeds::for_each(0..SEEDS, |seed| match simulate(seed, None) {
        Ok(tally) => all.borrow_mut().add(&tally),
        Err(error) => panic!("{error}"),
    });
    let all = all.into_inner();
    println!("{}", all.table());
    if all.cases > 1 {
        let missing = all.missing();
        assert!(missing.is_empty(), "no process died at {}", missing.join(", "));
    }
}

/// Each step that durability rests on is left out once: some seed must notice.
#[test]
fn a_step_that_is_left_out_is_noticed() {
    let manifest = |path: &str| path.contains("/manifests/");
    let state = |path: &str| path.contains("/state/");
    let merged = |path: &str| path.contains("-merged.");
    let late = Lie::Late { what: manifest, until: state };
    let mutants = [
        ("files are not synchronised", Broken::Disk(Mutant::IgnoreSyncFile)),
        ("folders are not synchronised", Broken::Disk(Mutant::IgnoreSyncDir)),
        ("two instances write one manifest", Broken::Store(Lie::Unconditional(manifest))),
        ("sinks commit and no manifest is written", Broken::Store(Lie::LeftOut(manifest))),
        ("sinks commit before the manifest", Broken::Store(late)),
        ("state is not written", Broken::Store(Lie::LeftOut(state))),
        ("merged state is not written", Broken::Store(Lie::LeftOut(merged))),
        ("the target forgets what it holds", Broken::Target(TargetMutant::NoMarker)),
        ("rows are seen before their commit", Broken::Target(TargetMutant::NoCommit)),
    ];
    for (what, broken) in mutants {
        let noticed = (0..SEEDS).find(|seed| {
            let result = std::panic::catch_unwind(|| simulate(*seed, Some(broken)));
            !matches!(result, Ok(Ok(_)))
        });
        println!("{what}: noticed by seed {noticed:?}");
        assert!(noticed.is_some(), "nobody noticed that {what}");
    }
}
