//! `freshet up` over HTTP: records that are pushed, metrics, and jobs that are watched and steered.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use freshet_testkit::seeds;
use serde_json::{Value, json};

use crate::support::{Project, freshet};

const SOURCE: &str = "sources:
  - name: shop
    tables:
      - name: orders
        connector: log
        with: { partitions: 2 }
        watermark: { for: at, delay: 0s, idle_after: 300ms }
        columns:
          - { name: id, data_type: bigint }
          - { name: city, data_type: text }
          - { name: at, data_type: timestamp }
";

const WAIT: Duration = Duration::from_secs(60);

fn project() -> Project {
    Project::files(&[
        ("freshet.yml", "name: shop\n"),
        ("sources/shop.yml", SOURCE),
        (
            "models/every_order.sql",
            "{{ config(materialized='stream') }}\n\
             select id, city from {{ source('shop', 'orders') }} where id % 5 <> 4\n",
        ),
        (
            "models/per_minute.sql",
            "{{ config(materialized='stream') }}\n\
             select city, window_start, count(*) as orders\n\
             from table(tumble(table {{ source('shop', 'orders') }}, descriptor(at),\n\
                               interval '1' minute))\n\
             group by city, window_start, window_end\n",
        ),
    ])
}

/// A `freshet up` that runs, and where it listens. Dropping it kills it.
struct Up {
    child: Child,
    address: SocketAddr,
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Up {
    fn start(project: &Project, more: &[&str]) -> Self {
        let mut args = vec!["up", "--checkpoint-interval", "20ms", "--commit-interval", "50ms"];
        args.extend(["--http", "127.0.0.1:0", "--threads", "2"]);
        args.extend(more);
        let mut command = freshet(&args);
        command.current_dir(&project.dir).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut all = String::new();
        let address = loop {
            let mut line = String::new();
            if said.read_line(&mut line).expect("it is text") == 0 {
                panic!("it ended: {all}");
            }
            if let Some(address) = line.trim().strip_prefix("listening at http://") {
                break address.parse().expect("an address");
            }
            all.push_str(&line);
        };
        // What else it says is read, so that it never waits for that.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self { child, address }
    }

    /// A request; nothing where the process is gone.
    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8(answer).expect("answers are text");
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().expect("a status");
        Some((status, body.to_owned()))
    }

    #[track_caller]
    fn push(&self, lines: &str) -> Value {
        let path = "/v1/ingest/shop.orders";
        let answer = self.ask("POST", path, "application/x-ndjson", lines.as_bytes());
        let (status, body) = answer.expect("it answers");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("an answer is JSON")
    }

