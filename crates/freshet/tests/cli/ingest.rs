//! What comes in: files that hold nothing, contracts that change, corrections that are rejected,
//! rows that do not belong to their batch.

use crate::support::Project;

/// The number of versions that a table of the lake has.
fn versions(project: &Project, table: &str) -> usize {
    let log = project.dir.join(".freshet/dev/lake/main").join(table).join("_delta_log");
    let entries = std::fs::read_dir(&log).unwrap_or_else(|error| panic!("{error}: {log:?}"));
    let names = entries.map(|entry| entry.expect("the log is listed").file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".json")).count()
}

#[test]
fn check_touches_nothing() {
    let project = Project::init();
    let before = listing(&project);
    project.run(&["check"]).exits(0);
    assert_eq!(listing(&project), before);
    project.replace("models/stg_orders.sql", "from", "fron");
    project.run(&["check"]).exits(2);
    assert_eq!(listing(&project), before);
}

fn listing(project: &Project) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![project.dir.clone()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).expect("the folder is listed") {
            let path = entry.expect("the folder is listed").path();
            found.push(path.display().to_string());
            if path.is_dir() {
                pending.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn an_empty_file_is_taken_once_and_again_when_it_holds_something() {
    let project = Project::init();
    project.run(&["run"]).exits(0);
    project.write("data/orders_20261004.csv", "");
    project.run(&["run"]).exits(3).says(&["orders_20261004.csv", "1 empty"]);
    let before = versions(&project, "stg_orders");
    let rows = project.cell("select count(*) from stg_orders");
    project.run(&["run"]).exits(0);
    project.run(&["run"]).exits(0);
    assert_eq!(versions(&project, "stg_orders"), before, "nothing is new");
    project.write("data/orders_20261004.csv", &project.read("data/orders_20261003.csv"));
    project.replace("data/orders_20261004.csv", "\n10", "\n20");
    project.run(&["run"]).exits(0);
    assert_ne!(project.cell("select count(*) from stg_orders"), rows);
}

#[test]
fn a_changed_contract_is_a_schema_change_of_the_next_run_alone() {
    let project = Project::init();
    project.run(&["run"]).exits(0);
    let shown = project.run(&["runs", "show"]).exits(0);
    assert!(!shown.out.contains("contract of"), "the first contract is no change: {}", shown.out);
    project.replace("sources/shop.yml", "data_type: bigint", "data_type: int");
    project.run(&["run", "--full-refresh"]).exits(0);
    let changes = ["contract of shop.orders:", "from bigint to int"];
    project.run(&["runs", "show"]).exits(0).says(&changes);
    project.run(&["run", "--full-refresh"]).exits(0);
    let shown = project.run(&["runs", "show"]).exits(0);
    assert!(!shown.out.contains("contract of"), "{}", shown.out);
}

#[test]
fn a_correction_that_is_rejected_is_not_replayed() {
    let project = Project::init();
    project.run(&["run"]).exits(0);
    let replayed = || {
        let groups = project.run(&["dlq", "ls", "--json"]).exits(0).json();
        let groups = groups.as_array().expect("a list").clone();
        groups.iter().map(|group| group["replayed"].as_u64().expect("a count")).sum::<u64>()
    };
    let letters = project.run(&["dlq", "show", "--json"]).exits(0).json_lines();
    let id = letters[0]["id"].as_str().expect("it has an id");
    let replay = |record: &str| project.run(&["dlq", "replay", "--id", id, "--record", record]);
    replay("1009,3,2026-10-02 17:45:00,paid,12.5X").exits(0);
    assert_eq!(replayed(), 0);
    assert_eq!(project.cell("select count(*) from stg_orders"), "11");
    replay("1009,3,2026-10-02 17:45:00,paid,12.50").exits(0);
    assert_eq!(project.cell("select count(*) from stg_orders"), "12");
    assert_ne!(replayed(), 0);
}

#[test]
fn a_correction_is_read_again_under_a_contract_that_was_mended() {
    let project = Project::init();
    project.replace("sources/shop.yml", "[paid, shipped", "[shipped");
    project.run(&["run"]);
    let letters = project.run(&["dlq", "show", "--json"]).exits(0).json_lines();
    let letter = letters
        .iter()
        .find(|letter| letter["record"].as_str().is_some_and(|text| text.ends_with("12.5O")))
        .expect("the bad amount is a dead letter");
    let id = letter["id"].as_str().expect("it has an id");
    project.run(&[
        "dlq",
        "replay",
        "--id",
        id,
        "--record",
        "1009,3,2026-10-02 17:45:00,paid,12.50",
    ]);
    project.replace("sources/shop.yml", "[shipped", "[paid, shipped");
    project.run(&["dlq", "replay", "--contract"]).exits(0);
    assert_eq!(project.cell("select count(*) from stg_orders where order_id = 1009"), "1");
}

#[test]
fn rows_outside_of_their_batch_are_left_out_and_counted() {
    let project = Project::files(&[
        ("freshet.yml", "name: shop\n"),
        (
            "sources/s.yml",
            "version: 2\nsources:\n  - name: s\n    tables:\n      - name: t\n        connector: files\n        event_time: day\n        with:\n          path: in/*.csv\n        columns:\n          - {name: id, data_type: bigint}\n          - {name: day, data_type: date}\n",
        ),
        (
            // Each day's query also gives a row of the day before and one of no day.
            "models/m.sql",
            "{{ config(materialized='incremental', incremental_strategy='microbatch', event_time='day', batch_size='day', begin='2026-01-01') }}\nselect id, day from {{ source('s', 't') }}\nunion all select id, day - interval '1 day' from {{ source('s', 't') }}\nunion all select id, cast(null as date) from {{ source('s', 't') }}\n",
        ),
        ("in/a.csv", "id,day\n1,2026-03-01\n2,2026-03-02\n"),
    ]);
    let rows = "select string_agg(concat(id, ':', day), ' ' order by id) from m";
    let left_out = "rows were left out because they lie outside of the batch";
    project.run(&["run"]).exits(0).says(&[left_out]);
    assert_eq!(project.cell(rows), "1:2026-03-01 2:2026-03-02");
    let report = project.run(&["runs", "show", "--json"]).exits(0).json();
    let edge = &report["tasks"][0]["build"]["edges"]["batch"];
    assert_eq!(
        (&edge["rows_in"], &edge["rows_out"], &edge["filtered"]),
        (&6.into(), &2.into(), &4.into())
    );

    // The same from everything, and a batch at a time: neither lost nor doubled.
    project.write("in/b.csv", "id,day\n3,2026-03-02\n");
    project.run(&["run"]).exits(0);
    let all = "1:2026-03-01 2:2026-03-02 3:2026-03-02";
    assert_eq!(project.cell(rows), all);
    project.run(&["run", "--interval", "2026-03-02..2026-03-03"]).exits(0);
    assert_eq!(project.cell(rows), all);
    project.run(&["run", "--full-refresh"]).exits(0);
    assert_eq!(project.cell(rows), all);
}
