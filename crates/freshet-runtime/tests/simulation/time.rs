//! Event time over silences, ends and restarts.

use std::sync::Arc;

use freshet_core::clock::Clock;
use freshet_runtime::operators::JoinKind;
use freshet_testkit::sim::{Draw, Silence, SimLog, World};

use crate::SECOND;
use crate::case::Case;
use crate::topology::{Shape, Topology};

const WINDOWS: Shape = Shape { size: SECOND, slide: SECOND, step: 0, offset: 0 };

/// One source has ended when the job dies: after it, nobody waits for its time.
#[test]
fn a_source_that_had_ended_before_a_restore_holds_nobody_up_after_it() {
    for seed in 0..10 {
        let world = World::new(seed);
        let draw = |span, first| {
            let draw = Draw { first, ..Draw::over(&world, span) };
            Arc::new(SimLog::drawn(&world.chance, &draw))
        };
        let logs = [draw(6 * SECOND, 0), draw(SECOND, 1_000_000)];
        let topology = Topology::WindowJoin { kind: JoinKind::Full, shape: WINDOWS };
        let case = Case::quiet(world, topology, logs);
        let mut process = case.start(2);
        case.run_until(&mut process, 4 * SECOND).expect("it runs");
        drop(process);
        let mut process = case.start(1 + seed as u16 % 3);
        case.run_until(&mut process, 5 * SECOND).expect("it runs");
        let windows = case.totals.rows().len();
        assert!(windows > 0, "windows close before the end");
        case.world.run(&mut process).expect("it comes to its end");
        case.verify().expect("every window closes");
    }
}

/// All partitions fall silent at once: what the furthest has said closes windows all the same.
#[test]
fn windows_close_while_all_partitions_are_silent() {
    for seed in 0..10 {
        let world = World::new(seed);
        let silence = |partition, start| Silence {
            partition,
            start: world.clock.now_micros() + start,
            length: 20 * SECOND,
            moves_time: true,
        };
        // One of them long before the others: nobody knows how far its time has come.
        let silences = vec![silence(Some(0), SECOND), silence(None, 5 * SECOND)];
        let draw = Draw { silences, partitions: 3, skew: SECOND, ..Draw::over(&world, 6 * SECOND) };
        let log = Arc::new(SimLog::drawn(&world.chance, &draw));
        let topology = Topology::Windows(WINDOWS);
        let mut case = Case::quiet(world, topology, [Arc::clone(&log), log]);
        case.idle_after = Some(SECOND);
        let mut process = case.start(1 + seed as u16 % 4);
        case.run_until(&mut process, 15 * SECOND).expect("it runs");
        let silent = case.world.clock.now_micros() - 10 * SECOND;
        let before = case.log.records().filter(|record| record.arrives < silent);
        // Its watermark is a second behind, and windows end before it.
        let furthest = before.map(|record| record.time).max().expect("there are some") - SECOND;
        let closed = furthest.div_euclid(SECOND) * SECOND;
        let start = |row: &String| {
            let start = row.split(',').nth(1).expect("a start").to_owned();
            let start: chrono::NaiveDateTime = start.parse().expect("a time");
            start.and_utc().timestamp_micros()
        };
        let last = case.totals.rows().iter().map(start).max().expect("some have closed");
        assert_eq!(last + SECOND, closed, "those that the furthest has passed are closed");
        case.world.run(&mut process).expect("it comes to its end");
        case.verify().expect("rows that come behind it are late, and not lost");
    }
}