    /// The values of all metrics of one job, added up by name.
    fn metrics(&self, job: &str) -> BTreeMap<String, f64> {
        let (status, text) = self.ask("GET", "/metrics", "text/plain", b"").expect("it answers");
        assert_eq!(status, 200, "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let mut sums = BTreeMap::new();
        let label = format!("job=\"{job}\"");
        for line in text.lines().filter(|line| !line.starts_with('#') && line.contains(&label)) {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("a name").to_owned();
            *sums.entry(name).or_insert(0.0) += value.parse::<f64>().expect("a number");
        }
        sums
    }

    fn interrupt(mut self) {
        let pid = self.child.id().to_string();
        let killed = std::process::Command::new("kill").args(["-INT", &pid]).status();
        assert!(killed.expect("kill runs").success());
        assert_eq!(self.child.wait().expect("it ends").code(), Some(0));
    }
}

fn order(id: u64, second: u64) -> String {
    let at = chrono::DateTime::from_timestamp(1_790_000_000 + second as i64, 0).expect("a time");
    let city = ["Berlin", "Lyon", "Rome"][id as usize % 3];
    let at = at.format("%Y-%m-%dT%H:%M:%S");
    format!("{{\"id\": {id}, \"city\": \"{city}\", \"at\": \"{at}\"}}\n")
}

/// Waits until `found` gives something.
#[track_caller]
fn awaits<T>(what: &str, mut found: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match found() {
            Ok(found) => return found,
            Err(why) => assert!(begun.elapsed() < WAIT, "{what}: {why}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[track_caller]
fn awaits_cell(project: &Project, sql: &str, expected: &str) {
    awaits(sql, || {
        let ran = project.run(&["sql", "--format", "csv", sql]);
        let found = ran.out.lines().nth(1).unwrap_or_default().to_owned();
        if found == expected {
            Ok(())
        } else {
            Err(format!("{found:?}, not {expected:?}: {}", ran.err))
        }
    });
}

#[test]
fn what_was_answered_is_there_after_the_process_was_killed() {
    let project = project();
    let mut rng = seeds::rng(11);
    let (mut next, mut answered) = (0_u64, BTreeSet::new());
    for _ in 0..6 {
        let up = Up::start(&project, &[]);
        let until = Duration::from_millis(rand::Rng::random_range(&mut rng, 50..600));
        let begun = Instant::now();
        // Several at once, each of which has an answer or none when the process goes.
        let ids: Vec<u64> = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..4)
                .map(|sender| {
                    let up = &up;
                    scope.spawn(move || {
                        let mut mine = Vec::new();
                        for round in 0_u64.. {
                            let first = next + (round * 4 + sender) * 10;
                            let ids: Vec<u64> = (first..first + 10).collect();
                            let lines: String = ids.iter().map(|id| order(*id, *id)).collect();
                            let path = "/v1/ingest/shop.orders";
                            let answer =
                                up.ask("POST", path, "application/x-ndjson", lines.as_bytes());
                            match answer {
                                Some((200, _)) => mine.extend(ids),
                                Some((status, body)) => panic!("{status}: {body}"),
                                None => return mine,
                            }
                        }
                        mine
                    })
                })
                .collect();
            std::thread::sleep(until.saturating_sub(begun.elapsed()));
            let pid = up.child.id().to_string();
            let killed = std::process::Command::new("kill").args(["-KILL", &pid]).status();
            assert!(killed.expect("kill runs").success());
            senders.into_iter().flat_map(|sender| sender.join().expect("it ends")).collect()
        });
        next += 1_000_000;
        answered.extend(ids);
    }
    assert!(answered.len() > 100, "{}", answered.len());
    let up = Up::start(&project, &[]);
    let kept: BTreeSet<u64> = answered.into_iter().filter(|id| id % 5 != 4).collect();
    awaits("all that was answered", || {
        let ran = project.run(&["sql", "--format", "csv", "select id from every_order"]).exits(0);
        let ids: Vec<u64> =
            ran.out.lines().skip(1).map(|line| line.parse().expect("an id")).collect();
        let found: BTreeSet<u64> = ids.iter().copied().collect();
        assert_eq!(found.len(), ids.len(), "nothing is there twice");
        let missing = kept.difference(&found).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} of {} are missing", kept.len())) }
    });
    up.interrupt();
}

