//! `examples/daily_sales` as it lies, on data whose truth the generator wrote down: every dead letter
//! line for line, the result to the cent, the late file, the missing one, the warehouse, a replay.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use freshet_testkit::golden;
use serde_json::Value;
use tempfile::TempDir;
use tokio_postgres::NoTls;
use tokio_postgres::config::Host;

const LATE: &str = "sales_20261019.csv";

/// The example with a small month of data, and a database of its own.
struct Example {
    dir: TempDir,
    database: String,
}

impl Example {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let from = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
            .join("../../examples/daily_sales");
        for part in ["freshet.yml", "models", "seeds", "sources", "tests"] {
            copy(&from.join(part), &dir.path().join(part));
        }
        let database = format!("example_{}", uuid::Uuid::new_v4().simple());
        query_server("postgres", &format!("create database {database}"));
        let example = Self { dir, database };
        let data = example.path("data").display().to_string();
        let options = ["--stores=5", "--days=31", "--rows=4000", "--dirty=0.01", "--seed=7"];
        example.freshet(&["generate", "pos"], &[&options[..], &[&data]].concat(), 0);
        example
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a command prints; it must end with `code`.
    fn freshet(&self, command: &[&str], arguments: &[&str], code: i32) -> String {
        let server = server();
        let Host::Tcp(host) = &server.get_hosts()[0] else { panic!("the server has an address") };
        let password = server.get_password().unwrap_or_default();
        let output = Command::new(env!("CARGO_BIN_EXE_freshet"))
            .args(command)
            .args(arguments)
            .current_dir(self.dir.path())
            .env("NO_COLOR", "1")
            .env("PGHOST", host)
            .env("PGPORT", server.get_ports()[0].to_string())
            .env("PGUSER", server.get_user().unwrap_or_default())
            .env("PGPASSWORD", String::from_utf8_lossy(password).as_ref())
            .env("PGDATABASE", &self.database)
            .env("FRESHET_ENV", "warehouse")
            .output()
            .expect("the binary starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints UTF-8");
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{command:?} {arguments:?}\n{out}\n{err}");
        out
    }

    /// The rows of a query.
    fn sql(&self, query: &str) -> Vec<String> {
        let out = self.freshet(&["sql", "--format", "csv"], &[query], 0);
        out.lines().skip(1).map(str::to_owned).collect()
    }

    /// A task of the last run, as it is kept.
    fn task(&self, model: &str) -> Value {
        let run = self.freshet(&["runs", "show", "latest", "--json"], &[], 0);
        let run: Value = serde_json::from_str(&run).expect("JSON");
        let tasks = run["tasks"].as_array().expect("a list");
        tasks.iter().find(|task| task["model"] == model).expect("it was built").clone()
    }

    /// The files that the last run missed.
    fn missing(&self) -> Vec<String> {
        let task = self.task("stg_sales");
        let missing = task["build"]["missing"].as_array().expect("a list");
        missing.iter().map(|one| one["expected"].as_str().expect("a name").to_owned()).collect()
    }

    fn daily_sales(&self) -> Vec<String> {
        self.sql(
            "select sale_date, store_id, transactions, items, revenue from daily_sales order by 1, 2",
        )
    }

    /// The same in the warehouse.
    fn warehouse(&self) -> Vec<String> {
        query_server(
            &self.database,
            "select concat_ws(',', sale_date, store_id, transactions, items, revenue) \
             from daily_sales order by sale_date, store_id",
        )
    }

    /// The same as the generator knows it.
    fn truth(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path("data").join(name)).expect("it was generated");
        text.lines().skip(1).map(str::to_owned).collect()
    }

    /// The same in all three places.
    fn assert_daily_sales(&self, truth: &str) {
        assert_eq!(self.daily_sales(), self.truth(truth));
        assert_eq!(self.warehouse(), self.truth(truth));
    }

    fn dead_letters(&self) -> Vec<String> {
        self.sql(
            "select file, line, \"offset\", rule, \"column\", raw from freshet.dead_letters \
             order by file, line",
        )
    }

    /// What is wrong in the files, where `counts` says that they count.
    fn true_dead_letters(&self, counts: impl Fn(&str) -> bool) -> Vec<String> {
        let text = fs::read_to_string(self.path("data/truth.jsonl")).expect("it was generated");
        let mut letters: Vec<(String, u64, String)> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
            .filter(|one| one["rule"].is_string())
            .map(|one| {
                let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
                let raw = match one["raw"].as_str() {
                    Some(raw) => raw.bytes().map(|byte| format!("{byte:02x}")).collect(),
                    None => text("raw_hex"),
                };
                let line = one["line"].as_u64().expect("a line");
                let rest = format!("{},{},{},{raw}", one["offset"], text("rule"), text("column"));
                (text("file"), line, rest)
            })
            .filter(|(file, ..)| counts(file))
            .collect();
        letters.sort();
        letters.iter().map(|(file, line, rest)| format!("data/{file},{line},{rest}")).collect()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        query_server("postgres", &format!("drop database {} with (force)", self.database));
    }
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("made");
        for entry in fs::read_dir(from).expect("listed") {
            let entry = entry.expect("listed");
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).expect("copied");
    }
}

