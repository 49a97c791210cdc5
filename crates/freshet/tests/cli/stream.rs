//! Streaming models of a project: pushed records, windows, dead letters, and processes that are killed
//! in the midst of it.

use std::process::Child;
use std::time::{Duration, Instant};

use freshet_testkit::seeds;

use crate::support::{Project, freshet};

pub const SOURCE: &str = "sources:
  - name: shop
    tables:
      - name: orders
        connector: log
        with: { partitions: 1 }
        watermark: { for: at, delay: 2s }
        columns:
          - { name: id, data_type: bigint }
          - { name: city, data_type: text }
          - { name: amount, data_type: 'decimal(10,2)' }
          - { name: at, data_type: timestamp }
";

fn project() -> Project {
    Project::files(&[
        ("freshet.yml", "name: shop\n"),
        ("sources/shop.yml", SOURCE),
        (
            "models/every_order.sql",
            "{{ config(materialized='stream') }}\n\
             select id, upper(city) as city, amount from {{ source('shop', 'orders') }}\n",
        ),
        (
            "models/per_minute.sql",
            "{{ config(materialized='stream') }}\n\
             select city, window_start, count(*) as orders, sum(amount) as amount\n\
             from table(tumble(table {{ source('shop', 'orders') }}, descriptor(at),\n\
                               interval '1' minute))\n\
             group by city, window_start, window_end\n",
        ),
    ])
}

/// Orders `range`, one a second, two seconds out of order at most; each tenth is no order at all.
fn orders(range: std::ops::Range<u64>) -> String {
    let line = |id: u64| {
        if id % 10 == 3 {
            return format!("{{\"id\": {id}, \"amount\": \"much\"}}\n");
        }
        let time = chrono::DateTime::from_timestamp(1_790_000_000 + id as i64, 0).expect("a time")
            - chrono::Duration::milliseconds((id * 7919 % 2000) as i64);
        let city = ["Berlin", "Lyon", "Rome"][id as usize % 3];
        format!(
            "{{\"id\": {id}, \"city\": \"{city}\", \"amount\": {id}.25, \"at\": \"{}\"}}\n",
            time.format("%Y-%m-%dT%H:%M:%S%.3f")
        )
    };
    range.map(line).collect()
}

fn good(range: std::ops::Range<u64>) -> Vec<u64> {
    range.filter(|id| id % 10 != 3).collect()
}

pub fn push(project: &Project, range: std::ops::Range<u64>) {
    project.write("orders.ndjson", &orders(range.clone()));
    let file = project.dir.join("orders.ndjson");
    let accepted = format!("{} records accepted", good(range).len());
    project
        .run(&["ingest", "shop.orders", file.to_str().expect("text")])
        .exits(0)
        .says(&[&accepted]);
}

pub fn up(project: &Project, args: &[&str]) -> Child {
    let mut command =
        freshet(&["up", "--checkpoint-interval", "20ms", "--commit-interval", "50ms"]);
    let log = |name: &str| {
        let file = std::fs::File::options().create(true).append(true).open(project.dir.join(name));
        file.expect("a file for what is said")
    };
    command.args(args).current_dir(&project.dir).stdout(log("up.out")).stderr(log("up.log"));
    command.spawn().expect("the binary starts")
}

