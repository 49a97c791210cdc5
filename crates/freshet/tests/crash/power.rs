//! The real run (plan, build, stage, intent, dead letters, commits, index) over a file system that
//! forgets what was not synchronised. The power is cut at each named step and at every single
//! operation of the file system; then readers see the old or the new version of each table, what
//! was promised is there, and the next run makes it all good.
//!
//! [`Lab::trial`] is the judge. That it judges is shown in [`super::mutants`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use freshet_core::clock::{Clock, SystemClock};
use freshet_core::error::code;
use freshet_core::{ModelId, ResultExt, crash};
use freshet_engine::Engine;
use freshet_engine::store;
use freshet_orchestrator::{
    MetaStore, RunContext, RunEvent, RunObserver, RunOptions, Status, run as run_project,
};
use freshet_project::{LoadOptions, Project};
use freshet_testkit::fault::Fault;
use freshet_testkit::{FaultFs, Lie, LyingStore, Mutant};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use rand::Rng;
use tempfile::TempDir;

const FILES: &[(&str, &str)] = &[
    ("freshet.yml", "name: till\nenvironments:\n  dev:\n    memory_limit: 128MiB\n"),
    (
        "sources/pos.yml",
        r#"sources:
  - name: pos
    tables:
      - name: sales
        connector: files
        with: { path: "data/*.csv", format: csv }
        max_bad: 60%
        columns:
          - { name: id, data_type: bigint, constraints: [{ type: not_null }] }
          - { name: store, data_type: int }
"#,
    ),
    (
        "models/appended.sql",
        "{{ config(materialized='incremental', export={'path': '/srv/out', 'format': 'csv'}) }}\n\
         select id, store from {{ source('pos', 'sales') }}",
    ),
    (
        "models/totals.sql",
        "{{ config(materialized='incremental', unique_key='store') }}\n\
         select store, count(*) as n, sum(id) as ids from {{ ref('appended') }} group by 1",
    ),
];

/// Models, and what shows all of the table of each.
const TABLES: [(&str, &str); 2] = [
    ("appended", "select id, store from appended order by 1, 2"),
    ("totals", "select store, n, ids from totals order by 1, 2, 3"),
];

/// What shows all dead letters.
const LETTERS: &str = "select model, file, line, \"column\", rule, count(*) as n \
     from freshet.dead_letters group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5";

/// The same where a file may have been read more than once, which a full refresh does each time.
const DISTINCT_LETTERS: &str = "select model, file, line, \"column\", rule, \
     count(distinct id) as n from freshet.dead_letters group by 1, 2, 3, 4, 5 \
     order by 1, 2, 3, 4, 5";

/// When the power is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// After the run.
    AtTheEnd,
    /// At a named step, the `pass`-th time.
    Step { step: &'static str, pass: u32 },
    /// At an operation of the file system, counted from 1 from the start of the process.
    Operation(u64),
    /// Not before the end, but an operation fails.
    Fault(Fault, u64),
}

/// A step that is left out, done wrong or out of order.
#[derive(Debug, Clone, Copy)]
pub enum Broken {
    /// Nothing is.
    Nothing,
    /// Of the file system.
    Disk(Mutant, fn(&Path) -> bool),
    /// Of the store above it.
    Store(Lie),
}

/// The record of runs after a power cut: SQLite may have forgotten, never damaged, what came last.
#[derive(Debug, Clone, Copy)]
enum Index {
    AsItWas,
    AsBeforeTheRun,
    Gone,
}

/// What readers see, by name, and the account of each build that counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    tables: BTreeMap<&'static str, String>,
    builds: Vec<String>,
    /// The lines of exported files, sorted.
    exported: Vec<String>,
}

/// A disk with the lake, and the folder with the record of runs.
struct World {
    disk: Arc<FaultFs>,
    state: TempDir,
}

impl World {
    fn fork(&self, seed: u64, broken: Broken) -> Self {
        let disk = match broken {
            Broken::Disk(mutant, at) => self.disk.fork(seed).with_mutant_at(mutant, at),
            Broken::Nothing | Broken::Store(_) => self.disk.fork(seed),
        };
        let world = Self { disk: Arc::new(disk), state: folder() };
        copy_index(self.state.path(), world.state.path());
        world
    }
}

/// What became of a run.
struct Ran {
    /// Whether the power was cut before its end.
    cut: bool,
    /// Models whose commit was answered before that.
    committed: Vec<ModelId>,
    /// The index as it was when the power was cut.
    index: TempDir,
    outcome: Result<Status, String>,
}

/// A project after its first night (or none), with the files of the next, and what a run that
/// nobody disturbs makes of them.
pub struct Lab {
    _dir: TempDir,
    project: Project,
    before: World,
    old: Seen,
    new: Seen,
    full_refresh: bool,
    /// Operations of the undisturbed run.
    pub operations: u64,
}

