use std::collections::BTreeSet;

use freshet_core::ModelId;
use proptest::prelude::*;

use super::*;

fn rules(parallelism: usize, fail_fast: bool) -> RunRules {
    RunRules { parallelism, fail_fast, retry: RetryPolicy::default() }
}

fn graph(tasks: usize, edges: &[(usize, usize)]) -> Arc<TaskGraph> {
    let models = (0..tasks).map(|task| ModelId::new(format!("m{task}"))).collect();
    Arc::new(TaskGraph::from_edges(models, edges, &[]))
}

fn begun(tasks: usize, edges: &[(usize, usize)], rules: RunRules) -> (RunState, Vec<RunAction>) {
    let mut state = RunState::new(graph(tasks, edges), rules, 7);
    let actions = state.apply(RunInput::Begin);
    (state, actions)
}

fn task(index: usize) -> TaskIndex {
    TaskIndex(index)
}

fn start(index: usize, attempt: u32) -> RunAction {
    RunAction::StartTask { task: task(index), attempt }
}

fn ended(index: usize, status: Status, because: Option<usize>) -> RunAction {
    RunAction::EndTask { task: task(index), status, because: because.map(TaskIndex) }
}

fn finished(index: usize) -> RunInput {
    RunInput::TaskFinished { task: task(index), partial: false }
}

fn failed(index: usize, retryable: bool) -> RunInput {
    RunInput::TaskFailed { task: task(index), retryable, now: 1_000_000 }
}

#[test]
fn an_empty_run_is_a_success() {
    let (_, actions) = begun(0, &[], rules(1, false));
    assert_eq!(actions, [RunAction::FinishRun { status: Status::Success }]);
}

#[test]
fn tasks_start_when_all_that_they_wait_for_has_ended_well() {
    let (mut state, actions) = begun(3, &[(0, 2), (1, 2)], rules(8, false));
    assert_eq!(actions, [start(0, 1), start(1, 1)]);
    assert_eq!(state.apply(finished(0)), [ended(0, Status::Success, None)]);
    let partial = RunInput::TaskFinished { task: task(1), partial: true };
    assert_eq!(state.apply(partial), [ended(1, Status::Partial, None), start(2, 1)]);
    assert_eq!(
        state.apply(finished(2)),
        [ended(2, Status::Success, None), RunAction::FinishRun { status: Status::Partial }]
    );
}

#[test]
fn the_longest_way_goes_first() {
    let (_, actions) = begun(5, &[(2, 3), (3, 4)], rules(2, false));
    assert_eq!(actions, [start(2, 1), start(0, 1)]);
}

#[test]
fn what_is_behind_a_failure_is_skipped_and_the_rest_goes_on() {
    let (mut state, _) = begun(4, &[(0, 1), (1, 2)], rules(1, false));
    assert_eq!(
        state.apply(failed(0, false)),
        [
            ended(0, Status::Failed, None),
            ended(1, Status::Skipped, Some(0)),
            ended(2, Status::Skipped, Some(0)),
            start(3, 1),
        ]
    );
    assert_eq!(
        state.apply(finished(3)),
        [ended(3, Status::Success, None), RunAction::FinishRun { status: Status::Failed }]
    );
}

#[test]
fn a_follower_begins_after_the_other_has_ended_in_whatever_way() {
    let models = ["a", "b", "c"].map(ModelId::from).to_vec();
    let graph = Arc::new(TaskGraph::from_edges(models, &[(0, 1)], &[(1, 2)]));
    let mut state = RunState::new(graph, rules(4, false), 7);
    assert_eq!(state.apply(RunInput::Begin), [start(0, 1)]);
    assert_eq!(
        state.apply(failed(0, false)),
        [ended(0, Status::Failed, None), ended(1, Status::Skipped, Some(0)), start(2, 1)]
    );
}

#[test]
fn after_the_first_failure_a_fail_fast_run_starts_nothing() {
    let (mut state, actions) = begun(4, &[], rules(2, true));
    assert_eq!(actions, [start(0, 1), start(1, 1)]);
    assert_eq!(
        state.apply(failed(0, false)),
        [
            ended(0, Status::Failed, None),
            ended(2, Status::Skipped, Some(0)),
            ended(3, Status::Skipped, Some(0)),
        ]
    );
    // What runs may end, but is not tried again.
    assert_eq!(
        state.apply(failed(1, true)),
        [ended(1, Status::Failed, None), RunAction::FinishRun { status: Status::Failed }]
    );
}

