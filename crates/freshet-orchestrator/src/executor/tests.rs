use std::collections::BTreeMap;
use std::sync::Mutex as StdMutex;

use freshet_core::error::code;
use freshet_core::source::SplitStatus;
use freshet_testkit::TestClock;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::*;
use crate::builder::{IntentRecord, RecoveredIntent};
use crate::fixture::{self, Outcome, Recorder, Scripted, at};

/// A project's folder with a store, and what a run needs.
struct Bench {
    dir: TempDir,
    store: MetaStore,
    observer: Arc<Recorder>,
    cancel: CancellationToken,
    runs: StdMutex<u64>,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let store = MetaStore::open(dir.path()).await.expect("the store opens");
        Self {
            dir,
            store,
            observer: Arc::default(),
            cancel: CancellationToken::new(),
            runs: StdMutex::new(0),
        }
    }

    fn project(&self, nodes: &[(&str, &[&str])]) -> Arc<Project> {
        Arc::new(fixture::project(self.dir.path(), nodes))
    }

    async fn try_run(
        &self,
        project: &Arc<Project>,
        builder: &Arc<Scripted>,
        options: &RunOptions,
    ) -> Result<RunReport> {
        let seed = {
            let mut runs = self.runs.lock().expect("no test panics in here");
            *runs += 1;
            *runs
        };
        let context = RunContext {
            clock: Arc::new(TestClock::at(&format!("2026-09-20T01:{seed:02}:00Z"))),
            seed,
            cancel: self.cancel.clone(),
            retry: RetryPolicy { base: Duration::from_micros(200), ..RetryPolicy::default() },
        };
        let builder = Arc::clone(builder) as Arc<dyn Builder>;
        let observer = Arc::clone(&self.observer) as Arc<dyn RunObserver>;
        run(Arc::clone(project), builder, &self.store, options, observer, context).await
    }

    async fn run(&self, project: &Arc<Project>, builder: &Arc<Scripted>) -> RunReport {
        self.try_run(project, builder, &RunOptions::default()).await.expect("the run begins")
    }

    fn events(&self) -> Vec<String> {
        let events = std::mem::take(&mut *self.observer.0.lock());
        events
            .iter()
            .map(|event| match event {
                RunEvent::Started { models, .. } => format!("begin {}", models.len()),
                RunEvent::TaskStarted { model, attempt } => format!("start {model} {attempt}"),
                RunEvent::TaskPhase { model, phase } => format!("phase {model} {phase}"),
                RunEvent::TaskProgress { model, progress } => {
                    format!("progress {model} {}", progress.records)
                }
                RunEvent::TaskRetry { model, attempt, error, .. } => {
                    format!("retry {model} {attempt} {}", error.code)
                }
                RunEvent::TaskFinished(task) => format!("end {} {:?}", task.model, task.status),
                RunEvent::Finished(report) => format!("finish {:?}", report.status),
            })
            .collect()
    }
}

fn statuses(report: &RunReport) -> Vec<(String, Status)> {
    report.tasks.iter().map(|task| (task.model.to_string(), task.status)).collect()
}

fn status_of<'a>(names: &[&'a str], status: Status) -> Vec<(&'a str, Status)> {
    names.iter().map(|name| (*name, status)).collect()
}

fn assert_statuses(report: &RunReport, expected: &[(&str, Status)]) {
    let actual = statuses(report);
    let actual: Vec<_> = actual.iter().map(|(name, status)| (name.as_str(), *status)).collect();
    assert_eq!(actual, expected);
}

fn broken(retryable: bool) -> BuildFailure {
    let error = Error::new(code::EXECUTION, "the query failed");
    BuildFailure::from(if retryable { error.retryable() } else { error })
}

/// The number that a build of this task has.
fn next(task: &BuildTask) -> Outcome {
    Ok(fixture::published(task.model.as_str(), task.progress.number + 1, 10))
}

