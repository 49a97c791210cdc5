//! `examples/food_delivery` as it lies, on events whose truth the generator wrote down: every dead
//! letter, each minute's counts to the cent, what was not delivered, surges, drops and silence.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use tokio_postgres::config::Host;

use crate::production::{query as postgres, server};
use crate::stream::{awaits, interrupt, up};
use crate::support::{Project, ran};

fn example() -> Project {
    let project = Project::empty();
    let from = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("../../examples/food_delivery");
    for part in ["freshet.yml", "sources/food.yml"] {
        project.write(part, &fs::read_to_string(from.join(part)).expect("a file of the example"));
    }
    for model in fs::read_dir(from.join("models")).expect("the example has models") {
        let path = model.expect("a model").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let text = fs::read_to_string(&path).expect("a file of the example");
        project.write(&format!("models/{name}"), &text);
    }
    project
}

/// The lines of a query's result, or of a file of the truth, without the first, each cut at commas.
fn lines(text: &str) -> impl Iterator<Item = Vec<String>> + '_ {
    text.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect())
}

fn query(project: &Project, sql: &str) -> Vec<Vec<String>> {
    lines(&project.run(&["sql", "--format", "csv", sql]).exits(0).out).collect()
}

/// A minute as queries give it, of one as the truth has it.
fn minute(text: &str) -> String {
    text.replace('T', " ").trim_end_matches('Z').trim_end_matches(".000").to_owned()
}

/// Makes events of this span, and pushes them.
fn push(project: &Project, span: &str) {
    let data = project.dir.join("data");
    let folder = data.to_str().expect("text");
    let world = [span, "--rate=5", "--customers=500", "--restaurants=50"];
    // What is late depends on how far reading came; other tests have it.
    let faults = ["--late=0", "--bad=0.005", "--duplicates=0.002", "--seed=7", folder];
    ran(&[&["generate", "orders"], &world[..], &faults].concat()).exits(0);
    for stream in ["customers", "restaurants", "couriers", "orders"] {
        let file = data.join(format!("{stream}.ndjson"));
        let file = file.to_str().expect("text");
        project.run(&["ingest", &format!("food.{stream}"), file]).exits(0);
    }
}

#[test]
fn the_food_delivery_gives_what_the_truth_says() {
    let project = example();
    push(&project, "--span=2h");
    let truth = |name: &str| project.read(&format!("data/{name}"));
    let child = up(&project, &["--threads", "2"]);

    // Two hours passed in an instant, and the source falls idle: its time goes on, and closes the last minute.
    let mut expected = BTreeMap::new();
    for cells in lines(&truth("truth_counts.csv")) {
        let [at, city, status, events, _sent, amount] = &cells[..] else { panic!("{cells:?}") };
        let key = (minute(at), city.clone(), status.clone());
        if events != "0" {
            expected.insert(key, (events.clone(), amount.clone()));
        }
    }
    let total: u64 =
        expected.values().map(|(events, _)| events.parse::<u64>().expect("a count")).sum();
    assert!(total > 30_000, "{total}");
    awaits(&project, "select sum(events) from orders_per_minute", &total.to_string());
    let counts = "select minute, city, status, events, amount from orders_per_minute";
    let found: BTreeMap<_, _> = query(&project, counts)
        .into_iter()
        .map(|row| {
            let [at, city, status, events, amount] = row.try_into().expect("five columns");
            ((at, city, status), (events, amount))
        })
        .collect();
    assert_eq!(found, expected);

    // Each order goes on, with what was known of its restaurant and its customer then.
    let summary = truth("truth.jsonl");
    let summary: serde_json::Value =
        serde_json::from_str(summary.lines().last().expect("a summary")).expect("JSON");
    let unknown = summary["unknown_customer"].as_u64().expect("a count");
    assert!(unknown > 0, "{summary}");
    awaits(&project, "select count(*) from orders_enriched", &total.to_string());
    let failed = "select count(*) from orders_enriched where enrichment_status = 'FAILED'";
    assert_eq!(project.cell(failed), unknown.to_string());
    let unnamed =
        "select count(*) from orders_enriched where restaurant is null or commission is null";
    assert_eq!(project.cell(unnamed), "0");

    // Of orders of the last 45 minutes nobody can say yet.
    let expected: BTreeSet<_> =
        lines(&truth("truth_undelivered.csv")).map(|cells| cells[..2].to_vec()).collect();
    let decided = "from undelivered where placed_at < '2026-01-01T19:14:00Z'";
    let count = lines(&truth("truth_undelivered.csv"))
        .filter(|cells| minute(&cells[2]).as_str() < "2026-01-01 19:14:00")
        .count();
    assert!(count > 100, "{count}");
    awaits(&project, &format!("select count(*) {decided}"), &count.to_string());
    let found = query(&project, &format!("select order_id, city {decided}"));
    for row in &found {
        assert!(expected.contains(row), "{row:?}");
    }

    // What a minute is held against are the minutes of the hour before it.
    let mut expected = BTreeSet::new();
    for cells in lines(&truth("truth_city_minutes.csv")) {
        let [at, city, events, placed, base_minutes, base_placed, silent, change] = &cells[..]
        else {
            panic!("{cells:?}")
        };
        if silent == "true" || !change.is_empty() {
            let values =
                [city, &minute(at), events, placed, base_minutes, base_placed, silent, change];
            expected.insert(values.map(Clone::clone).to_vec());
        }
    }
    assert!(expected.iter().any(|row| row[6] == "true"), "no city falls silent");
    awaits(&project, "select count(*) from city_alerts", &expected.len().to_string());
    let alerts = "select city, minute, events, placed, base_minutes, base_placed, silent, change from city_alerts";
    let found: BTreeSet<_> = query(&project, alerts).into_iter().collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    let wrong: Vec<_> = found.difference(&expected).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "missing {missing:#?}\nwrong {wrong:#?}");

    // Each bad record is a dead letter, once for each model that reads it.
    let bad: u64 = summary["bad"]
        .as_object()
        .expect("kinds")
        .values()
        .map(|count| count.as_u64().expect("a count"))
        .sum();
    for model in ["orders_per_minute", "orders_enriched", "undelivered", "city_alerts"] {
        let sql = format!(
            "select count(*) from freshet.dead_letters where model = '{model}' and source = 'food.orders'"
        );
        awaits(&project, &sql, &bad.to_string());
    }
    interrupt(&project, child);
}

