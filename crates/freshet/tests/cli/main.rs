//! The binary as users meet it: what it prints, where, and with which exit code.

use std::io::{Read, Write};
use std::process::Stdio;

mod checks;
mod evolve;
mod food;
mod history;
mod http;
mod ingest;
mod late;
mod misuse;
mod production;
mod replay;
mod sinks;
mod stream;
mod support;

use support::{Project, Ran, freshet, ran};

#[test]
fn new_project_checks_runs_and_is_queried() {
    let project = Project::init();
    project.run(&["check"]).exits(0).says(&["ok: "]);
    let run = project.run(&["run"]).exits(0);
    assert!(!run.out.contains('\x1b') && !run.err.contains('\x1b'), "no colours in a pipe");
    run.says(&["stg_orders", "daily_revenue", "shop.orders: 1 (type 1)", "success"]);
    // 12 orders, one of which has a bad amount.
    assert_eq!(project.cell("select count(*) from stg_orders"), "11");

    let all = ["sql", "--json", "select * from daily_revenue order by day, country"];
    let before = project.run(&all).exits(0).json();
    project.run(&["run", "--full-refresh"]).exits(0);
    assert_eq!(project.run(&all).exits(0).json(), before);
    project.run(&["test"]).exits(0);
}

#[test]
fn dead_letter_is_shown_corrected_and_counted_once() {
    let project = Project::init();
    project.run(&["run"]).exits(0);
    let groups = project.run(&["dlq", "ls", "--json"]).exits(0).json();
    assert_eq!(groups[0]["rule"], "type");
    assert_eq!(groups[0]["records"], 1);

    let letters = project.run(&["dlq", "show", "--json"]).exits(0).json_lines();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["record"], "1009,3,2026-10-02 17:45:00,paid,12.5O");
    assert_eq!(letters[0]["line"], 6);
    let id = letters[0]["id"].as_str().expect("it has an id");

    let record = "1009,3,2026-10-02 17:45:00,paid,12.50";
    let replay = ["dlq", "replay", "--id", id, "--record", record];
    project.run(&replay).exits(0);
    assert_eq!(project.cell("select count(*) from stg_orders"), "12");
    assert_eq!(project.cell("select amount from stg_orders where order_id = 1009"), "12.50");

    // Again, and from everything: neither lost nor doubled.
    project.run(&replay).exits(0).says(&["0 corrections kept, 1 kept before"]);
    project.run(&["run", "--full-refresh"]).exits(0);
    assert_eq!(project.cell("select count(*) from stg_orders"), "12");
    assert_eq!(project.run(&["dlq", "ls", "--json"]).exits(0).json()[0]["replayed"], 1);
    project.run(&["dlq", "show", "nothing:0"]).exits(2).says(&["error[F0801]"]);
}

#[test]
fn project_errors_are_all_named_with_line_and_hint() {
    let project = Project::init();
    project.replace("models/daily_revenue.sql", "stg_orders", "stg_order");
    project.replace("sources/shop.yml", "data_type: bigint", "data_typ: bigint");
    let checked = project.run(&["check"]).exits(2).says(&[
        "error[F0104]",
        "models/daily_revenue.sql:8",
        "| from {{ ref('stg_order') }} as o",
        "\"stg_orders\"",
        "error[F0102]",
        "sources/shop.yml",
        "data_type",
        "2 errors",
    ]);
    assert_eq!(checked.out, "");
    let json = project.run(&["check", "--json"]).exits(2).json();
    assert_eq!(json["errors"].as_array().map(Vec::len), Some(2));
}

#[test]
fn failing_check_keeps_the_old_version_and_exits_with_1() {
    let project = Project::init();
    project.run(&["run"]).exits(0);
    let before = project.cell("select sum(revenue) from daily_revenue");
    project.replace("models/models.yml", "min: 0", "min: 100000");
    project.run(&["run", "--full-refresh"]).exits(1).says(&["F0401", "failed"]);
    assert_eq!(project.cell("select sum(revenue) from daily_revenue"), before);
    let shown = project.run(&["runs", "show"]).exits(0);
    shown.says(&["failed", "freshet run --full-refresh", "decode:shop.orders"]);
    project.run(&["test", "--select", "daily_revenue"]).exits(1);
}

#[test]
fn missing_and_empty_files_are_named_and_exit_with_3() {
    let project = Project::init();
    project.write("data/orders_20261004.csv", "");
    project.write("data/orders_20261006.csv", &project.read("data/orders_20261003.csv"));
    let run = project.run(&["run"]).exits(3);
    run.says(&["orders_20261004.csv", "orders_20261005.csv", "1 empty", "1 missing"]);
}