#[tokio::test]
async fn a_run_builds_its_models_in_order_and_keeps_the_record() {
    let bench = Bench::new().await;
    let project = bench.project(&[("a", &[]), ("b", &["a"]), ("c", &["b"])]);
    let builder = Scripted::new(|task, observer| async move {
        observer.phase(&task.model, "execute");
        observer.progress(&task.model, BuildProgress { records: 7, ..BuildProgress::default() });
        next(&task)
    });
    let report = bench.run(&project, &builder).await;
    assert_eq!(report.status, Status::Success);
    assert_eq!(builder.order(), ["a", "b", "c"]);
    assert_eq!(
        bench.events()[..5],
        ["begin 3", "start a 1", "phase a execute", "progress a 7", "end a Success"]
    );

    let kept = bench.store.run("latest").await.expect("it is in the record");
    assert_eq!(kept.id, report.id);
    assert_eq!(kept.status, Status::Success);
    assert_statuses(&kept, &status_of(&["a", "b", "c"], Status::Success));
    let progress = bench.store.progress(&"a".into()).await.expect("the ledger is read");
    assert_eq!(progress, fixture::progress(1, 1));

    // The next run is told how far the last one came.
    bench.run(&project, &builder).await;
    let tasks = builder.tasks.lock();
    assert_eq!(tasks[3].progress, fixture::progress(1, 1));
    assert_eq!(tasks[3].history, [10]);
}

#[tokio::test]
async fn what_depends_on_a_failure_is_skipped() {
    let bench = Bench::new().await;
    let project = bench.project(&[("a", &[]), ("b", &["a"]), ("z", &[])]);
    let builder = Scripted::new(|task, _| async move {
        if task.model.as_str() == "a" {
            let mut report = fixture::empty_build("a");
            report.staged = Some("kept/here".into());
            let error = Error::new(code::CHECK_FAILED, "a check failed");
            return Err(BuildFailure::with_report(error, report));
        }
        next(&task)
    });
    let report = bench.run(&project, &builder).await;
    assert_eq!(report.status, Status::Failed);
    assert_statuses(
        &report,
        &[("a", Status::Failed), ("b", Status::Skipped), ("z", Status::Success)],
    );
    let kept = bench.store.run("latest").await.expect("it is in the record");
    assert_eq!(kept.tasks[0].error.as_ref().map(|error| error.code.as_str()), Some("F0401"));
    let staged = kept.tasks[0].build.as_ref().and_then(|build| build.staged.as_deref());
    assert_eq!(staged, Some("kept/here"), "what a failed build did is kept too");
    assert_eq!(kept.tasks[1].because, Some("a".into()));
    assert_eq!(kept.tasks[1].started, None);
}

#[tokio::test]
async fn a_failure_that_passes_is_tried_again_and_kept_in_the_record() {
    let bench = Bench::new().await;
    let project = bench.project(&[("a", &[])]);
    let builder = Scripted::new(|task, _| async move {
        if task.attempt < 3 { Err(broken(true)) } else { next(&task) }
    });
    let report = bench.run(&project, &builder).await;
    assert_eq!(report.status, Status::Success);
    assert_eq!((report.tasks[0].attempts, &report.tasks[0].error), (3, &None));
    let retries: Vec<_> =
        bench.events().into_iter().filter(|event| event.starts_with("retry")).collect();
    assert_eq!(retries, ["retry a 2 F0302", "retry a 3 F0302"]);
    let errors = bench.store.errors(&report.id).await.expect("errors are read");
    let attempts: Vec<_> = errors.iter().map(|error| error.attempt).collect();
    assert_eq!(attempts, [1, 2]);
}

#[tokio::test]
async fn a_failure_that_stays_is_tried_three_times() {
    let bench = Bench::new().await;
    let project = bench.project(&[("a", &[])]);
    let builder = Scripted::new(|_, _| async { Err(broken(true)) });
    let report = bench.run(&project, &builder).await;
    assert_eq!((report.status, report.tasks[0].attempts), (Status::Failed, 3));
}

#[tokio::test]
async fn a_panic_is_a_fault_of_its_task_alone() {
    let bench = Bench::new().await;
    let project = bench.project(&[("a", &[]), ("b", &[])]);
    let builder = Scripted::new(|task, _| async move {
        assert!(task.model.as_str() != "a", "thought impossible");
        next(&task)
    });
    let report = bench.run(&project, &builder).await;
    assert_statuses(&report, &[("a", Status::Failed), ("b", Status::Success)]);
    let error = report.tasks[0].error.clone().expect("it says why");
    assert_eq!(error.code, "F0001");
    assert!(error.message.contains("thought impossible"), "{}", error.message);
}

#[tokio::test]
async fn what_was_left_out_makes_the_run_partial() {
    let bench = Bench::new().await;
    let project = bench.project(&[("a", &[]), ("b", &["a"])]);
    let builder = Scripted::new(|task, _| async move {
        let mut report = next(&task)?;
        if task.model.as_str() == "a" {
            report.files = fixture::full_build("a").files;
            assert!(report.files.iter().any(|file| file.status == SplitStatus::SetAside));
        }
        Ok(report)
    });
    let report = bench.run(&project, &builder).await;
    assert_eq!(report.status, Status::Partial);
    assert_statuses(&report, &[("a", Status::Partial), ("b", Status::Success)]);
}