#[test]
fn failures_that_may_pass_are_tried_three_times_with_growing_waits() {
    let (mut state, _) = begun(1, &[], rules(1, false));
    let mut waits = Vec::new();
    for attempt in 2..=3 {
        let now = 1_000_000;
        let actions = state.apply(failed(0, true));
        let [RunAction::ScheduleRetry { attempt: next, at, .. }] = actions[..] else {
            panic!("{actions:?}");
        };
        assert_eq!(next, attempt);
        assert_eq!(state.next_tick(), Some(at));
        waits.push(at - now);
        assert_eq!(state.apply(RunInput::Tick { now: at - 1 }), []);
        assert_eq!(state.apply(RunInput::Tick { now: at }), [start(0, attempt)]);
        assert_eq!(state.next_tick(), None);
        // Time never goes back, whatever a caller says.
        state.now = now;
    }
    assert!((500_000..=1_000_000).contains(&waits[0]), "{waits:?}");
    assert!((1_000_000..=2_000_000).contains(&waits[1]), "{waits:?}");
    assert_eq!(
        state.apply(failed(0, true)),
        [ended(0, Status::Failed, None), RunAction::FinishRun { status: Status::Failed }]
    );
}

#[test]
fn a_retry_that_is_due_waits_for_a_free_place() {
    let (mut state, actions) = begun(2, &[], rules(1, false));
    assert_eq!(actions, [start(0, 1)]);
    let actions = state.apply(failed(0, true));
    assert_eq!(actions.last(), Some(&start(1, 1)));
    assert_eq!(state.apply(RunInput::Tick { now: 100_000_000 }), []);
    assert_eq!(state.next_tick(), None, "no timer spins while it waits");
    assert_eq!(state.apply(finished(1)), [ended(1, Status::Success, None), start(0, 2)]);
}

#[test]
fn a_cancelled_run_lets_running_tasks_end() {
    let (mut state, _) = begun(3, &[(0, 1)], rules(2, false));
    assert_eq!(
        state.apply(RunInput::CancelRequested),
        [
            RunAction::CancelTask { task: task(0) },
            ended(1, Status::Cancelled, None),
            RunAction::CancelTask { task: task(2) },
        ]
    );
    assert_eq!(state.apply(RunInput::CancelRequested), [], "once is enough");
    assert_eq!(state.apply(finished(0)), [ended(0, Status::Success, None)]);
    assert_eq!(
        state.apply(RunInput::TaskCancelled { task: task(2) }),
        [ended(2, Status::Cancelled, None), RunAction::FinishRun { status: Status::Cancelled }]
    );
}

#[test]
#[should_panic(expected = "ended without running")]
fn an_end_without_a_start_is_refused() {
    let (mut state, _) = begun(2, &[(0, 1)], rules(1, false));
    state.apply(finished(1));
}

/// A run as an executor would see it, held against the rules at every step.
struct Watched {
    state: RunState,
    graph: Arc<TaskGraph>,
    rules: RunRules,
    running: BTreeSet<TaskIndex>,
    retrying: BTreeSet<TaskIndex>,
    attempts: Vec<u32>,
    ends: Vec<Option<Status>>,
    failed: bool,
    cancelled: bool,
    run: Option<Status>,
    actions: Vec<RunAction>,
}

impl Watched {
    fn new(graph: &Arc<TaskGraph>, rules: RunRules, seed: u64) -> Self {
        let mut watched = Self {
            state: RunState::new(Arc::clone(graph), rules, seed),
            graph: Arc::clone(graph),
            rules,
            running: BTreeSet::new(),
            retrying: BTreeSet::new(),
            attempts: vec![0; graph.len()],
            ends: vec![None; graph.len()],
            failed: false,
            cancelled: false,
            run: None,
            actions: Vec::new(),
        };
        watched.give(RunInput::Begin);
        watched
    }

    fn give(&mut self, input: RunInput) {
        match input {
            RunInput::TaskFinished { task, .. }
            | RunInput::TaskFailed { task, .. }
            | RunInput::TaskCancelled { task } => {
                self.running.remove(&task);
            }
            RunInput::CancelRequested => self.cancelled = true,
            RunInput::Begin | RunInput::Tick { .. } => {}
        }
        for action in self.state.apply(input) {
            self.watch(action);
            self.actions.push(action);
        }
    }

    fn watch(&mut self, action: RunAction) {
        assert_eq!(self.run, None, "{action:?} after the end of the run");
        match action {
            RunAction::StartTask { task, attempt } => {
                assert!(!self.cancelled, "task {task:?} starts in a cancelled run");
                assert!(!(self.failed && self.rules.fail_fast), "task {task:?} starts too late");
                for upstream in self.graph.upstream(task) {
                    let end = self.ends[upstream.0];
                    let well = matches!(end, Some(Status::Success | Status::Partial));
                    assert!(well, "task {task:?} starts while {upstream:?} is {end:?}");
                }
                for other in self.graph.tasks() {
                    if self.graph.followers(other).contains(&task) {
                        assert!(self.ends[other.0].is_some(), "{task:?} overtakes {other:?}");
                    }
                }
                self.attempts[task.0] += 1;
                assert_eq!(self.attempts[task.0], attempt);
                assert!(attempt <= self.rules.retry.max_attempts);
                self.retrying.remove(&task);
                assert!(self.running.insert(task), "task {task:?} runs twice");
                assert!(self.running.len() <= self.rules.parallelism.max(1), "too many at once");
            }
            RunAction::ScheduleRetry { task, .. } => {
                assert!(self.retrying.insert(task));
            }
            RunAction::CancelTask { task } => assert!(self.running.contains(&task)),
            RunAction::EndTask { task, status, because } => {
                assert_eq!(self.ends[task.0], None, "task {task:?} ends twice");
                assert!(!self.running.contains(&task), "task {task:?} ends while it runs");
                assert_eq!(because.is_some(), status == Status::Skipped);
                if let Some(because) = because {
                    assert_eq!(self.ends[because.0], Some(Status::Failed));
                }
                self.retrying.remove(&task);
                self.failed |= status == Status::Failed;
                self.ends[task.0] = Some(status);
            }
            RunAction::FinishRun { status } => {
                assert!(self.running.is_empty() && self.retrying.is_empty());
                self.run = Some(status);
            }
        }
    }