#[test]
fn programs_get_events_with_the_report_last() {
    let project = Project::init();
    let events = project.run(&["run", "--json"]).exits(0).json_lines();
    assert_eq!(events[0]["event"], "run_started");
    let last = events.last().expect("there are events");
    assert_eq!(last["event"], "run_finished");
    assert_eq!(last["report"]["status"], "success");
    let runs = project.run(&["runs", "--json"]).exits(0).json();
    assert_eq!(runs[0]["id"], last["report"]["id"]);
    let report = project.run(&["runs", "show", "--json"]).exits(0).json();
    assert_eq!(report["id"], runs[0]["id"]);
}

#[test]
fn old_runs_are_forgotten_and_tables_are_not() {
    let project = Project::init();
    project.run(&["run"]).exits(0);
    project.run(&["run", "--full-refresh"]).exits(0);
    let prune = ["runs", "prune", "--older-than", "0s"];
    project.run(&["runs", "prune"]).exits(0).says(&["0 runs forgotten"]);
    project.run(&[&prune[..], &["--dry-run"]].concat()).exits(0).says(&["1 run would be"]);
    project.run(&prune).exits(0).says(&["1 run forgotten"]);
    let runs = project.run(&["runs", "--json"]).exits(0).json();
    assert_eq!(runs.as_array().map(Vec::len), Some(1), "{runs}");
    project.run(&["run"]).exits(0);
    assert_eq!(project.cell("select count(*) from stg_orders"), "11");
}

#[test]
fn wrong_arguments_exit_with_2_and_help_with_0() {
    let project = Project::empty();
    std::fs::create_dir(&project.dir).expect("folder is made");
    for (args, expected) in [
        (vec!["rum"], "run"),
        (vec!["run", "--interval", "yesterday"], "not a span of time"),
        (vec!["run"], "error[F0101]"),
        (vec!["connectors", "show", "flies"], "did you mean \"files\"?"),
        (vec!["sql", "--file", "no_such.sql"], "no_such.sql"),
        (vec!["--log-level", "[", "connectors"], "no log level"),
    ] {
        let ran = project.run(&args).exits(2).says(&[expected]);
        assert_eq!(ran.out, "", "{args:?}");
    }
    ran(&["--version"]).exits(0).says(&["freshet "]);
    ran(&["help", "run"]).exits(0).says(&["--full-refresh"]);
    ran(&["internal", "docs"]).exits(0).says(&["## `freshet run`"]);
}

#[test]
fn init_touches_nothing_that_is_there() {
    let project = Project::init();
    project.write("freshet.yml", "name: mine\n");
    ran(&["init", project.path()]).exits(2);
    assert_eq!(project.read("freshet.yml"), "name: mine\n");
}

