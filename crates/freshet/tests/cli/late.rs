//! What streams refuse: rows that come too late, and streams with too many bad records.

use std::time::{Duration, Instant};

use freshet_testkit::seeds;

use crate::stream::{SOURCE, awaits, interrupt, push, up};
use crate::support::Project;

const PER_MINUTE: &str = "{{ config(materialized='stream') }}
select city, window_start, count(*) as orders, sum(amount) as amount
from table(tumble(table {{ source('shop', 'orders') }}, descriptor(at), interval '1' minute))
group by city, window_start, window_end
";

fn project(source: &str) -> Project {
    Project::files(&[
        ("freshet.yml", "name: shop\n"),
        ("sources/shop.yml", source),
        ("models/per_minute.sql", PER_MINUTE),
    ])
}

fn ingest(project: &Project, records: &str) {
    project.write("late.ndjson", records);
    let file = project.dir.join("late.ndjson");
    project.run(&["ingest", "shop.orders", file.to_str().expect("text")]).exits(0);
}

/// An order of another century than those of [`push`].
fn late(id: u64) -> String {
    format!(
        "{{\"id\": {id}, \"city\": \"Oslo\", \"amount\": 1, \"at\": \"1990-01-01T00:00:00\"}}\n"
    )
}

#[test]
fn rows_that_come_too_late_are_kept_once_however_often_the_job_is_killed() {
    let project = project(SOURCE);
    let child = up(&project, &[]);
    push(&project, 0..300);
    // The watermark has passed the century once a window was closed.
    awaits(&project, "select count(*) > 0 from per_minute", "true");
    let mut child = child;
    let mut rng = seeds::rng(11);
    for round in 0..6 {
        let orders: String = (round * 50..(round + 1) * 50).map(late).collect();
        ingest(&project, &orders);
        let wait = rand::Rng::random_range(&mut rng, 0..400);
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().expect("it runs");
        child.wait().expect("it was killed");
        child = up(&project, &[]);
    }
    awaits(&project, "select count(*) from freshet.late_rows", "300");
    assert_eq!(project.cell("select count(distinct \"row\") from freshet.late_rows"), "1");
    let groups = project.run(&["dlq", "ls", "--late", "--json"]).exits(0).json();
    assert_eq!(groups[0]["model"], "per_minute");
    assert_eq!(groups[0]["operator"], "tumble window by city");
    assert_eq!(groups[0]["rows"], 300);
    project.run(&["dlq", "ls", "--late"]).exits(0).says(&["per_minute", "300"]);
    let shown = project.run(&["dlq", "show", "--late", "-n", "2", "--json"]).exits(0).json_lines();
    assert_eq!(shown.len(), 2);
    assert_eq!(shown[0]["event_time"], "1990-01-01T00:00:00Z");
    let row = serde_json::json!({ "city": "Oslo", "at": "1990-01-01T00:00:00", "amount": 1.0 });
    assert_eq!(shown[0]["row"], row);
    interrupt(&project, child);
}

/// The dead letters of the source, by the number of their order.
fn letters(project: &Project) -> Vec<String> {
    let shown = project.run(&["dlq", "show", "-n", "1000", "--json"]).exits(0).json_lines();
    let mut letters: Vec<(u64, String)> = shown
        .iter()
        .map(|letter| {
            let record = letter["record"].as_str().expect("a record");
            let order: serde_json::Value = serde_json::from_str(record).expect("an object");
            let id = letter["id"].as_str().expect("an id").to_owned();
            (order["id"].as_u64().expect("a number"), id)
        })
        .collect();
    letters.sort_unstable();
    letters.into_iter().map(|(_, id)| id).collect()
}