    /// Gives inputs as `choices` say until the run has ended.
    fn drive(&mut self, choices: &[(u8, usize)]) {
        let mut choices = choices.iter().copied().chain(std::iter::repeat((0, 0)));
        let limit = 20 * (self.graph.len() + 1) + 400;
        for _ in 0..limit {
            if self.run.is_some() {
                return;
            }
            let (kind, which) = choices.next().expect("it goes on for ever");
            let running: Vec<TaskIndex> = self.running.iter().copied().collect();
            let input = match (kind % 16, running.is_empty()) {
                (15, _) if which % 4 == 0 => RunInput::CancelRequested,
                (13..=15, _) => RunInput::Tick { now: i64::try_from(which).expect("small") },
                (_, true) => RunInput::Tick {
                    now: self.state.next_tick().expect("something waits for its time"),
                },
                (kind, false) => {
                    let task = running[which % running.len()];
                    match kind {
                        0..=6 => RunInput::TaskFinished { task, partial: kind == 6 },
                        7..=9 => RunInput::TaskFailed { task, retryable: true, now: 1 },
                        10 | 11 => RunInput::TaskFailed { task, retryable: false, now: 1 },
                        _ if self.cancelled => RunInput::TaskCancelled { task },
                        _ => RunInput::Tick { now: 5 },
                    }
                }
            };
            self.give(input);
        }
        panic!("the run does not end");
    }
}

fn graphs() -> impl Strategy<Value = Arc<TaskGraph>> {
    let pairs = |most| prop::collection::vec((0usize..14, 0usize..14), 0..most);
    (0usize..14, pairs(30), pairs(12)).prop_map(|(tasks, needs, follows)| {
        let inside = |pairs: Vec<(usize, usize)>| -> Vec<_> {
            pairs.into_iter().filter(|(from, to)| *from < tasks && *to < tasks).collect()
        };
        let needs: Vec<_> = inside(needs).into_iter().filter(|(from, to)| from < to).collect();
        let models = (0..tasks).map(|task| ModelId::new(format!("m{task}"))).collect();
        Arc::new(TaskGraph::from_edges(models, &needs, &inside(follows)))
    })
}

fn run_rules() -> impl Strategy<Value = RunRules> {
    (0usize..5, any::<bool>(), 1u32..5).prop_map(|(parallelism, fail_fast, max_attempts)| {
        RunRules {
            parallelism,
            fail_fast,
            retry: RetryPolicy { max_attempts, ..RetryPolicy::default() },
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_run_keeps_the_rules_and_ends(
        graph in graphs(),
        rules in run_rules(),
        choices in prop::collection::vec((any::<u8>(), 0usize..64), 0..120),
        seed in any::<u64>(),
    ) {
        let mut run = Watched::new(&graph, rules, seed);
        run.drive(&choices);

        let has = |status| run.ends.contains(&Some(status));
        let expected = [Status::Failed, Status::Cancelled, Status::Partial]
            .into_iter()
            .find(|status| has(*status))
            .unwrap_or(Status::Success);
        prop_assert_eq!(run.run, Some(expected));
        for task in graph.tasks() {
            let end = run.ends[task.0].expect("every task ends");
            prop_assert_eq!(run.state.status(task), end);
            let lost = graph.upstream(task).iter().any(|upstream| {
                matches!(run.ends[upstream.0], Some(Status::Failed | Status::Skipped))
            });
            if lost {
                prop_assert!(matches!(end, Status::Skipped | Status::Cancelled), "{:?}", end);
            }
            if end == Status::Skipped {
                prop_assert!(lost || rules.fail_fast);
            }
        }

        let mut again = Watched::new(&graph, rules, seed);
        again.drive(&choices);
        prop_assert_eq!(run.actions, again.actions);
    }

    #[test]
    fn without_failures_everything_is_built_once(graph in graphs(), parallelism in 1usize..5) {
        let mut run = Watched::new(&graph, rules(parallelism, false), 0);
        run.drive(&[]);
        prop_assert_eq!(run.run, Some(Status::Success));
        prop_assert!(run.attempts.iter().all(|attempts| *attempts == 1));
    }
}
