//! Older versions, spans of time that are computed again, and the care of the lake's files.

use std::collections::BTreeSet;
use std::path::Path;

use freshet_testkit::kill::{When, run_and_kill};

use crate::support::{Project, freshet};

const DAYS: [&str; 3] = ["2026-10-01", "2026-10-02", "2026-10-03"];

/// A project with one table that takes new files in, one that is computed by days.
fn shop() -> Project {
    let project = Project::files(&[
        ("freshet.yml", "name: shop\nenvironments:\n  dev: {}\n"),
        (
            "sources/shop.yml",
            "sources:
  - name: shop
    tables:
      - name: orders
        with: { path: \"data/orders_{day:%Y%m%d}.csv\" }
        event_time: day
        columns:
          - { name: id, data_type: bigint }
          - { name: amount, data_type: bigint }
",
        ),
        (
            "models/orders.sql",
            "{{ config(materialized='incremental') }}
select id, amount from {{ source('shop', 'orders') }}
",
        ),
        (
            "models/days.sql",
            "{{ config(materialized='incremental', incremental_strategy='microbatch',
                       event_time='day', batch_size='day', begin='2026-10-01') }}
select day, sum(amount) as amount from {{ source('shop', 'orders') }} group by day
",
        ),
    ]);
    file(&project, 0, "1,10\n2,20\n");
    project
}

fn file(project: &Project, day: usize, rows: &str) {
    let name = format!("data/orders_{}.csv", DAYS[day].replace('-', ""));
    project.write(&name, &format!("id,amount\n{rows}"));
}

fn days(project: &Project) -> String {
    project.cell("select string_agg(cast(amount as varchar), ' ' order by day) from days")
}

/// The ids of `orders`, of now or of an older version.
fn ids(project: &Project, as_of: &[&str]) -> String {
    let sql = "select string_agg(cast(id as varchar), ' ' order by id) as ids from orders";
    let args = [&["sql", "--format", "csv"], as_of, &[sql]].concat();
    let ran = project.run(&args).exits(0);
    ran.out.lines().nth(1).expect("there is a row").to_owned()
}

/// The data files of a table.
fn data_files(project: &Project, table: &str) -> BTreeSet<String> {
    let folder = project.dir.join(".freshet/dev/lake/main").join(table);
    let entries = std::fs::read_dir(folder).expect("the table is there");
    let names = entries.map(|entry| entry.expect("it can be read").file_name());
    let names = names.map(|name| name.into_string().expect("names are text"));
    names.filter(|name| Path::new(name).extension().is_some_and(|e| e == "parquet")).collect()
}

/// The shop after three runs, each with a new file.
fn grown() -> Project {
    let project = shop();
    project.run(&["run"]).exits(0);
    file(&project, 1, "3,30\n");
    project.run(&["run"]).exits(0);
    file(&project, 2, "4,40\n");
    project.run(&["run"]).exits(0);
    project
}

/// Versions and times of `orders`, oldest first.
fn versions(project: &Project) -> Vec<(u64, String)> {
    let history = project.run(&["lake", "history", "orders", "--json"]).exits(0).json();
    let entries = history.as_array().expect("it is a list").iter().rev();
    let entry = |entry: &serde_json::Value| {
        let time = entry["timestamp"].as_str().expect("it is text").to_owned();
        (entry["version"].as_u64().expect("it is a number"), time)
    };
    entries.map(entry).collect()
}

#[test]
fn older_versions_are_read_by_number_and_time() {
    let project = grown();
    let versions = versions(&project);
    let expected = ["1 2", "1 2 3", "1 2 3 4"];
    assert_eq!(versions.len(), expected.len());
    for ((version, time), expected) in versions.iter().zip(expected) {
        assert_eq!(ids(&project, &["--as-of", &version.to_string()]), expected);
        assert_eq!(ids(&project, &["--as-of", time]), expected, "{time}");
    }
    let before = project.run(&["sql", "--as-of", "2020-01-01", "select * from orders"]).exits(1);
    before.says(&["error[F0501]", "no version as old as 2020-01-01", "freshet lake history"]);
    let beyond = project.run(&["sql", "--as-of", "99", "select * from orders"]).exits(1);
    beyond.says(&["error[F0501]", "99"]);
}