/// The lines of the exported files, each of which is whole or not there.
async fn exported(world: &World) -> freshet_core::Result<Vec<String>> {
    let files = Arc::clone(&world.disk);
    let (store, _) = store::open_on(files, "/srv/out", &serde_json::Map::new())?;
    let mut lines = Vec::new();
    let what = || "the export cannot be read".to_owned();
    let listed: Vec<_> = store.list(None).try_collect().await.or_code(code::IO, what)?;
    for file in listed {
        let bytes = store.get(&file.location).await.or_code(code::IO, what)?.bytes().await;
        let text = String::from_utf8_lossy(&bytes.or_code(code::IO, what)?).into_owned();
        assert!(text.starts_with("id,store\n") && text.ends_with('\n'), "torn: {text:?}");
        lines.extend(text.lines().skip(1).map(str::to_owned));
    }
    lines.sort();
    Ok(lines)
}

impl Lab {
    /// A lab with `nights` done; the next run is that of one more night.
    pub fn new(nights: u32, full_refresh: bool) -> Self {
        const { assert!(crash::ENABLED, "this build has no crash points") };
        let dir = folder();
        for (path, text) in FILES {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("it has a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        fs::create_dir_all(dir.path().join("data")).expect("made");
        let project = Project::load(
            dir.path(),
            &LoadOptions {
                environment: None,
                vars: serde_json::Map::new(),
                env: &|_| None,
                validate_connector: None,
                validate_sink: None,
                now: Some(SystemClock.now()),
                invocation_id: None,
            },
        )
        .expect("the project is right");
        let before = World { disk: Arc::new(FaultFs::new(0)), state: folder() };
        let mut lab = Self {
            _dir: dir,
            project,
            before,
            old: Seen::default(),
            new: Seen::default(),
            full_refresh: false,
            operations: 0,
        };
        for night in 1..=nights {
            lab.night(night);
            let ran = lab.run(&lab.before, Broken::Nothing, Cut::AtTheEnd);
            assert_eq!(ran.outcome, Ok(Status::Success));
        }
        lab.full_refresh = full_refresh;
        lab.old = lab.seen(&lab.before).expect("it can be read");
        lab.night(nights + 1);
        let undisturbed = lab.before.fork(0, Broken::Nothing);
        let operations = undisturbed.disk.operations();
        let ran = lab.run(&undisturbed, Broken::Nothing, Cut::AtTheEnd);
        assert_eq!(ran.outcome, Ok(Status::Success));
        lab.operations = undisturbed.disk.operations() - operations;
        lab.new = lab.seen(&undisturbed).expect("it can be read");
        assert_ne!(lab.old, lab.new);
        lab
    }

    /// Three good records and a bad one; a store of its own, one of all nights.
    fn night(&self, night: u32) {
        let mut text = "id,store\n".to_owned();
        for row in 1..=3 {
            text += &format!("{},{}\n", night * 10 + row, if row == 1 { night } else { 0 });
        }
        text += "x,1\n";
        let path = self._dir.path().join(format!("data/{night:02}.csv"));
        fs::write(path, text).expect("written");
    }

    fn engine(&self, world: &World, broken: Broken) -> freshet_core::Result<Engine> {
        let mut project = self.project.clone();
        project.environment.state_dir = world.state.path().to_owned();
        project.environment.threads = Some(1);
        let disk = Arc::clone(&world.disk);
        let (store, url) = store::open_on(disk, "/srv/lake", &serde_json::Map::new())?;
        let registry = freshet_connectors::registry();
        let clock = Arc::new(SystemClock);
        let project = Arc::new(project);
        let store: Arc<dyn ObjectStore> = match broken {
            Broken::Store(lie) => Arc::new(LyingStore::new(store, lie)),
            _ => store,
        };
        let files = Arc::clone(&world.disk);
        Ok(Engine::open_on(project, registry, clock, store, url)?.with_files(files))
    }

    /// One process: opens the project, runs it, ends.
    fn run(&self, world: &World, broken: Broken, cut: Cut) -> Ran {
        let index = folder();
        let (from, to) = (world.state.path().to_owned(), index.path().to_owned());
        world.disk.on_kill(move || copy_index(&from, &to));
        match cut {
            Cut::Operation(nth) => world.disk.kill_at(nth),
            Cut::Fault(fault, nth) => world.disk.fail_at(nth, fault),
            Cut::AtTheEnd | Cut::Step { .. } => {}
        }
        let progress = Arc::new(Progress::default());
        let told = Arc::clone(&progress);
        let passes = Rc::new(RefCell::new(BTreeMap::<&str, u32>::new()));
        let disk = Arc::clone(&world.disk);
        let observed = crash::observe(move |step| {
            if disk.is_killed() {
                return;
            }
            let mut passes = passes.borrow_mut();
            let pass = passes.entry(step).or_default();
            *pass += 1;
            if cut == (Cut::Step { step, pass: *pass }) {
                disk.kill();
            } else if step == "publish.committed" {
                told.committed();
            }
        });
        let outcome = runtime().block_on(async {
            let engine = Arc::new(self.engine(world, broken)?);
            let store = MetaStore::open(world.state.path()).await?;
            let options = RunOptions {
                threads: Some(1),
                full_refresh: self.full_refresh,
                ..RunOptions::default()
            };
            let mut context = RunContext::system(Default::default());
            context.retry.max_attempts = 1;
            let project = Arc::clone(engine.project());
            let report =
                run_project(project, engine, &store, &options, progress.clone(), context).await;
            store.close().await;
            let report = report?;
            let errors = report.tasks.iter().filter_map(|task| task.error.as_ref());
            Ok((report.status, errors.map(|error| format!("{error:?}")).collect::<Vec<_>>()))
        });
        drop(observed);
        let outcome = match outcome {
            Ok((status, errors)) if errors.is_empty() => Ok(status),
            Ok((_, errors)) => Err(errors.join("\n")),
            Err(error) => Err(freshet_core::Error::chain(&error).to_string()),
        };
        let cut = world.disk.is_killed();
        let committed = progress.committed.lock().clone();
        Ran { cut, committed, index, outcome }
    }

    /// What readers see. Reading changes nothing: it is done on a copy.
    fn seen(&self, world: &World) -> Result<Seen, String> {
        let world = world.fork(0, Broken::Nothing);
        runtime().block_on(async {
            let engine = self.engine(&world, Broken::Nothing).map_err(text)?;
            let mut tables = BTreeMap::new();
            let letters = if self.full_refresh { DISTINCT_LETTERS } else { LETTERS };
            for (table, query) in TABLES.into_iter().chain([("dead letters", letters)]) {
                let rows = match engine.query(query, None).await {
                    Ok(rows) => rows
                        .try_collect::<Vec<_>>()
                        .await
                        .map_err(|error| format!("{table} cannot be read: {error}"))?,
                    Err(error) if error.chain().to_string().contains("does not exist") => continue,
                    Err(error) => return Err(format!("{table}: {}", error.chain())),
                };
                let rows = arrow::util::pretty::pretty_format_batches(&rows)
                    .map_err(|error| error.to_string())?;
                tables.insert(table, rows.to_string());
            }
            let intents = engine.intents().await.map_err(text)?;
            let mut builds: Vec<_> = intents
                .iter()
                // What reads no files is built anew by each run.
                .filter(|intent| intent.model.as_str() == "appended")
                .map(|intent| {
                    let report = &intent.report;
                    format!(
                        "{} {}: {:?}, {:?}, {} rows",
                        intent.model,
                        intent.number,
                        report.edges,
                        report.dead_letters,
                        report.rows_written
                    )
                })
                .collect();
            builds.sort();
            if self.full_refresh {
                // Each is one build more, whatever was there.
                builds.clear();
            }
            let exported = exported(&world).await.map_err(text)?;
            Ok(Seen { tables, builds, exported })
        })
    }

    /// Runs over a copy of the disk with `broken` steps until `cut`, and judges what is left.
    /// `seed` decides what survives. Returns whether the power was cut before the end.
    pub fn trial(&self, broken: Broken, cut: Cut, seed: u64) -> Result<bool, String> {
        let mut chance = freshet_testkit::seeds::rng(seed);
        let mut world = self.before.fork(seed, broken);
        let ran = self.run(&world, broken, cut);
        let went_well = ran.outcome == Ok(Status::Success);
        if !ran.cut && !went_well && !matches!(cut, Cut::Fault(..)) {
            return Err(format!("a run that nobody disturbed ended so: {:?}", ran.outcome));
        }
        let index = if chance.random_bool(0.25) {
            // The process alone is killed, and the power is cut later.
            world.disk.restart();
            [Index::AsItWas, Index::Gone][chance.random_range(0..2)]
        } else {
            world.disk.crash();
            [Index::AsItWas, Index::AsBeforeTheRun, Index::Gone][chance.random_range(0..3)]
        };
        let from = match index {
            Index::AsItWas if ran.cut => Some(ran.index.path()),
            Index::AsItWas => Some(world.state.path()),
            Index::AsBeforeTheRun => Some(self.before.state.path()),
            Index::Gone => None,
        };
        let state = folder();
        if let Some(from) = from {
            copy_index(from, state.path());
        }
        world.state = state;

        let seen = self.seen(&world)?;
        let promised = |table: &str| {
            let committed = ran.committed.iter().any(|model| model.as_str() == table);
            committed || (!ran.cut && went_well)
        };
        for (table, _) in &TABLES {
            let [now, old, new] = [&seen, &self.old, &self.new].map(|seen| seen.tables.get(table));
            if now != new && (now != old || promised(table)) {
                let (promised, now) = (promised(table), now.map_or("not there", String::as_str));
                return Err(format!("{table} (committed: {promised}) with {index:?}:\n{now}"));
            }
        }
        for what in ["the next run", "one more run"] {
            let ran = self.run(&world, broken, Cut::AtTheEnd);
            if ran.outcome != Ok(Status::Success) {
                return Err(format!("{what} with {index:?} ended so: {:?}", ran.outcome));
            }
            world.disk.crash();
            let seen = self.seen(&world)?;
            if seen != self.new {
                return Err(format!("{what} with {index:?} gives {seen:#?}, not {:#?}", self.new));
            }
        }
        Ok(ran.cut)
    }

    /// As [`Lab::trial`], where nothing is broken and all must be well.
    fn check(&self, cut: Cut, seed: u64) -> bool {
        match self.trial(Broken::Nothing, cut, seed) {
            Ok(cut) => cut,
            Err(violation) => panic!("{cut:?} with seed {seed}: {violation}"),
        }
    }

    /// The named steps that a run of this lab passes, each as often as it does.
    pub fn steps(&self) -> Vec<Cut> {
        const ELSEWHERE: [&str; 1] = ["publish.loaded"];
        let steps = crash::STEPS.iter().map(|(step, _)| *step);
        let steps = steps.filter(|step| !ELSEWHERE.contains(step));
        steps
            .flat_map(|step| {
                let of_a_task = step.starts_with("publish.") || step == "run.task_recorded";
                // Only the model with a source has dead letters, and an export.
                let of_one = ["publish.dead_letters_staged", "publish.exported"].contains(&step);
                let passes = if of_one || !of_a_task { 1 } else { 2 };
                (1..=passes).map(move |pass| Cut::Step { step, pass })
            })
            .collect()
    }

    fn survives_every_step(&self) {
        for cut in self.steps() {
            for seed in 0..3 {
                assert!(self.check(cut, seed), "no run came to {cut:?}");
            }
        }
        for seed in 0..6 {
            assert!(!self.check(Cut::AtTheEnd, seed));
        }
    }

    fn survives_every_operation(&self) {
        // A little more than it took undisturbed: the order of tasks is not the same each time.
        let mut operation = 0;
        loop {
            operation += 1;
            if !self.check(Cut::Operation(operation), operation) {
                break;
            }
        }
        assert!(operation > self.operations, "{operation} of {} operations", self.operations);
    }
}

/// Which model is being built: models are built one at a time.
#[derive(Debug, Default)]
struct Progress {
    building: Mutex<Option<ModelId>>,
    committed: Mutex<Vec<ModelId>>,
}

impl Progress {
    fn committed(&self) {
        self.committed.lock().extend(self.building.lock().clone());
    }
}

impl RunObserver for Progress {
    fn on_event(&self, event: RunEvent) {
        if let RunEvent::TaskStarted { model, .. } = event {
            *self.building.lock() = Some(model);
        }
    }
}

/// One thread for all that is asynchronous, so that steps are observed where they are passed.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a thread")
}

fn text(error: freshet_core::Error) -> String {
    error.chain().to_string()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

/// Copies the record of runs. What is in its write-ahead log belongs to it.
fn copy_index(from: &Path, to: &Path) {
    for name in ["meta.db-wal", "meta.db"] {
        match fs::copy(from.join(name), to.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                panic!("the record of runs cannot be copied: {error}")
            }
            _ => {}
        }
    }
}

#[test]
fn a_power_cut_at_any_step_is_made_good_by_the_next_run() {
    Lab::new(1, false).survives_every_step();
}

#[test]
fn a_power_cut_at_any_operation_is_made_good_by_the_next_run() {
    Lab::new(1, false).survives_every_operation();
}

#[test]
fn a_power_cut_at_any_operation_of_the_very_first_run_is_made_good_by_the_next() {
    Lab::new(0, false).survives_every_operation();
}

#[test]
fn an_operation_that_fails_is_made_good_by_the_next_run() {
    let lab = Lab::new(1, false);
    for operation in 1..=lab.operations {
        let fault = [Fault::Io, Fault::NoSpace][operation as usize % 2];
        lab.check(Cut::Fault(fault, operation), operation);
    }
}

#[test]
fn a_power_cut_at_any_step_of_a_full_refresh_is_made_good_by_the_next() {
    Lab::new(1, true).survives_every_step();
}