#[test]
fn metrics_account_for_every_record() {
    let project = project();
    let up = Up::start(&project, &[]);
    let mut lines = String::new();
    for id in 0..1000 {
        if id % 100 == 7 {
            lines.push_str("{\"id\": \"no number\"}\n");
        }
        lines.push_str(&order(id, id));
    }
    let told = up.push(&lines);
    assert_eq!((&told["accepted"], &told["rejected"]), (&json!(1000), &json!(10)));
    // Far behind the others: no window waits for them any more.
    awaits_cell(&project, "select count(*) > 0 from per_minute", "true");
    let late: String = (0..20).map(|id| order(5000 + id * 5, 0)).collect();
    up.push(&late);
    for partition in 0..2 {
        let _ = partition;
        up.push(&order(9999, 100_000));
    }
    let sum = |metrics: &BTreeMap<String, f64>, name: &str| {
        metrics.get(&format!("freshet_{name}")).copied().unwrap_or_default()
    };
    for job in ["dev/every_order", "dev/per_minute"] {
        let metrics = awaits("all records are read", || {
            let metrics = up.metrics(job);
            let read = sum(&metrics, "partition_records_total");
            if read == 1032.0 { Ok(metrics) } else { Err(format!("{read} were read")) }
        });
        assert_eq!(sum(&metrics, "partition_dead_letters_total"), 10.0);
        assert_eq!(sum(&metrics, "partition_lag_records"), 0.0);
        assert_eq!(sum(&metrics, "job_running_ratio"), 1.0);
    }
    let metrics = awaits("what was read is given", || {
        let metrics = up.metrics("dev/every_order");
        let given = |sink: &str| {
            let (_, text) = up.ask("GET", "/metrics", "text/plain", b"").expect("it answers");
            let wanted = ["freshet_sink_rows_total{", "job=\"dev/every_order\"", sink];
            text.lines()
                .filter(|line| wanted.iter().all(|part| line.contains(part)))
                .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
                .sum::<f64>()
        };
        let (rows, dead) = (given("sink=\"table\""), given("sink=\"dead letters 0\""));
        let filtered = sum(&metrics, "operator_filtered_rows_total");
        let late = sum(&metrics, "operator_late_rows_total");
        let read = sum(&metrics, "partition_records_total");
        match rows + dead + filtered + late == read {
            true => Ok(metrics),
            false => Err(format!("{read} != {rows} + {dead} + {filtered} + {late}")),
        }
    });
    assert_eq!(sum(&metrics, "operator_filtered_rows_total"), 202.0);
    let late = awaits("late rows are counted", || {
        let late = sum(&up.metrics("dev/per_minute"), "operator_late_rows_total");
        if late >= 20.0 { Ok(late) } else { Err(format!("{late}")) }
    });
    let counted = 1022.0 - late - 2.0;
    awaits_cell(&project, "select sum(orders) from per_minute", &format!("{counted}"));
    let metrics = up.metrics("dev/per_minute");
    assert!(sum(&metrics, "checkpoints_completed_total") > 0.0);
    assert!(sum(&metrics, "stage_busy_seconds_total") > 0.0);
    assert!(sum(&metrics, "stage_idle_seconds_total") > 0.0);
    up.interrupt();
}

#[test]
fn jobs_are_shown_and_steered() {
    let project = project();
    project.run(&["jobs"]).exits(0).says(&["no jobs"]);
    project.run(&["job", "show", "every_order"]).exits(2).says(&["runs or has a checkpoint"]);
    let up = Up::start(&project, &[]);
    up.push(&(0..100).map(|id| order(id, id)).collect::<String>());
    awaits_cell(&project, "select count(*) from every_order", "80");

    let listed = project.run(&["jobs"]).exits(0);
    let listed = listed.says(&["dev/every_order", "dev/per_minute", "running"]);
    assert!(!listed.out.contains("stopped"), "{}", listed.out);
    let shown = project.run(&["job", "show", "every_order"]).exits(0);
    shown.says(&["running", "source shop.orders", "sink table: 80 rows", "checkpoint"]);
    let figures = project.run(&["job", "show", "every_order", "--json"]).exits(0).json();
    assert_eq!(figures["stages"][0]["tasks"].as_array().map(Vec::len), Some(2));
    let generation = figures["generation"].as_u64();

    // Savepoints last, and a name is used once.
    project.run(&["job", "savepoint", "every_order", "before"]).exits(0).says(&["before is made"]);
    project.run(&["job", "savepoint", "every_order", "before"]).exits(2).says(&["already"]);
    project.run(&["job", "savepoint", "every_order", "../x"]).exits(2).says(&["cannot be called"]);
    project.run(&["job", "show", "every_order"]).exits(0).says(&["savepoints: before"]);

    // With more tasks, and less.
    for tasks in ["4", "1"] {
        project.run(&["job", "rescale", "every_order", tasks]).exits(0);
        let figures = project.run(&["job", "show", "every_order", "--json"]).exits(0).json();
        let count = figures["stages"][0]["tasks"].as_array().map(Vec::len);
        assert_eq!(count, tasks.parse().ok(), "{figures}");
        assert!(figures["generation"].as_u64() > generation);
        let before = project.cell("select count(*) from every_order");
        up.push(&order(1_000, 1_000));
        let after = before.parse::<u64>().expect("a count") + 1;
        awaits_cell(&project, "select count(*) from every_order", &after.to_string());
    }
    project.run(&["job", "rescale", "every_order", "0"]).exits(2).says(&["take 1 to"]);
    project.run(&["job", "rescale", "every_order", "129"]).exits(2).says(&["take 1 to"]);
    project.run(&["job", "rescale", "nothing", "2"]).exits(2).says(&["does not run"]);

    // Going back gives the sinks once more what came since: only where that is wanted.
    let restore = ["job", "restore", "every_order", "--from", "before"];
    project.run(&restore).exits(2).says(&["once more", "--allow-duplicates"]);
    assert_eq!(project.cell("select count(*) from every_order"), "82");
    let missing = ["job", "restore", "every_order", "--from", "nothing"];
    project.run(&missing).exits(2).says(&["no savepoint"]);
    let mut allowed = restore.to_vec();
    allowed.push("--allow-duplicates");
    project.run(&allowed).exits(0).says(&["goes on from savepoint before"]);
    awaits_cell(&project, "select count(*) from every_order", "84");
    awaits_cell(&project, "select count(distinct id) from every_order", "81");
    up.interrupt();

    // The checkpoints alone are enough to look, to keep and to go back.
    project.run(&["jobs"]).exits(0).says(&["dev/every_order", "stopped"]);
    project.run(&["job", "savepoint", "every_order", "end"]).exits(0);
    project.run(&["job", "show", "every_order"]).exits(0).says(&["savepoints: before, end"]);
    let end = ["job", "restore", "every_order", "--from", "end"];
    project.run(&end).exits(0).says(&["stands at savepoint end already"]);
    project.run(&restore).exits(2).says(&["once more"]);
    project.run(&["job", "rescale", "every_order", "2"]).exits(2).says(&["does not run"]);
    project.run(&["job", "savepoint", "every_order", "end", "--delete"]).exits(0);
    project.run(&["job", "savepoint", "every_order", "end", "--delete"]).exits(2);
    project.run(&allowed).exits(0);
    let up = Up::start(&project, &[]);
    awaits_cell(&project, "select count(*) from every_order", "86");
    up.interrupt();
}