#[test]
fn the_food_delivery_runs_over_topics_and_into_postgres() {
    let project = example();
    let unique = format!("food_{}", uuid::Uuid::new_v4().simple());
    let server = server();
    let Host::Tcp(host) = &server.get_hosts()[0] else { panic!("the server has an address") };
    let broker = std::env::var("FRESHET_TEST_KAFKA")
        .expect("FRESHET_TEST_KAFKA is not set: `cargo xtask test` starts a broker and sets it");
    let password = String::from_utf8_lossy(server.get_password().expect("a password")).into_owned();
    project.replace(
        "freshet.yml",
        "name: food_delivery",
        "name: food_delivery\ndefault_environment: kafka",
    );
    for (reference, value) in [
        ("${env:KAFKA_BROKERS}", broker),
        ("${env:PGHOST}", host.clone()),
        ("${env:PGPORT}", server.get_ports()[0].to_string()),
        ("${env:PGUSER}", server.get_user().expect("a user").to_owned()),
        ("${env:PGPASSWORD}", password),
        (
            "${env:PGDATABASE}",
            format!("{}\n        schema: {unique}", server.get_dbname().expect("a name")),
        ),
    ] {
        project.replace("freshet.yml", reference, &value);
    }
    // Topics of this test alone.
    for stream in ["orders", "couriers", "restaurants", "customers"] {
        let name = format!("      - name: {stream}\n");
        let with = format!("{name}        with: {{ topic: {unique}_{stream} }}\n");
        project.replace("sources/food.yml", &name, &with);
    }
    let result = format!("'topic': '{unique}_counts'");
    project.replace("models/orders_per_minute.sql", "'topic': 'orders_per_minute'", &result);
    postgres(&format!("create schema {unique}"));
    push(&project, "--span=10m");

    let child = up(&project, &["--threads", "2"]);
    let truth = project.read("data/truth_counts.csv");
    let total: u64 = lines(&truth).map(|cells| cells[3].parse::<u64>().expect("a count")).sum();
    awaits(&project, "select sum(events) from orders_per_minute", &total.to_string());
    let rows = project.cell("select count(*) from orders_per_minute");
    interrupt(&project, child);
    let sums = postgres(&format!("select count(*), sum(events) from {unique}.orders_per_minute"));
    assert_eq!(sums, [format!("{rows} {total}")]);
    postgres(&format!("drop schema {unique} cascade"));
}

#[test]
fn a_demo_makes_its_own_events_until_it_is_stopped() {
    let project = example();
    // Another run's orders are not this one's.
    for _ in 0..2 {
        let before = match project.dir.join(".freshet").exists() {
            true => project.cell("select count(*) from orders_enriched"),
            false => "0".to_owned(),
        };
        let child = up(&project, &["--demo", "--threads", "2"]);
        let more = format!("select count(*) > {before} + 500 from orders_enriched");
        awaits(&project, &more, "true");
        interrupt(&project, child);
    }
    let printed = project.read("up.out");
    assert!(printed.contains("food_delivery for") && printed.contains("not_enriched"), "{printed}");
    assert_eq!(project.cell("select count(*) > 0 from freshet.dead_letters"), "true");
    let other = crate::support::Project::init();
    other.run(&["up", "--demo"]).exits(2);
}
