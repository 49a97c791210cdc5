//! A disk that fills, at every write of a job: it says what it waits for, and goes on when there is room.

use std::sync::Arc;

use freshet_testkit::fault::Fault;
use freshet_testkit::sim::{Draw, Process, SimLog, SimScratch, World};

use crate::SECOND;
use crate::case::Case;
use crate::topology::Topology;

fn case(seed: u64, records: usize) -> Case {
    let world = World::new(seed);
    let draw = |first| {
        let draw = Draw { records, first, ..Draw::over(&world, 4 * SECOND) };
        Arc::new(SimLog::drawn(&world.chance, &draw))
    };
    let logs = [draw(0), draw(1_000_000)];
    Case::quiet(world, Topology::Join(freshet_runtime::operators::JoinKind::Left), logs)
}

fn finish(case: &Case, process: &mut Process) {
    case.world.run(process).expect("it comes to its end");
    case.verify().expect("nothing is lost, nothing is doubled");
}

#[test]
fn a_write_without_room_is_tried_again() {
    let whole = case(1, 60);
    let before = whole.disk.operations();
    finish(&whole, &mut whole.start(2));
    let operations = whole.disk.operations() - before;
    assert!(operations > 100, "{operations} writes");
    // All of the first ones, which make folders, and then some.
    for nth in (1..40).chain((40..operations).step_by(7)) {
        let case = case(1, 60);
        let mut process = case.start(2);
        case.disk.fail_at(nth, Fault::NoSpace);
        finish(&case, &mut process);
    }
}

/// Whether a process says that it waits for room, and since when it has done so.
fn waits_for_room(process: &Process) -> Option<i64> {
    let waits = process.monitor().figures().waits;
    let wait = waits.into_iter().find(|wait| wait.reason.contains("no space left on device"))?;
    Some(wait.since)
}

#[test]
fn a_job_says_that_the_disk_is_full_and_goes_on_when_there_is_room() {
    for seed in 0..12 {
        let case = case(seed, 400);
        let mut process = case.start(2);
        case.run_until(&mut process, SECOND).expect("it runs");
        // Full at once, or after another few writes.
        case.disk.limit(Some(3000 * (seed % 3)));
        case.run_until(&mut process, 5 * SECOND).expect("it runs");
        let full_at = case.copies.rows().len();
        let since = waits_for_room(&process).expect("it says what it waits for");
        case.run_until(&mut process, 30 * SECOND).expect("it waits");
        assert_eq!(waits_for_room(&process), Some(since), "it waits since then");
        assert_eq!(case.copies.rows().len(), full_at, "nothing is seen without a manifest");
        assert!(case.disk.refused() > 3, "it tries again and again");
        // Now and then a job dies of it.
        if seed % 4 == 0 {
            drop(process);
            case.disk.crash();
            process = case.start(3);
            case.run_until(&mut process, 31 * SECOND).expect("it runs");
        }
        case.disk.limit(None);
        case.run_until(&mut process, 45 * SECOND).expect("it runs");
        assert_eq!(waits_for_room(&process), None, "it waits no more");
        finish(&case, &mut process);
    }
}

#[test]
fn a_job_without_room_for_scratch_files_begins_again_until_there_is_some() {
    for seed in 0..6 {
        let scratch = SimScratch::default();
        let mut case = case(seed, 400);
        case.scratch = Some(scratch.clone());
        let mut process = case.start(2);
        case.run_until(&mut process, SECOND).expect("it runs");
        scratch.fill(true);
        let mut said = 0;
        for tenth in 11..40 {
            case.run_until(&mut process, tenth * SECOND / 10).expect("it runs");
            said += usize::from(waits_for_room(&process).is_some());
        }
        assert!(scratch.refused() > 2, "it tries again and again");
        assert!(said > 10, "it says what it waits for");
        assert!(process.monitor().figures().restarts > 2);
        scratch.fill(false);
        finish(&case, &mut process);
    }
}
