use chrono::TimeDelta;
use freshet_core::{ModelId, RunId};
use freshet_engine::ErrorReport;
use tempfile::TempDir;

use super::*;
use crate::builder::IntentRecord;
use crate::fixture::{self, at};
use crate::{RunReport, Status, TaskReport};

async fn store() -> (TempDir, MetaStore) {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let store = MetaStore::open(dir.path()).await.expect("the store opens");
    (dir, store)
}

fn run(id: &str, second: u32, tasks: Vec<TaskReport>) -> RunReport {
    RunReport {
        id: id.into(),
        project: "shop".into(),
        environment: "dev".into(),
        command: "run --select a".into(),
        started: at(second),
        finished: None,
        status: Status::Running,
        tasks,
        recovered: vec!["b 2 (run x)".into()],
    }
}

fn task(model: &str, status: Status) -> TaskReport {
    let ended = !matches!(status, Status::Pending | Status::Running);
    TaskReport {
        model: model.into(),
        status,
        attempts: 1,
        started: Some(at(4)),
        finished: ended.then(|| at(5)),
        build: None,
        error: None,
        because: None,
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).expect("reports serialise")
}

#[tokio::test]
async fn a_run_is_read_as_it_was_recorded() {
    let (_dir, store) = store().await;
    let error = ErrorReport::from(&Error::new(code::IO, "no disk").hint("buy one").retryable());
    let mut report = run(
        "20260920T010203-aa",
        1,
        vec![
            task("stg", Status::Pending),
            task("a_later_one", Status::Pending),
            task("last", Status::Pending),
        ],
    );
    store.begin_run(&report).await.expect("it is recorded");
    assert_eq!(json(&store.run("latest").await.expect("it is read")), json(&report));

    let mut build = fixture::full_build("stg");
    report.tasks[0] = TaskReport { build: Some(build.clone()), ..task("stg", Status::Partial) };
    report.tasks[1] = TaskReport { error: Some(error), ..task("a_later_one", Status::Failed) };
    report.tasks[2] =
        TaskReport { because: Some("a_later_one".into()), ..task("last", Status::Skipped) };
    for task in &report.tasks {
        store.record_task(&report.id, task).await.expect("it is recorded");
        store.record_task(&report.id, task).await.expect("recording twice is recording once");
    }
    report.status = Status::Failed;
    report.finished = Some(at(9));
    store.finish_run(&report.id, Status::Failed, at(9)).await.expect("it is recorded");

    // The ledger is not repeated with every run.
    build.progress = freshet_engine::ModelProgress::default();
    report.tasks[0].build = Some(build);
    assert_eq!(json(&store.run("latest").await.expect("it is read")), json(&report));

    let [summary] = &store.runs(5).await.expect("runs are read")[..] else { panic!("one run") };
    assert_eq!((summary.tasks, summary.done, summary.failed), (3, 1, 1));
    assert_eq!((summary.rows_written, summary.dead_letters), (9, 2));
}

#[tokio::test]
async fn runs_are_found_by_the_start_of_their_id() {
    let (_dir, store) = store().await;
    for (id, second) in [("20260920T01-aa", 1), ("20260920T02-bb", 2), ("20260920T02-bbc", 3)] {
        store.begin_run(&run(id, second, Vec::new())).await.expect("it is recorded");
    }
    let found = |which: &'static str| {
        let store = store.clone();
        async move { store.run(which).await.map(|run| run.id.to_string()) }
    };
    assert_eq!(found("latest").await.expect("the newest"), "20260920T02-bbc");
    assert_eq!(found("20260920T01").await.expect("only one"), "20260920T01-aa");
    assert_eq!(found("20260920T02-bb").await.expect("the whole id"), "20260920T02-bb");
    let error = found("2026").await.expect_err("three of them");
    assert_eq!(error.code(), code::ARGUMENTS);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("20260920T02-bb")), "{error:?}");
    let error = found("%").await.expect_err("no pattern");
    assert_eq!(error.message(), "there is no run \"%\"");
    let ids: Vec<_> =
        store.runs(2).await.expect("runs are read").into_iter().map(|run| run.id).collect();
    assert_eq!(ids, [RunId::from("20260920T02-bbc"), RunId::from("20260920T02-bb")]);
}