#[tokio::test]
async fn never_more_tasks_at_once_than_allowed() {
    let bench = Bench::new().await;
    let nodes: Vec<String> = (0..12).map(|node| format!("m{node:02}")).collect();
    let nodes: Vec<(&str, &[&str])> = nodes.iter().map(|node| (node.as_str(), &[][..])).collect();
    let project = bench.project(&nodes);
    let at_once = Arc::new(StdMutex::new((0, 0)));
    let counted = Arc::clone(&at_once);
    // Nobody goes on before three are there.
    let three = Arc::new(tokio::sync::Barrier::new(3));
    let builder = Scripted::new(move |task, _| {
        let (counted, three) = (Arc::clone(&counted), Arc::clone(&three));
        async move {
            {
                let mut counted = counted.lock().expect("no panic");
                counted.0 += 1;
                counted.1 = counted.1.max(counted.0);
            }
            three.wait().await;
            counted.lock().expect("no panic").0 -= 1;
            next(&task)
        }
    });
    let options = RunOptions { threads: Some(3), ..RunOptions::default() };
    let report = bench.try_run(&project, &builder, &options).await.expect("it begins");
    assert_eq!(report.status, Status::Success);
    assert_eq!(at_once.lock().expect("no panic").1, 3);
}

#[tokio::test]
async fn cancelling_ends_what_computes_and_waits_for_what_publishes() {
    let bench = Bench::new().await;
    let project =
        bench.project(&[("computes", &[]), ("later", &["publishes"]), ("publishes", &[])]);
    // The order of nodes is that of dependencies.
    let project = Arc::new(Project {
        nodes: {
            let mut nodes = project.nodes.clone();
            nodes.move_index(1, 2);
            nodes
        },
        ..Project::clone(&project)
    });
    let (cancel, published) = (bench.cancel.clone(), Arc::new(Notify::new()));
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let builder = Scripted::new(move |task, observer| {
        let (cancel, published, both) = (cancel.clone(), Arc::clone(&published), Arc::clone(&both));
        async move {
            if task.model.as_str() == "computes" {
                observer.phase(&task.model, "execute");
                both.wait().await;
                // Told of the cancellation only by being dropped.
                struct Tell(Arc<Notify>);
                impl Drop for Tell {
                    fn drop(&mut self) {
                        self.0.notify_one();
                    }
                }
                let _tell = Tell(published);
                std::future::pending().await
            } else {
                observer.phase(&task.model, "publish");
                both.wait().await;
                cancel.cancel();
                published.notified().await;
                next(&task)
            }
        }
    });
    let report = bench.run(&project, &builder).await;
    assert_eq!(report.status, Status::Cancelled);
    assert_statuses(
        &report,
        &[
            ("computes", Status::Cancelled),
            ("publishes", Status::Success),
            ("later", Status::Cancelled),
        ],
    );
    let kept = bench.store.run("latest").await.expect("it is in the record");
    assert_eq!(kept.status, Status::Cancelled);
}

#[tokio::test]
async fn a_second_run_of_an_environment_is_refused_before_it_writes() {
    let bench = Bench::new().await;
    let project = bench.project(&[("a", &[])]);
    let builder = Scripted::new(|task, _| async move { next(&task) });
    let _other = EnvironmentLock::acquire(bench.dir.path(), &"other".into(), at(0)).expect("free");
    let error = bench
        .try_run(&project, &builder, &RunOptions::default())
        .await
        .expect_err("the other holds the lock");
    assert_eq!(error.code(), code::LOCKED);
    assert!(error.message().contains("run other"), "{}", error.message());
    assert_eq!(bench.store.runs(9).await.expect("runs are read"), []);
}

#[tokio::test]
async fn a_wrong_selection_is_an_error_of_the_arguments() {
    let bench = Bench::new().await;
    let project = bench.project(&[("a", &[])]);
    let builder = Scripted::new(|task, _| async move { next(&task) });
    let options = RunOptions { select: vec!["b".into()], ..RunOptions::default() };
    let error = bench.try_run(&project, &builder, &options).await.expect_err("there is no b");
    assert_eq!(error.code(), code::SELECTOR);
}