#[test]
fn queries_come_from_arguments_files_and_standard_input() {
    let project = Project::init();
    project.write("two.sql", "select 1 as a; -- and\nselect 'x;' as b;\n");
    let two = project.run(&["sql", "-f", "two.sql", "--format", "csv"]).exits(0);
    assert_eq!(two.out, "a\n1\nb\nx;\n");
    let mut child = freshet(&["sql", "--format", "ndjson"])
        .current_dir(&project.dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("it was asked for");
    stdin.write_all(b"select 2 as c").expect("it reads");
    drop(stdin);
    let piped: Ran = child.wait_with_output().expect("it ends").into();
    assert_eq!(piped.exits(0).out, "{\"c\":2}\n");
    project.run(&["sql", "select 1 as a, nme"]).exits(2).says(&["error[F0301]"]);
    project.run(&["sql", "drop table customers"]).exits(2).says(&["only reads"]);
}

#[test]
fn clean_removes_state_and_leaves_data() {
    let project = Project::init();
    project.run(&["run"]).exits(0);
    assert!(project.dir.join(".freshet/dev").exists());
    project.run(&["clean"]).exits(2).says(&["--yes"]);
    project.run(&["clean", "--yes"]).exits(0);
    assert!(!project.dir.join(".freshet/dev").exists());
    assert!(project.dir.join("data/orders_20261001.csv").exists());
    project.run(&["run"]).exits(0);
    project.replace("freshet.yml", "memory_limit: 1GiB", "lake: .");
    project.run(&["clean", "--yes"]).exits(2).says(&["holds the project itself"]);
}

#[test]
fn reader_that_goes_away_is_no_failure() {
    let project = Project::init();
    let sql = "select value from generate_series(1, 5000000)";
    let mut child = freshet(&["sql", "--format", "csv", sql])
        .current_dir(&project.dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut first = [0; 16];
    let mut stdout = child.stdout.take().expect("it was asked for");
    stdout.read_exact(&mut first).expect("there is output");
    drop(stdout);
    let ran: Ran = child.wait_with_output().expect("it ends").into();
    assert_eq!(ran.exits(0).err, "");
}

#[test]
fn listing_and_preview_show_what_the_project_has() {
    let project = Project::init();
    let listed = project.run(&["ls", "--json"]).exits(0).json();
    let names: Vec<_> = listed
        .as_array()
        .expect("it is a list")
        .iter()
        .map(|node| node["name"].as_str().expect("it has a name"))
        .collect();
    assert_eq!(names, ["shop.orders", "customers", "stg_orders", "daily_revenue"]);
    let chosen = project.run(&["ls", "--select", "stg_orders+", "--json"]).exits(0).json();
    assert_eq!(chosen.as_array().map(Vec::len), Some(2));
    // Without a run: computed from the files.
    let shown = project.run(&["show", "stg_orders", "-n", "3", "--json"]).exits(0).json();
    assert_eq!(shown.as_array().map(Vec::len), Some(3));
    project.run(&["show", "daily_revenue", "--compiled"]).exits(0).says(&["<> 'cancelled'"]);
    project.run(&["show", "stg_order"]).exits(2).says(&["stg_orders"]);
}

#[test]
fn record_of_runs_is_made_again_from_the_lake() {
    let project = Project::init();
    project.run(&["run"]).exits(0);
    std::fs::remove_file(project.dir.join(".freshet/dev/meta.db")).expect("it is there");
    project.run(&["runs", "rebuild"]).exits(0);
    let runs = project.run(&["runs", "--json"]).exits(0).json();
    assert_eq!(runs.as_array().map(Vec::len), Some(1));
    // The ledger is back too: nothing is read again.
    project.run(&["run"]).exits(0);
    assert_eq!(project.cell("select count(*) from stg_orders"), "11");
}

#[test]
fn inferred_source_is_one_that_the_project_can_use() {
    let project = Project::init();
    let infer = ["sources", "infer", "data/orders_{date:%Y%m%d}.csv", "-o", "sources/raw.yml"];
    project.run(&infer).exits(0).says(&["raw.orders"]);
    project.run(&infer).exits(2).says(&["is there already"]);
    project.run(&["check"]).exits(0).says(&["2 sources"]);
    assert_eq!(project.cell("select count(*) from raw.orders"), "15");
    project.run(&["sources", "infer", "data/nothing_*.csv"]).exits(1).says(&["nothing_*.csv"]);
}

#[test]
fn runs_are_forgotten_when_the_environment_says_so() {
    let project = Project::init();
    let runs = || {
        let runs = project.run(&["runs", "--json"]).exits(0).json();
        runs.as_array().map(Vec::len).expect("a list")
    };
    project.run(&["run"]).exits(0);
    project.run(&["run", "--full-refresh"]).exits(0);
    assert_eq!(runs(), 2);
    project.replace("freshet.yml", "memory_limit: 1GiB", "memory_limit: 1GiB\n    keep_runs: 0s");
    project.run(&["run", "--full-refresh"]).exits(0);
    assert_eq!(runs(), 1, "but for the newest build of each model");
    project.replace("freshet.yml", "keep_runs: 0s", "keep_runs: soon");
    project.run(&["check"]).exits(2).says(&["freshet.yml", "keep_runs"]);
}

#[test]
fn a_query_hands_its_predicates_to_the_scan_and_a_build_does_not() {
    let project = Project::init();
    let plan = |sql: &str| project.run(&["sql", "--format", "csv", sql]).exits(0).out;
    let filtered = "select count(*) from shop.orders where order_id > 1005";
    let shown = plan(&format!("explain {filtered}"));
    assert!(shown.contains("predicates=[order_id@"), "{shown}");
    assert!(!shown.contains("FilterExec"), "{shown}");
    // Evaluated row by row, where no scan can take it.
    let cases = [
        "order_id > 1005",
        "order_id > 1005 and amount < 20",
        "amount is null",
        "order_id <> order_id",
        "status = 'paid' or order_id = 1001",
    ];
    for condition in cases {
        let pushed = format!("select count(*) from shop.orders where {condition}");
        let aside = format!(
            "select count(*) filter (where {condition}) from shop.orders cross join (select 1) as one"
        );
        assert_eq!(project.cell(&pushed), project.cell(&aside), "{condition}");
    }
    // A join makes a predicate of its smaller side while it runs.
    let joined = "select count(*) from shop.orders as o join (select 1006 as id union all select 1007) as k \
        on o.order_id = k.id";
    // One of the two came twice.
    assert_eq!(project.cell(joined), "3");
    project.write(
        "models/large.sql",
        "{{ config(materialized='table') }} select order_id from {{ source('shop', 'orders') }} where order_id > 1005\n",
    );
    project.run(&["run", "--select", "large"]).exits(0);
    assert_eq!(project.cell("select count(*) from large"), project.cell(filtered));
    let report = project.run(&["runs", "show", "--json"]).exits(0).json();
    let operators = report["tasks"][0]["build"]["operators"].to_string();
    assert!(operators.contains("filter"), "the filter keeps its own count: {operators}");
}