fn server() -> tokio_postgres::Config {
    std::env::var("FRESHET_TEST_POSTGRES")
        .expect("FRESHET_TEST_POSTGRES names a server: `cargo xtask test` starts one")
        .parse()
        .expect("FRESHET_TEST_POSTGRES is a connection string")
}

/// The first column of each row.
fn query_server(database: &str, query: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a thread").block_on(async {
        let mut server = server();
        let (client, connection) =
            server.dbname(database).connect(NoTls).await.expect("the server answers");
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(query).await.expect("the query runs");
        drop(client);
        connection.await.expect("no panic").expect("the connection ends well");
        messages
            .iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some(row.get(0).unwrap_or("").to_owned())
                }
                _ => None,
            })
            .collect()
    })
}

/// The days of which two results say something different.
fn days_that_differ(one: &[String], other: &[String]) -> Vec<String> {
    let (one, other): (BTreeSet<_>, BTreeSet<_>) = (one.iter().collect(), other.iter().collect());
    let days: BTreeSet<_> =
        one.symmetric_difference(&other).filter_map(|row| row.split(',').next()).collect();
    days.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_example_gives_the_truth_night_after_night() {
    let example = Example::new();

    // The month without its late file. A file is empty and two are missing: the run is partial.
    example.freshet(&["run"], &[], 3);
    assert_eq!(example.missing(), ["data/sales_20261019.csv", "data/sales_20261025.csv"]);
    example.assert_daily_sales("truth_daily_sales.csv");
    let letters = example.dead_letters();
    assert_eq!(letters, example.true_dead_letters(|file| file != LATE));
    assert!(letters.len() > 30, "{} dead letters", letters.len());
    let folder = Path::new(&std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"))
        .join("tests/golden/daily_sales");
    golden::check(folder.join("daily_sales.csv"), &(example.daily_sales().join("\n") + "\n"));
    golden::check(folder.join("dead_letters.csv"), &(letters.join("\n") + "\n"));

    // A night without anything new changes nothing.
    example.freshet(&["run"], &[], 3);
    example.assert_daily_sales("truth_daily_sales.csv");
    assert_eq!(example.dead_letters(), letters);

    // The late file comes: the days that it touches are computed again, and no other.
    fs::copy(example.path("data/late").join(LATE), example.path("data").join(LATE))
        .expect("it comes late");
    example.freshet(&["run"], &[], 3);
    let task = example.task("daily_sales");
    let batches = task["build"]["batches"].as_array().expect("a list");
    let batches: Vec<_> =
        batches.iter().map(|one| one["start"].as_str().expect("a time")[..10].to_owned()).collect();
    let touched = days_that_differ(
        &example.truth("truth_daily_sales.csv"),
        &example.truth("truth_daily_sales_with_late.csv"),
    );
    assert_eq!(batches, touched);
    assert!(touched.len() == 2, "the file's own day and the one before: {touched:?}");
    assert_eq!(example.missing(), ["data/sales_20261025.csv"]);
    example.assert_daily_sales("truth_daily_sales_with_late.csv");
    assert_eq!(example.dead_letters(), example.true_dead_letters(|_| true));

    // Everything from the start gives the same.
    example.freshet(&["run", "--full-refresh"], &[], 3);
    example.assert_daily_sales("truth_daily_sales_with_late.csv");
}

#[test]
fn a_replayed_dead_letter_of_the_example_arrives_once() {
    let example = Example::new();
    example.freshet(&["run"], &[], 3);
    let before = example.daily_sales();
    let found = example.sql(
        "select id, cast(raw as text) as record from freshet.dead_letters \
         where rule = 'constraint' and \"column\" = 'amount' and file = 'data/sales_20261006.csv' \
         order by id limit 1",
    );
    let [found] = found.as_slice() else { panic!("there is one: {found:?}") };
    let (id, _) = found.split_once(',').expect("two columns");
    let record = "99000001,3,2026-10-06,2026-10-06 13:58:52,\"Bread\",1,2.89,voucher";
    let arrived =
        || example.sql("select store_id, amount from stg_sales where transaction_id = 99000001");
    assert_eq!(arrived(), [""; 0]);

    let replay = ["--id", id, "--record", record];
    example.freshet(&["dlq", "replay"], &replay, 3);
    assert_eq!(arrived(), ["3,2.89"]);
    let after = example.daily_sales();
    assert_eq!(days_that_differ(&before, &after), ["2026-10-06"]);
    assert_eq!(example.warehouse(), after);

    // Kept already: there is nothing to run for.
    example.freshet(&["dlq", "replay"], &replay, 0);
    for again in [&["run"][..], &["run", "--full-refresh"]] {
        example.freshet(again, &[], 3);
        assert_eq!(arrived(), ["3,2.89"], "after {again:?}");
        assert_eq!(example.daily_sales(), after, "after {again:?}");
        assert_eq!(example.warehouse(), after, "after {again:?}");
    }
}
