//! The real process, killed at each named step of a run and at random times: readers see the old
//! or the new version of each table, a run after it converges, and the dead letters are exact.
//!
//! Killing a process loses no page that the kernel holds; what a power cut forgets is tested over
//! the testkit's file system. `FRESHET_TEST_FACTOR=10` kills ten times as often.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use freshet_core::crash;
use freshet_testkit::kill::{Ended, When, run_and_kill};
use freshet_testkit::seeds;
use rand::Rng;
use tempfile::TempDir;

/// Steps that this project does not come to: it exports nothing and has no warehouse.
const ELSEWHERE: [&str; 2] = ["publish.exported", "publish.loaded"];

const FILES: &[(&str, &str)] = &[
    ("freshet.yml", "name: till\nenvironments:\n  dev:\n    memory_limit: 128MiB\n"),
    (
        "sources/pos.yml",
        r#"sources:
  - name: pos
    tables:
      - name: sales
        connector: files
        with: { path: "data/sales_{date:%Y%m%d}.csv", format: csv }
        max_bad: 60%
        columns:
          - { name: id, data_type: bigint, constraints: [{ type: not_null }] }
          - { name: store, data_type: int }
          - { name: day, data_type: date }
          - { name: amount, data_type: "decimal(12,2)" }
"#,
    ),
    (
        "models/appended.sql",
        "{{ config(materialized='incremental') }}\n\
         select id, store, day, amount from {{ source('pos', 'sales') }}\n",
    ),
    (
        "models/merged.sql",
        "{{ config(materialized='incremental', unique_key='id') }}\n\
         select id % 7 as id, max(amount) as amount from {{ source('pos', 'sales') }} group by 1\n",
    ),
    (
        "models/totals.sql",
        "{{ config(materialized='table') }}\n\
         select store, count(*) as n, sum(amount) as amount from {{ ref('appended') }} group by 1\n",
    ),
];

/// Tables and the query that shows all of each.
const TABLES: [(&str, &str); 3] = [
    ("appended", "select id, store, day, amount from appended order by 1, 2, 3, 4"),
    ("merged", "select id, amount from merged order by 1, 2"),
    ("totals", "select store, n, amount from totals order by 1"),
];

struct Shop(TempDir);

/// What readers see: the rows of each table, and how many dead letters there are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    tables: BTreeMap<&'static str, String>,
    dead_letters: u64,
}