#[tokio::test]
async fn without_runs_latest_says_so() {
    let (_dir, store) = store().await;
    let error = store.run("latest").await.expect_err("there is none");
    assert_eq!(error.message(), "there is no run yet");
}

#[tokio::test]
async fn the_ledger_follows_what_was_published() {
    let (_dir, store) = store().await;
    let model = ModelId::from("stg");
    store.begin_run(&run("r", 1, vec![task("stg", Status::Pending)])).await.expect("recorded");
    let record = |number, files| {
        let mut build = fixture::published("stg", number, 10);
        build.progress = fixture::progress(number, files);
        TaskReport { build: Some(build), ..task("stg", Status::Success) }
    };
    let run = RunId::from("r");
    assert_eq!(store.progress(&model).await.expect("read").number, 0);
    for (number, files) in [(1, 3), (2, 7), (3, 2), (4, 0), (5, 5)] {
        store.record_task(&run, &record(number, files)).await.expect("recorded");
        let progress = store.progress(&model).await.expect("read");
        assert_eq!(progress, fixture_progress(number, files));
    }
    // A split that was read again in another version.
    let mut again = record(6, 5);
    let splits = again.build.as_mut().and_then(|build| build.progress.consumed.values_mut().next());
    let split = splits.and_then(|splits| splits.values_mut().nth(2)).expect("five splits");
    split.split.version = "v9".into();
    store.record_task(&run, &again).await.expect("recorded");
    let expected = again.build.expect("a build").progress;
    assert_eq!(store.progress(&model).await.expect("read"), expected);
}

/// As the fixture, but a source without files is not in the ledger.
fn fixture_progress(number: u64, files: usize) -> freshet_engine::ModelProgress {
    let mut progress = fixture::progress(number, files);
    progress.consumed.retain(|_, splits| !splits.is_empty());
    progress
}

#[tokio::test]
async fn what_was_not_published_does_not_move_the_ledger() {
    let (_dir, store) = store().await;
    store.begin_run(&run("r", 1, vec![task("stg", Status::Pending)])).await.expect("recorded");
    let mut build = fixture::published("stg", 1, 10);
    build.version = None;
    let failed = TaskReport { build: Some(build), ..task("stg", Status::Failed) };
    store.record_task(&"r".into(), &failed).await.expect("recorded");
    assert_eq!(store.progress(&"stg".into()).await.expect("read").number, 0);
    assert_eq!(store.history(&"stg".into(), 9).await.expect("read"), Vec::<u64>::new());
}

#[tokio::test]
async fn history_is_what_was_published_newest_first() {
    let (_dir, store) = store().await;
    for number in 1..=5u32 {
        let id = format!("r{number}");
        store.begin_run(&run(&id, number, vec![task("a", Status::Pending)])).await.expect("ok");
        let build = fixture::published("a", u64::from(number), u64::from(number) * 100);
        let task = TaskReport {
            build: Some(build),
            finished: Some(at(5) + TimeDelta::minutes(i64::from(number))),
            ..task("a", if number == 4 { Status::Failed } else { Status::Success })
        };
        store.record_task(&id.as_str().into(), &task).await.expect("recorded");
    }
    assert_eq!(store.history(&"a".into(), 3).await.expect("read"), [500, 300, 200]);
}