#[test]
fn commands_find_the_process_that_runs() {
    let project = project();
    let up = Up::start(&project, &["--select", "every_order"]);
    // It writes the log: what is pushed by hand goes to it.
    up.push(&order(1, 1));
    project.write("more.ndjson", &format!("{}\n{}nothing\n", order(2, 2), order(3, 3)));
    let said = project.run(&["ingest", "shop.orders", "more.ndjson"]).exits(0);
    said.says(&["2 records accepted, 1 dead letters", "record 3: "]);
    project.run(&["ingest", "--strict", "shop.orders", "more.ndjson"]).exits(2).says(&["--strict"]);
    project.run(&["ingest", "shop.nothing", "more.ndjson"]).exits(2).says(&["no source"]);
    awaits_cell(&project, "select count(*) from every_order", "3");
    let (status, body) = up.ask("GET", "/healthz", "text/plain", b"").expect("it answers");
    assert_eq!((status, body.trim()), (200, r#"{"status":"ok"}"#));
    let (status, _) = up.ask("GET", "/v1/jobs/per_minute", "", b"").expect("it answers");
    assert_eq!(status, 404, "it was not selected");
    drop(up);
    // A process that was killed is known to be gone.
    project.run(&["jobs"]).exits(0).says(&["every_order", "stopped"]);
    project.run(&["ingest", "shop.orders", "more.ndjson"]).exits(0).says(&["2 records accepted"]);
    let notes = std::fs::read_dir(project.dir.join(".freshet/dev/up")).expect("a folder");
    assert_eq!(notes.count(), 0);
}

#[test]
fn wrong_addresses_are_refused_before_anything_runs() {
    let project = project();
    let refused = project.run(&["up", "--http", "0.0.0.0:7878"]).exits(2);
    refused.says(&["there is no access control yet", "127.0.0.1"]);
    project.run(&["up", "--http", "somewhere"]).exits(2).says(&["is not an address"]);
    project.write(
        "freshet.yml",
        "name: shop\nenvironments:\n  dev:\n    http: { listen: '127.0.0.1:0', max_records: 0 }\n",
    );
    project.run(&["check"]).exits(2).says(&["freshet.yml:4", "max_records"]);
    project.replace("freshet.yml", "max_records: 0", "max_recrods: 1");
    project.run(&["check"]).exits(2).says(&["max_records"]);
}