#[tokio::test]
async fn commits_of_a_dead_process_are_finished_and_brought_into_the_record() {
    let bench = Bench::new().await;
    let project = bench.project(&[("a", &[]), ("b", &[])]);
    let dead = Scripted::new(|task, _| async move { next(&task) });
    // A process that died in a run of both models: `a` committed, and not recorded; `b` decided.
    let died = RunReport {
        id: "20260919T010203-dead00".into(),
        project: "shop".into(),
        environment: "dev".into(),
        command: "run".into(),
        started: at(1),
        finished: None,
        status: Status::Running,
        tasks: ["a", "b"].map(|model| pending(&model.into())).to_vec(),
        recovered: Vec::new(),
    };
    bench.store.begin_run(&died).await.expect("the run is recorded");
    *dead.intents.lock() = vec![IntentRecord {
        model: "a".into(),
        number: 4,
        run: died.id.clone(),
        at: at(2),
        report: fixture::published("a", 4, 10),
    }];
    *dead.recovered.lock() = vec![RecoveredIntent {
        model: "b".into(),
        number: 2,
        run: died.id.clone(),
        action: Recovery::Finished,
        progress: fixture::progress(2, 2),
        report: Some(fixture::published("b", 2, 10)),
    }];
    dead.intents.lock().push(IntentRecord {
        model: "b".into(),
        number: 2,
        run: died.id.clone(),
        at: at(3),
        report: fixture::published("b", 2, 10),
    });

    let report = bench.run(&project, &dead).await;
    assert_eq!(report.recovered, ["b 2 (run 20260919T010203-dead00)"]);
    let told: BTreeMap<_, _> = dead
        .tasks
        .lock()
        .iter()
        .map(|task| (task.model.to_string(), task.progress.number))
        .collect();
    assert_eq!(told, BTreeMap::from([("a".to_owned(), 4), ("b".to_owned(), 2)]));
    let before = bench.store.run(died.id.as_str()).await.expect("the dead run is there");
    assert_eq!((before.status, before.finished), (Status::Failed, None));
    assert_statuses(&before, &status_of(&["a", "b"], Status::Success));
}

#[tokio::test]
async fn a_recovery_that_does_not_end_is_made_again_whole() {
    let bench = Bench::new().await;
    let project = bench.project(&[("a", &[])]);
    let builder = Scripted::new(|task, _| async move { next(&task) });
    bench.run(&project, &builder).await;
    let died = RunReport {
        id: "dead".into(),
        status: Status::Running,
        finished: None,
        ..bench.store.run("latest").await.expect("it is in the record")
    };
    bench.store.begin_run(&died).await.expect("the run is recorded");
    let read = builder.intents_read.load(Ordering::SeqCst);
    *builder.unrecoverable.lock() = Some(Error::new(code::INTENT, "the disk is away"));
    let failed = bench.try_run(&project, &builder, &RunOptions::default()).await;
    assert_eq!(failed.expect_err("nothing could be finished").code(), code::INTENT);
    bench.run(&project, &builder).await;
    assert_eq!(builder.intents_read.load(Ordering::SeqCst), read + 1);
    let before = bench.store.run("dead").await.expect("the dead run is there");
    assert_eq!((before.status, before.finished), (Status::Failed, None));
}

#[tokio::test]
async fn intents_are_read_only_where_the_record_may_lack_some() {
    let bench = Bench::new().await;
    let project = bench.project(&[("a", &[])]);
    let builder = Scripted::new(|task, _| async move { next(&task) });
    bench.run(&project, &builder).await;
    assert_eq!(builder.intents_read.load(Ordering::SeqCst), 1, "the record is new");
    let again =
        Bench { store: MetaStore::open(bench.dir.path()).await.expect("it opens again"), ..bench };
    again.run(&project, &builder).await;
    assert_eq!(builder.intents_read.load(Ordering::SeqCst), 1, "it was whole");
}

#[tokio::test]
async fn only_what_was_built_counts_as_unmodified() {
    let bench = Bench::new().await;
    let project = bench.project(&[("a", &[]), ("b", &["a"])]);
    let builder = Scripted::new(|task, _| async move {
        if task.model.as_str() == "b" { Err(broken(false)) } else { next(&task) }
    });
    bench.run(&project, &builder).await;
    let state: ProjectState =
        bench.store.load_state("dev").await.expect("it is read").expect("it was kept");
    assert_eq!(state.nodes.keys().map(ModelId::as_str).collect::<Vec<_>>(), ["a"]);

    let mut changed = fixture::project(bench.dir.path(), &[("a", &[]), ("b", &["a"])]);
    changed.nodes[0].checksum = "another".into();
    let options = RunOptions { select: vec!["state:modified".into()], ..RunOptions::default() };
    bench.try_run(&Arc::new(changed), &builder, &options).await.expect("it begins");
    assert_eq!(builder.order(), ["a", "b", "a", "b"], "b was never built");
}