#[test]
fn corrected_records_of_a_stream_are_read_once_by_jobs_that_run_and_by_those_that_begin() {
    let project = project(SOURCE);
    project.write(
        "models/every_order.sql",
        "{{ config(materialized='stream') }}\nselect id, city, amount from {{ source('shop', 'orders') }}\n",
    );
    // Those of 3, 13, 23 … are bad.
    push(&project, 0..100);
    let only = ["--select", "every_order"];
    let child = up(&project, &only);
    awaits(&project, "select count(*) from every_order", "90");
    awaits(&project, "select count(*) from freshet.dead_letters", "10");
    let ids = letters(&project);
    assert_eq!(ids.len(), 10);
    let corrected = |id: u64| {
        format!(
            "{{\"id\": {id}, \"city\": \"Ulm\", \"amount\": 1, \"at\": \"2026-09-21T14:00:00\"}}"
        )
    };
    let record = corrected(3);
    let replay = ["dlq", "replay", "--id", &ids[0], "--record", &record];
    project.run(&replay).exits(0).says(&["1 correction kept", "within seconds"]);
    awaits(&project, "select count(*) from every_order where id = 3 and city = 'Ulm'", "1");
    project.run(&replay).exits(0).says(&["0 corrections kept, 1 kept before"]);
    let other = ["dlq", "replay", "--id", &ids[0], "--record", &corrected(4)];
    project.run(&other).exits(2).says(&["corrected before, and differently"]);
    // A correction that is bad itself is a dead letter again, and can be corrected again.
    let bad = ["dlq", "replay", "--id", &ids[1], "--record", "{\"id\": 13, \"amount\": \"less\"}"];
    project.run(&bad).exits(0);
    awaits(&project, "select count(*) from freshet.dead_letters", "11");
    let groups = |project: &Project| {
        let groups = project.run(&["dlq", "ls", "--json"]).exits(0).json();
        groups
            .as_array()
            .expect("a list")
            .iter()
            .map(|g| g["replayed"].as_u64().expect("a count"))
            .sum::<u64>()
    };
    assert_eq!(groups(&project), 1);
    // While nobody reads: a killed job knows what it has taken up, and a new one reads all in place.
    let mut child = child;
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    project.run(&["dlq", "replay", "--id", &ids[1], "--record", &corrected(13)]).exits(0);
    project.run(&["dlq", "replay", "--id", &ids[2], "--drop"]).exits(0);
    let child = up(&project, &[]);
    awaits(&project, "select count(*) from every_order where id = 13", "1");
    // The other job begins: of ten bad records two are mended and one is dropped.
    awaits(&project, "select count(*) from freshet.dead_letters where model = 'per_minute'", "7");
    ingest(&project, &corrected(2000).replace("2026", "2027"));
    awaits(&project, "select sum(orders) from per_minute", "92");
    awaits(&project, "select count(*) from every_order", "93");
    awaits(&project, "select count(distinct id) from every_order", "93");
    assert_eq!(groups(&project), 3);
    interrupt(&project, child);
    let child = up(&project, &[]);
    ingest(&project, &corrected(2001).replace("2026", "2027"));
    awaits(&project, "select count(*) from every_order", "94");
    awaits(&project, "select count(*) from every_order where city = 'Ulm'", "4");
    interrupt(&project, child);
}

#[test]
fn a_stream_with_too_many_bad_records_stops_and_says_why() {
    let limited =
        SOURCE.replace("        watermark:", "        max_bad: 1%/1m\n        watermark:");
    let project = project(&limited);
    // A tenth of them is no order at all.
    push(&project, 0..200);
    let mut child = up(&project, &[]);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is ours") {
            break status;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", project.read("up.log"));
        std::thread::sleep(Duration::from_millis(50));
    };
    let said = project.read("up.log");
    assert_eq!(status.code(), Some(1), "{said}");
    for part in [
        "F0207",
        "source \"shop.orders\" has too many bad records: 20 of 200",
        "within 1m",
        "rule `",
        "on_max_bad: alert",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let alerting = limited.replace("max_bad: 1%/1m", "max_bad: 1%/1m\n        on_max_bad: alert");
    project.write("sources/shop.yml", &alerting);
    let child = up(&project, &[]);
    awaits(&project, "select count(*) from freshet.dead_letters", "20");
    let said = interrupt(&project, child);
    assert!(said.contains("too many bad records"), "{said}");
}

#[test]
fn a_threshold_that_makes_no_sense_is_said_with_its_place() {
    let project = project(
        &SOURCE.replace("        watermark:", "        max_bad: 1%/soon\n        watermark:"),
    );
    project.run(&["check"]).exits(2).says(&["sources/shop.yml:7", "\"soon\" is not a duration"]);
}
