//! Restart strategies of whole jobs under the virtual clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use freshet_core::clock::Clock;
use freshet_core::error::{Code, code};
use freshet_core::source::Position;
use freshet_core::stream::Wake;
use freshet_core::{Error, Result};
use freshet_runtime::job::{FailureRate, JobOptions, Restart};
use freshet_runtime::plan::{JobPlan, JobSource, StageInput, StagePlan};
use freshet_runtime::source::Feed;
use freshet_runtime::state::KeyGroups;
use freshet_testkit::sim::{LogSource, Process, SimLog, World};
use object_store::memory::InMemory;
use parking_lot::Mutex;

use crate::SECOND;

/// A source that cannot be opened a number of times.
#[derive(Debug, Clone)]
struct Unreachable {
    world: World,
    inner: LogSource,
    /// How often it still fails.
    failures: Arc<Mutex<usize>>,
    code: Code,
    /// When it was asked, in microseconds since the beginning.
    asked: Arc<Mutex<Vec<i64>>>,
}

#[async_trait]
impl JobSource for Unreachable {
    async fn open(
        &self,
        positions: &BTreeMap<String, Position>,
        wakes: &[Arc<dyn Wake>],
    ) -> Result<Vec<Box<dyn Feed>>> {
        self.asked.lock().push(self.world.elapsed());
        let fails = {
            let mut failures = self.failures.lock();
            let fails = *failures > 0;
            *failures = failures.saturating_sub(1);
            fails
        };
        match fails {
            true => Err(Error::new(self.code, "the source cannot be reached")),
            false => self.inner.open(positions, wakes).await,
        }
    }
}

/// Runs a job whose source cannot be opened so many times: when it was asked, and how the job ended.
fn run(restart: Restart, failures: usize, code: Code) -> (Vec<i64>, Result<(), String>) {
    let world = World::new(3);
    let now = world.clock.now_micros();
    let log = SimLog::random(&world.chance, now, SECOND / 1000, 10, 1, 3, 1);
    let source = Unreachable {
        inner: LogSource { log: Arc::new(log), chance: world.chance.clone() },
        world: world.clone(),
        failures: Arc::new(Mutex::new(failures)),
        code,
        asked: Arc::default(),
    };
    let stage = StagePlan {
        id: "log".into(),
        parallelism: 1,
        input: StageInput::Source { source: Arc::new(source.clone()), watermark: None },
        operators: Vec::new(),
        sink: None,
    };
    let groups = KeyGroups::default();
    let plan = JobPlan { name: "job".into(), groups, stages: vec![stage] };
    let options = JobOptions { restart, ..JobOptions::default() };
    let process = Process::start(&world, options, 1, |_| (plan, Arc::new(InMemory::new())));
    let mut process = process.expect("the plan is sound");
    let ended = world.run(&mut process);
    let asked = source.asked.lock().clone();
    (asked, ended)
}

fn waits(asked: &[i64]) -> Vec<i64> {
    asked.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn a_fixed_delay_lies_between_all_lives() {
    let restart = Restart::fixed_delay(Some(5), 3 * SECOND);
    let (asked, ended) = run(restart.clone(), 5, code::SOURCE);
    assert_eq!(waits(&asked), [3 * SECOND; 5]);
    ended.expect("it goes on");
    let (asked, ended) = run(restart, 6, code::SOURCE);
    assert_eq!(asked.len(), 6);
    ended.expect_err("more failures in a row than are borne");
}

#[test]
fn an_exponential_delay_grows_and_ends_nothing() {
    let restart = Restart { jitter: 0.0, ..Restart::exponential(SECOND, 2.0, 10 * SECOND) };
    let (asked, ended) = run(restart, 40, code::SOURCE);
    let seconds: Vec<i64> = waits(&asked).iter().map(|wait| wait / SECOND).collect();
    assert_eq!(seconds[..6], [1, 2, 4, 8, 10, 10]);
    assert_eq!(seconds.len(), 40);
    ended.expect("it goes on");
}

#[test]
fn delays_have_jitter_by_default_and_stay_within_it() {
    let (asked, ended) = run(Restart::default(), 12, code::SOURCE);
    ended.expect("it goes on");
    let mut plain = SECOND as f64;
    let mut differ = 0;
    for wait in waits(&asked) {
        let share = wait as f64 / plain;
        assert!((0.89..1.11).contains(&share), "{wait} instead of about {plain}");
        differ += usize::from((share - 1.0).abs() > 0.001);
        plain = (plain * 2.0).min(60.0 * SECOND as f64);
    }
    assert!(differ > 8, "not all at once");
}

#[test]
fn a_failure_rate_bears_failures_that_are_far_apart() {
    let rate = FailureRate { failures: 3, within: 10 * SECOND };
    // Three within ten seconds, again and again.
    let (asked, ended) = run(Restart::failure_rate(rate, 4 * SECOND), 30, code::SOURCE);
    assert_eq!(waits(&asked), [4 * SECOND; 30]);
    ended.expect("it goes on");
    let (asked, ended) = run(Restart::failure_rate(rate, 3 * SECOND), 30, code::SOURCE);
    assert_eq!(asked.len(), 4);
    ended.expect_err("four within ten seconds");
}

#[test]
fn what_nothing_heals_is_not_tried_again() {
    let (asked, ended) = run(Restart::fixed_delay(None, SECOND), 1, code::CONFIG);
    assert_eq!(asked.len(), 1);
    ended.expect_err("somebody has to mend it");
}