#[tokio::test]
async fn a_run_whose_process_died_is_shown_as_interrupted() {
    let (_dir, store) = store().await;
    let tasks = vec![task("a", Status::Success), task("b", Status::Running)];
    store.begin_run(&run("dead", 1, tasks)).await.expect("recorded");
    store.begin_run(&run("done", 2, Vec::new())).await.expect("recorded");
    store.finish_run(&"done".into(), Status::Success, at(7)).await.expect("recorded");
    assert_eq!(store.mark_interrupted().await.expect("marked"), [RunId::from("dead")]);
    assert_eq!(store.mark_interrupted().await.expect("marked"), []);
    let run = store.run("dead").await.expect("read");
    assert_eq!((run.status, run.finished), (Status::Failed, None));
    let states: Vec<_> = run.tasks.iter().map(|task| task.status).collect();
    assert_eq!(states, [Status::Success, Status::Failed]);
    let error = run.tasks[1].error.as_ref().expect("it says why");
    assert_eq!(error.code, code::INTERRUPTED.to_string());
    assert_eq!(store.run("done").await.expect("read").status, Status::Success);
}

#[tokio::test]
async fn the_record_is_made_again_from_intents() {
    let (_dir, store) = store().await;
    // What the index holds of the ledger is wrong.
    store.begin_run(&run("r0", 1, vec![task("a", Status::Pending)])).await.expect("recorded");
    let stale =
        TaskReport { build: Some(fixture::published("a", 9, 1)), ..task("a", Status::Success) };
    store.record_task(&"r0".into(), &stale).await.expect("recorded");
    let intent = |model: &str, number, run: &str| IntentRecord {
        model: model.into(),
        number,
        run: run.into(),
        at: at(6),
        report: fixture::published(model, number, 10 * number),
    };
    let intents = [intent("a", 1, "r1"), intent("b", 1, "r1"), intent("a", 2, "r2")];
    for _ in 0..2 {
        store.rebuild(&intents, "shop", "dev").await.expect("rebuilt");
        let a = store.progress(&"a".into()).await.expect("read");
        assert_eq!(a, fixture::progress(2, 2));
        assert_eq!(store.progress(&"b".into()).await.expect("read").number, 1);
        let models = |run: RunReport| -> Vec<_> {
            run.tasks.iter().map(|task| (task.model.to_string(), task.status)).collect()
        };
        let both = [("a".to_owned(), Status::Success), ("b".to_owned(), Status::Success)];
        assert_eq!(models(store.run("r1").await.expect("read")), both);
        assert_eq!(models(store.run("r2").await.expect("read")), both[..1]);
        assert_eq!(store.runs(9).await.expect("read").len(), 3);
    }
}

#[tokio::test]
async fn a_project_state_is_kept_for_each_environment() {
    let (_dir, store) = store().await;
    assert_eq!(store.load_state::<Vec<u32>>("dev").await.expect("read"), None);
    store.save_state("dev", &[1, 2]).await.expect("kept");
    store.save_state("prod", &[3]).await.expect("kept");
    assert_eq!(store.load_state("dev").await.expect("read"), Some(vec![1, 2]));
    assert_eq!(store.load_state::<String>("prod").await.expect("read"), None, "another shape");
}

#[tokio::test]
async fn a_newer_record_is_refused_and_a_damaged_one_is_named() {
    let (dir, store) = store().await;
    assert!(store.is_new());
    let again = MetaStore::open(dir.path()).await.expect("it opens");
    assert!(!again.is_new());
    sqlx::raw_sql("pragma user_version = 99").execute(&again.pool).await.expect("it is written");
    again.close().await;
    store.close().await;
    let error = MetaStore::open(dir.path()).await.expect_err("it is newer");
    assert_eq!(error.code(), code::METADATA);
    assert!(error.message().contains("has version 99, this build knows 2"), "{error:?}");

    let dir = tempfile::tempdir().expect("a folder for the test");
    std::fs::write(dir.path().join("meta.db"), vec![b'x'; 5_000]).expect("it is written");
    let error = MetaStore::open(dir.path()).await.expect_err("it is no database");
    assert_eq!(error.code(), code::METADATA);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("runs rebuild")), "{error:?}");
}

