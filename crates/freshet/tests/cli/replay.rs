//! Dead letters taken through the same path again: by a mended contract, dropped, and from a file.

use serde_json::{Value, json};

use crate::support::Project;

/// The new project with four bad records of different kinds in a file of their own.
fn shop() -> Project {
    let project = Project::init();
    project.write(
        "data/orders_20261004.csv",
        "order_id,customer_id,ordered_at,status,amount
1013,1,2026-10-04 08:00:00,refunded,1.00
1014,2,2026-10-04 09:00:00,paid,two
1015,3,2026-10-04 10:00:00,refunded,3.00
1016,4,2026-10-04 11:00:00,paid,4.00,extra
1017,5,2026-10-04 12:00:00,paid,5.00
",
    );
    // One of five is more than the 5% that a file may have, but too few to tell.
    project.run(&["run"]).exits(0);
    assert_eq!(count(&project), "12");
    project
}

fn count(project: &Project) -> String {
    project.cell("select count(*) from stg_orders")
}

/// Ids of the dead letters of the new file, by their records' first field.
fn letters(project: &Project) -> Vec<Value> {
    let args = ["dlq", "show", "--path", "20261004.csv", "--json"];
    let mut letters = project.run(&args).exits(0).json_lines();
    letters.sort_by_key(|letter| letter["line"].as_u64());
    letters
}

/// Records, good, dead and filtered at the source's edge when everything is read again.
fn edge(project: &Project) -> [u64; 4] {
    let run = project.run(&["run", "--full-refresh", "--json"]).exits(0).json_lines();
    let report = &run.last().expect("the report is last")["report"];
    let tasks = report["tasks"].as_array().expect("a run has tasks");
    let edges = tasks.iter().map(|task| &task["build"]["edges"]["decode:shop.orders"]);
    let edge = edges.into_iter().find(|edge| edge.is_object()).expect("a model reads the source");
    ["rows_in", "rows_out", "dead", "filtered"].map(|name| edge[name].as_u64().expect("a number"))
}

#[test]
fn mended_contract_takes_the_records_as_they_are() {
    let project = shop();
    let replay = ["dlq", "replay", "--contract", "--source", "shop.orders", "--rule", "constraint"];
    // The contract is what it was: they are dead letters again, and no row appears.
    for _ in 0..2 {
        project.run(&replay).exits(0).says(&["2 corrections kept"]);
        assert_eq!(count(&project), "12");
        // They were found again after they were corrected.
        let groups = project.run(&["dlq", "ls", "--run", "latest", "--json"]).exits(0).json();
        assert_eq!((&groups[0]["records"], &groups[0]["replayed"]), (&json!(2), &json!(0)));
    }

    project.replace("sources/shop.yml", "shipped, cancelled]", "shipped, cancelled, refunded]");
    project.run(&replay).exits(0);
    assert_eq!(count(&project), "14");
    assert_eq!(project.cell("select amount from stg_orders where order_id = 1015"), "3.00");
    // They are in the table now, which a second replay does not change.
    project.run(&replay).exits(0).says(&["0 corrections kept, 2 kept before"]);
    assert_eq!(count(&project), "14");
    let id = letters(&project)[0]["id"].as_str().expect("it has an id").to_owned();
    let other = ["dlq", "replay", "--id", &id, "--record", "1013,1,2026-10-04 08:00:00,paid,9.00"];
    project.run(&other).exits(2).says(&["error[F0801]", "corrected before, and differently"]);
    // Of 20 records one of the older files and two of the new one are bad still.
    assert_eq!(edge(&project), [20, 17, 3, 0]);
    assert_eq!(count(&project), "14");
}

#[test]
fn corrections_that_wait_for_the_next_run_are_in_it() {
    let project = shop();
    project.replace("sources/shop.yml", "shipped, cancelled]", "shipped, cancelled, refunded]");
    project.run(&["dlq", "replay", "--contract", "--rule", "constraint", "--no-run"]).exits(0);
    assert_eq!(count(&project), "12");
    project.run(&["run"]).exits(0);
    assert_eq!(count(&project), "14");
}

#[test]
fn dropped_records_count_as_filtered_and_stay_away() {
    let project = shop();
    let ids: Vec<String> = letters(&project)
        .iter()
        .map(|letter| letter["id"].as_str().expect("each has an id").to_owned())
        .collect();
    let drop = ["dlq", "replay", "--drop", "--id", &ids[1], "--id", &ids[3]];
    project.run(&drop).exits(0).says(&["2 corrections kept"]);
    assert_eq!(count(&project), "12");
    assert_eq!(edge(&project), [20, 15, 3, 2]);
    project.run(&drop).exits(0).says(&["0 corrections kept, 2 kept before"]);
    assert_eq!(edge(&project), [20, 15, 3, 2]);
}

#[test]
fn file_of_corrections_is_what_was_shown_and_edited() {
    let project = shop();
    let mut lines = letters(&project);
    lines[0]["record"] = json!("1013,1,2026-10-04 08:00:00,cancelled,1.00");
    lines[1]["record"] = json!("1014,2,2026-10-04 09:00:00,paid,2.00");
    lines[2] = json!({ "id": lines[2]["id"], "drop": true });
    // The fourth is left as it was shown: it is bad still, and can be corrected again.
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    project.write("fix.jsonl", &text);
    project.run(&["dlq", "replay", "--file", "fix.jsonl"]).exits(0).says(&["4 corrections kept"]);
    assert_eq!(count(&project), "14");
    assert_eq!(project.cell("select amount from stg_orders where order_id = 1014"), "2.00");
    assert_eq!(edge(&project), [20, 17, 2, 1]);
    let id = lines[3]["id"].as_str().expect("it has an id");
    let again = ["dlq", "replay", "--id", id, "--record", "1016,4,2026-10-04 11:00:00,paid,4.00"];
    project.run(&again).exits(0).says(&["1 correction kept"]);
    assert_eq!(count(&project), "15");
    assert_eq!(edge(&project), [20, 18, 1, 1]);

    let wrong = format!("{}\n{{\"id\":\"nothing:1\",\"record\":\"1\"}}\nnot json\n", lines[0]);
    project.write("fix.jsonl", &wrong);
    let refused = project.run(&["dlq", "replay", "--file", "fix.jsonl"]).exits(2);
    refused.says(&["fix.jsonl:3", "error[F0003]"]);
    project.write("fix.jsonl", &wrong.replace("not json\n", ""));
    let refused = project.run(&["dlq", "replay", "--file", "fix.jsonl"]).exits(2);
    refused.says(&["error[F0801]", "\"nothing:1\""]);
    assert_eq!(edge(&project), [20, 18, 1, 1]);
}