impl Shop {
    fn new() -> Self {
        let shop = Self(tempfile::tempdir().expect("a folder for the test"));
        for (path, text) in FILES {
            let path = shop.path().join(path);
            fs::create_dir_all(path.parent().expect("it has a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        fs::create_dir_all(shop.path().join("data")).expect("made");
        shop
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// The files of a night: four good records each, and one bad one.
    fn night(&self, night: u32) {
        for file in 0..2 {
            let day = night * 2 + file;
            let mut text = "id,store,day,amount\n".to_owned();
            for row in 1..=4 {
                let id = day * 10 + row;
                text += &format!("{id},{},2026-09-{day:02},{row}.{day:02}\n", row % 2);
            }
            text += &format!("{},no store,2026-09-{day:02},1.00\n", day * 10 + 9);
            fs::write(self.path().join(format!("data/sales_202609{day:02}.csv")), text)
                .expect("written");
        }
    }

    /// A copy that stands where this one stands; files keep their times.
    fn copy(&self) -> Self {
        let to = tempfile::tempdir().expect("a folder for the test");
        copy(self.path(), to.path());
        Self(to)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
        command.arg("-C").arg(self.path()).args(arguments).env("NO_COLOR", "1");
        command
    }

    fn run(&self, when: &When) -> Ended {
        run_and_kill(self.command(&["run"]), when).expect("the binary starts")
    }

    /// A run that is left alone and goes well.
    fn run_well(&self) {
        let ended = self.run(&When::Never);
        assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
    }

    fn seen(&self) -> Seen {
        let tables = TABLES.map(|(table, query)| {
            let ended =
                run_and_kill(self.command(&["sql", "--format", "csv", query]), &When::Never)
                    .expect("the binary starts");
            match ended.code {
                Some(0) => (table, ended.stdout),
                _ if ended.stderr.contains("does not exist") => (table, String::new()),
                _ => panic!("{table}: {}", ended.stderr),
            }
        });
        Seen { tables: BTreeMap::from(tables), dead_letters: self.dead_letters() }
    }

    /// Rows of the dead-letter table, by its log: not by the code under test.
    fn dead_letters(&self) -> u64 {
        let log = self.path().join(".freshet/dev/lake/_freshet/dead_letters/_delta_log");
        let Ok(entries) = fs::read_dir(log) else { return 0 };
        entries
            .map(|entry| entry.expect("listed").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .map(|path| fs::read_to_string(path).expect("a commit can be read"))
            .flat_map(|commit| commit.lines().map(str::to_owned).collect::<Vec<_>>())
            .filter_map(|line| {
                let action: serde_json::Value = serde_json::from_str(&line).expect("JSON");
                let stats = action.get("add")?.get("stats")?.as_str()?.to_owned();
                serde_json::from_str::<serde_json::Value>(&stats).expect("JSON")["numRecords"]
                    .as_u64()
            })
            .sum()
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            fs::create_dir_all(&target).expect("made");
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("copied");
            let modified = entry.metadata().expect("times").modified().expect("times");
            let file = fs::File::options().write(true).open(&target).expect("opened");
            file.set_modified(modified).expect("a time can be set");
        }
    }
}

/// A shop after its first night, with the files of the second; what readers see then, and what they
/// see after a second run that nobody killed.
struct Bench {
    shop: Shop,
    old: Seen,
    new: Seen,
    /// How long a run takes.
    took: Duration,
}

impl Bench {
    fn new() -> Self {
        let shop = Shop::new();
        shop.night(1);
        shop.run_well();
        let old = shop.seen();
        shop.night(2);
        let reference = shop.copy();
        let took = reference.run(&When::Never).took;
        let new = reference.seen();
        assert_eq!((old.dead_letters, new.dead_letters), (4, 8), "two models read each bad record");
        assert!(TABLES.iter().all(|(table, _)| old.tables[table] != new.tables[table]));
        Self { shop, old, new, took }
    }

    /// Kills the runs of a copy as `kills` say, one after the other, and then lets two run.
    /// Returns how many were killed before their end.
    fn survives(&self, kills: &[When]) -> usize {
        let shop = self.shop.copy();
        let mut killed = 0;
        for when in kills {
            let ended = shop.run(when);
            killed += usize::from(ended.killed);
            assert!(ended.killed || ended.code == Some(0), "{when:?}: {}", ended.stderr);
            let seen = shop.seen();
            for (table, rows) in &seen.tables {
                let whole = [&self.old.tables[table], &self.new.tables[table]].contains(&rows);
                assert!(whole, "{table} after {kills:?}: neither old nor new\n{rows}");
            }
        }
        shop.run_well();
        assert_eq!(shop.seen(), self.new, "a run after {kills:?} does not converge");
        shop.run_well();
        assert_eq!(shop.seen(), self.new, "one more run after {kills:?} changes something");
        killed
    }
}

#[test]
fn a_run_killed_at_any_step_is_made_good_by_the_next() {
    let bench = Bench::new();
    for (step, _) in crash::STEPS.iter().filter(|(step, _)| !ELSEWHERE.contains(step)) {
        let is_of_a_task = step.starts_with("publish.") || *step == "run.task_recorded";
        for pass in 1..=if is_of_a_task { 2 } else { 1 } {
            let killed = bench.survives(&[When::AtStep { step, pass }]);
            assert_eq!(killed, 1, "no run came to {step} for the {pass}. time");
        }
    }
}

#[test]
fn a_recovery_killed_at_any_step_is_made_good_by_the_next() {
    let bench = Bench::new();
    for step in ["run.locked", "publish.dead_letters", "publish.committed", "run.recovered"] {
        let first = When::AtStep { step: "publish.intent", pass: 2 };
        let killed = bench.survives(&[first, When::AtStep { step, pass: 1 }]);
        assert_eq!(killed, 2, "no recovery came to {step}");
    }
}

#[test]
fn the_very_first_run_may_be_killed_at_any_step() {
    let shop = Shop::new();
    let old = shop.seen();
    shop.night(1);
    let reference = shop.copy();
    let took = reference.run(&When::Never).took;
    let bench = Bench { old, new: reference.seen(), shop, took };
    for step in ["run.begun", "publish.staged", "publish.intent", "publish.dead_letters"] {
        assert_eq!(bench.survives(&[When::AtStep { step, pass: 1 }]), 1, "{step}");
    }
}

#[test]
fn a_run_killed_at_any_time_is_made_good_by_the_next() {
    let bench = Bench::new();
    let killed = std::cell::Cell::new(0);
    seeds::for_each(0..12, |seed| {
        let mut chance = seeds::rng(seed);
        let kills: Vec<_> = (0..chance.random_range(1..=3))
            .map(|_| When::After(bench.took.mul_f64(chance.random_range(0.05..1.0))))
            .collect();
        killed.set(killed.get() + bench.survives(&kills));
    });
    assert!(killed.get() > 0, "every run ended before its time");
}