#[tokio::test]
async fn runs_that_are_old_are_forgotten_but_the_newest_build_of_each_model() {
    let (_dir, store) = store().await;
    for (number, models) in [(1u32, vec!["a", "b"]), (2, vec!["a"]), (3, vec!["a"])] {
        let id = format!("r{number}");
        let tasks = models.iter().map(|model| task(model, Status::Pending)).collect();
        let began = RunReport { started: at(number), ..run(&id, number, tasks) };
        store.begin_run(&began).await.expect("begun");
        for model in models {
            let build = fixture::published(model, u64::from(number), 10);
            let task = TaskReport {
                build: Some(build),
                finished: Some(at(number)),
                ..task(model, Status::Success)
            };
            store.record_task(&began.id, &task).await.expect("recorded");
        }
        store.finish_run(&began.id, Status::Success, at(number)).await.expect("finished");
    }
    let left = async || {
        let runs = store.runs(9).await.expect("listed");
        runs.iter().map(|run| run.id.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(store.prune(at(50), true).await.expect("counted"), 1);
    assert_eq!(left().await, ["r3", "r2", "r1"]);
    assert_eq!(store.prune(at(2), false).await.expect("pruned"), 0, "r1 has the newest b");
    assert_eq!(store.prune(at(50), false).await.expect("pruned"), 1);
    assert_eq!(left().await, ["r3", "r1"]);
    assert_eq!(store.progress(&"a".into()).await.expect("read").number, 3, "the ledger stays");
}

#[tokio::test]
async fn the_ledger_of_many_files_is_written_by_its_changes() {
    let (dir, store) = store().await;
    let model = ModelId::from("stg");
    let save = async |store: &MetaStore, number: u64, files: usize| {
        let mut connection = store.pool.acquire().await.expect("a connection");
        let progress = fixture_progress(number, files);
        let known = store.known(&model);
        ledger::save(&mut connection, &model, &progress, known.as_deref()).await.expect("saved");
        store.know(&model, &progress);
        progress
    };
    save(&store, 1, 100).await;
    // Somebody else moves on; what this process knows is old then.
    let other = MetaStore::open(dir.path()).await.expect("it opens");
    store.progress(&model).await.expect("read");
    for (who, number, files) in
        [(&store, 2, 101), (&other, 3, 103), (&store, 4, 90), (&store, 5, 95), (&other, 6, 94)]
    {
        let expected = save(who, number, files).await;
        for store in [&store, &other] {
            let known = store.known(&model);
            assert_eq!(store.progress(&model).await.expect("read"), expected, "{number}");
            // Reading must not help the next write.
            match known {
                Some(known) => drop(store.known.lock().insert(model.clone(), known)),
                None => drop(store.known.lock().remove(&model)),
            }
        }
    }
}

#[tokio::test]
async fn a_record_of_version_1_is_brought_to_this_one() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let old = SqlitePool::connect_with(
        SqliteConnectOptions::new().filename(dir.path().join("meta.db")).create_if_missing(true),
    )
    .await
    .expect("it opens");
    sqlx::raw_sql(MIGRATIONS[0]).execute(&old).await.expect("it is version 1");
    sqlx::raw_sql(
        "pragma user_version = 1; insert into progress values ('stg', 4); \
         insert into consumed values ('stg', 'pos.sales', 'a.csv', 'v1', 7, null, '{}', null, \
         null, 'd', 2)",
    )
    .execute(&old)
    .await
    .expect("it is filled");
    old.close().await;
    let store = MetaStore::open(dir.path()).await.expect("it opens");
    assert!(!store.is_new());
    let progress = store.progress(&"stg".into()).await.expect("read");
    let consumed = &progress.consumed[&freshet_core::SourceId::of("pos", "sales")]["a.csv"];
    assert_eq!((progress.number, consumed.corrections, consumed.empty), (4, 2, false));
}

#[tokio::test]
async fn two_processes_may_open_a_new_record_at_once() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let opens = (0..6).map(|_| {
        let path = dir.path().to_owned();
        tokio::spawn(async move { MetaStore::open(&path).await.map(|store| store.is_new()) })
    });
    let mut new = 0;
    for open in opens.collect::<Vec<_>>() {
        new += usize::from(open.await.expect("no panic").expect("it opens"));
    }
    assert_eq!(new, 1);
}