/// Waits until a query gives what is expected.
#[track_caller]
pub fn awaits(project: &Project, sql: &str, expected: &str) {
    let begun = Instant::now();
    loop {
        let ran = project.run(&["sql", "--format", "csv", sql]);
        let found = ran.out.lines().nth(1).unwrap_or_default().to_owned();
        if found == expected {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "{sql}: {found:?} instead of {expected:?}\n{}\n{}",
            ran.err,
            project.read("up.log")
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub fn interrupt(project: &Project, mut child: Child) -> String {
    let pid = i32::try_from(child.id()).expect("a process");
    let killed = std::process::Command::new("kill").args(["-INT", &pid.to_string()]).status();
    assert!(killed.expect("kill runs").success());
    let status = child.wait().expect("it ends");
    let said = project.read("up.log");
    assert_eq!(status.code(), Some(0), "{said}");
    said
}

#[test]
fn a_stream_that_is_killed_again_and_again_loses_and_doubles_nothing() {
    let project = project();
    let mut rng = seeds::rng(7);
    let mut pushed = 0;
    for _ in 0..8 {
        push(&project, pushed..pushed + 200);
        pushed += 200;
        let mut child = up(&project, &[]);
        let wait = rand::Rng::random_range(&mut rng, 0..500);
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().expect("it runs");
        child.wait().expect("it was killed");
    }
    let child = up(&project, &[]);
    let all = good(0..pushed);
    awaits(&project, "select count(*) from every_order", &all.len().to_string());
    let sum: u64 = all.iter().sum();
    awaits(&project, "select sum(id) from every_order", &sum.to_string());
    awaits(&project, "select count(distinct id) from every_order", &all.len().to_string());
    let dead = (pushed as usize - all.len()).to_string();
    // Both models read the source, and each says what it could not read.
    for model in ["every_order", "per_minute"] {
        let sql = format!("select count(*) from freshet.dead_letters where model = '{model}'");
        awaits(&project, &sql, &dead);
        let sql =
            format!("select count(distinct id) from freshet.dead_letters where model = '{model}'");
        awaits(&project, &sql, &dead);
    }
    // A last order, far behind the others, closes all of their windows.
    project.write(
        "last.ndjson",
        "{\"id\": 0, \"city\": \"Oslo\", \"amount\": 1, \"at\": \"2027-01-01T00:00:00\"}\n",
    );
    let file = project.dir.join("last.ndjson");
    project.run(&["ingest", "shop.orders", file.to_str().expect("text")]).exits(0);
    awaits(&project, "select sum(orders) from per_minute", &all.len().to_string());
    awaits(&project, "select count(*) - count(distinct city || window_start) from per_minute", "0");
    let amount = format!("{sum}.{:02}", 25 * all.len() % 100);
    let whole = sum + 25 * all.len() as u64 / 100;
    let amount = amount.replacen(&sum.to_string(), &whole.to_string(), 1);
    awaits(&project, "select sum(amount) from per_minute", &amount);
    let said = interrupt(&project, child);
    assert!(said.contains("stopped: all that was read is committed"), "{said}");
}

#[test]
fn what_cannot_run_as_a_stream_is_said_with_its_place() {
    let project = project();
    project.write(
        "models/ordered_cities.sql",
        "{{ config(materialized='stream') }}\nselect city from {{ source('shop', 'orders') }} order by city\n",
    );
    for command in ["check", "up"] {
        project
            .run(&[command])
            .exits(2)
            .says(&["ORDER BY is not supported in a stream", "ordered_cities.sql:2"]);
    }
    // The place is that of what is wrong, in the model where it stands.
    project.write(
        "models/ordered_cities.sql",
        "{{ config(materialized='stream') }}\nselect city, n, most from (\n  select city,\n    count(*) as n, max(amount) over (partition by city) as most\n  from {{ source('shop', 'orders') }} group by city, amount\n)\n",
    );
    project.run(&["check"]).exits(2).says(&["OVER", "models/ordered_cities.sql:4"]);
    project.write(
        "models/ordered_cities.sql",
        "{{ config(materialized='stream') }}\nselect town from {{ source('shop', 'orders') }}\n",
    );
    project.run(&["check"]).exits(2).says(&["town", "models/ordered_cities.sql:2"]);
    project.run(&["run", "--select", "per_minute"]).exits(0);
    project.write("models/ordered_cities.sql", "select 1 as one\n");
    project.run(&["up", "--select", "ordered_cities"]).exits(2).says(&["no streaming model"]);
    project.replace("sources/shop.yml", "for: at", "for: att");
    project.run(&["up"]).exits(2).says(&["has no column \"att\"", "did you mean \"at\"?"]);
}

#[test]
fn a_change_of_sql_says_what_becomes_of_state_and_loses_none_unasked() {
    let project = project();
    let only = ["--select", "per_minute"];
    project.run(&["plan"]).exits(0).says(&["per_minute: it has no checkpoint"]);
    push(&project, 0..100);
    let child = up(&project, &only);
    awaits(&project, "select count(*) > 0 from per_minute", "true");
    interrupt(&project, child);
    let same = project.run(&["plan", "--select", "per_minute"]).exits(0);
    assert!(same.out.contains("kept") && !same.out.contains("lost"), "{}", same.out);

    project.replace(
        "models/per_minute.sql",
        "group by city, window_start",
        "group by window_start",
    );
    project.replace("models/per_minute.sql", "select city,", "select max(city) as city,");
    let other = project.run(&["plan", "--select", "per_minute"]).exits(0);
    let other =
        other.says(&["knows nothing of the rows", "the SQL has no place", "--accept-state-loss"]);
    assert!(other.out.contains("tumble window by"), "it is called by its name: {}", other.out);
    let json = project.run(&["plan", "--select", "per_minute", "--json"]).exits(0).json();
    let parts = json[0]["parts"].as_array().expect("parts");
    let fates: Vec<_> = parts.iter().map(|part| part["fate"].as_str().expect("a word")).collect();
    assert!(fates.contains(&"empty") && fates.contains(&"lost"), "{json}");
    let refused = [&["up"], &only[..]].concat();
    project.run(&refused).exits(2).says(&["F0903", "tumble window by", "freshet plan"]);
    // Nothing was taken over: the statement of before goes on from where it was.
    let said = project.run(&["plan", "--select", "per_minute"]).exits(0);
    assert_eq!(said.out.matches("lost").count(), other.out.matches("lost").count());

    push(&project, 100..300);
    let child = up(&project, &[&only[..], &["--accept-state-loss"]].concat());
    awaits(&project, "select count(*) > 3 from per_minute", "true");
    interrupt(&project, child);
    let after = project.run(&["plan", "--select", "per_minute"]).exits(0);
    assert!(after.out.contains("kept") && !after.out.contains("lost"), "{}", after.out);
}

#[test]
fn what_comes_through_a_pipe_is_pushed_as_it_comes() {
    use std::io::Write;
    let project = project();
    let mut command = freshet(&["ingest", "shop.orders"]);
    command.current_dir(&project.dir).stdin(std::process::Stdio::piped());
    let mut ingest = command.stdout(std::process::Stdio::null()).spawn().expect("it starts");
    let mut pipe = ingest.stdin.take().expect("it is piped");
    pipe.write_all(orders(0..3).as_bytes()).expect("it reads");
    // The pipe stays open: nobody says that this is all.
    let child = up(&project, &["--select", "every_order", "--http", "none"]);
    awaits(&project, "select count(*) from every_order", "3");
    pipe.write_all(orders(4..6).as_bytes()).expect("it reads");
    awaits(&project, "select count(*) from every_order", "5");
    drop(pipe);
    assert!(ingest.wait().expect("it ends").success());
    interrupt(&project, child);
}