#[test]
fn span_is_computed_again_and_nothing_beside_it() {
    let project = grown();
    assert_eq!(days(&project), "30 30 40");
    for (day, rows) in [(0, "1,11\n2,20\n"), (1, "3,33\n"), (2, "4,44\n")] {
        file(&project, day, rows);
    }
    // Files that changed are left alone by a run that nobody asked for them.
    project.run(&["run", "--select", "days"]).exits(0).says(&["changed after it was consumed"]);
    assert_eq!(days(&project), "30 30 40");
    let span = ["run", "--select", "days", "--interval", "2026-10-01..2026-10-03"];
    for _ in 0..2 {
        project.run(&span).exits(0);
        assert_eq!(days(&project), "31 33 40");
    }
    project.run(&["run", "--select", "days", "--full-refresh"]).exits(0);
    assert_eq!(days(&project), "31 33 44");
}

#[test]
fn optimized_table_has_the_same_rows_in_fewer_files() {
    let project = grown();
    let before = versions(&project).len();
    project.run(&["lake", "optimize", "--dry-run"]).exits(2);
    project.run(&["lake", "optimize", "orders"]).exits(0).says(&["main.orders: ", "became 1"]);
    assert_eq!(ids(&project, &[]), "1 2 3 4");
    assert_eq!(versions(&project).len(), before + 1);
    project.run(&["lake", "optimize", "orders"]).exits(0).says(&["nothing to do"]);
    // It takes no number of a run: the next one goes on from where the last was.
    file(&project, 2, "4,40\n5,50\n");
    project.write("data/orders_20261004.csv", "id,amount\n6,60\n");
    project.run(&["run", "--select", "orders"]).exits(0);
    assert_eq!(ids(&project, &[]), "1 2 3 4 6");
    // Older versions are as they were.
    assert_eq!(ids(&project, &["--as-of", "0"]), "1 2");
}

#[test]
fn vacuum_keeps_what_versions_within_the_retention_need() {
    let project = grown();
    project.run(&["run", "--full-refresh"]).exits(0);
    let all = data_files(&project, "orders");
    project.run(&["lake", "vacuum"]).exits(0).says(&["main.orders: 0 files deleted"]);
    assert_eq!(data_files(&project, "orders"), all);
    for (version, expected) in [("0", "1 2"), ("1", "1 2 3"), ("2", "1 2 3 4")] {
        assert_eq!(ids(&project, &["--as-of", version]), expected);
    }
    let dry = ["lake", "vacuum", "--retention", "0s", "--dry-run", "orders"];
    project.run(&dry).exits(0).says(&["would be deleted"]);
    assert_eq!(data_files(&project, "orders"), all);

    project.run(&["lake", "vacuum", "--retention", "0s"]).exits(0).says(&["deleted"]);
    assert!(data_files(&project, "orders").len() < all.len());
    assert_eq!(ids(&project, &[]), "1 2 3 4");
    assert_eq!(days(&project), "30 30 40");
    let gone = project.run(&["sql", "--as-of", "0", "select * from orders"]).exits(1);
    gone.says(&["error[", "main.orders"]);
    // Dead letters and the record of runs are none of its business.
    project.run(&["dlq", "ls"]).exits(0);
    project.run(&["run", "--full-refresh"]).exits(0);
    assert_eq!(ids(&project, &[]), "1 2 3 4");
}

#[test]
fn vacuum_finishes_what_was_intended_before_it_deletes() {
    // After the intent is durable the new version counts, before it does not.
    for (step, expected) in [("publish.staged", "1 2"), ("publish.intent", "1 2 3")] {
        let project = shop();
        project.run(&["run"]).exits(0);
        file(&project, 1, "3,30\n");
        let mut command = freshet(&["run", "--select", "orders"]);
        command.current_dir(&project.dir);
        let ended = run_and_kill(command, &When::AtStep { step, pass: 1 }).expect("it starts");
        assert!(ended.code != Some(0), "{ended:?}");
        let vacuum = ["lake", "vacuum", "--retention", "0s"];
        project.run(&vacuum).exits(0);
        assert_eq!(ids(&project, &[]), expected, "{step}");
        project.run(&["run"]).exits(0);
        assert_eq!(ids(&project, &[]), "1 2 3", "{step}");
        project.run(&vacuum).exits(0);
        assert_eq!(ids(&project, &[]), "1 2 3", "{step}");
    }
}

#[test]
fn vacuum_waits_for_no_run_and_disturbs_none() {
    let project = shop();
    project.run(&["run"]).exits(0);
    // The lock of a run that works on the environment.
    let lock = std::fs::OpenOptions::new()
        .write(true)
        .open(project.dir.join(".freshet/dev/lock"))
        .expect("a run made it");
    lock.lock().expect("nobody has it");
    for command in ["vacuum", "optimize"] {
        project.run(&["lake", command]).exits(1).says(&["error[F0005]"]);
    }
}
