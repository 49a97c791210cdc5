//! A shop whose nights are run by the real binary, on a local disk or in a bucket: its files, what
//! readers see of it, and what they are to see, reckoned here and not by what is tested.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use chrono::{Days, NaiveDate};
use freshet_core::clock::{Clock, SystemClock};
use freshet_engine::{Engine, store};
use freshet_project::{LoadOptions, Project};
use freshet_testkit::kill::{Ended, When, run_and_kill};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio_postgres::NoTls;
use tokio_postgres::config::Host;

/// Where a shop keeps its files and its lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the project's folder; with a warehouse and an export.
    Disk,
    /// In a bucket, without either.
    Bucket,
}

/// Good records of a file; there is a bad one beside them.
const GOOD: u32 = 3;
/// Files of a night.
const FILES: u32 = 2;

/// What readers see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The rows of each table.
    pub tables: BTreeMap<&'static str, Vec<String>>,
    /// Dead letters.
    pub letters: u64,
    /// The rows of each table of the warehouse, and of the export.
    pub outside: BTreeMap<&'static str, Vec<String>>,
}

/// A shop.
pub struct Shop {
    dir: TempDir,
    place: Place,
    bucket: Option<Arc<dyn ObjectStore>>,
    /// Also the name of its schema in the warehouse.
    name: String,
    nights: u32,
    /// Whether files were read by more than one build that counts.
    pub refreshed: bool,
}

impl Shop {
    /// A new one, before its first night.
    pub fn new(place: Place) -> Self {
        let name = format!("kills_{}", uuid::Uuid::new_v4().simple());
        let dir = tempfile::tempdir().expect("a folder for the test");
        let write = |path: &str, text: String| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("it has a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        let (environment, data, load, export, bucket) = match place {
            Place::Disk => {
                let postgres = json!({ "postgres": warehouse(&name) });
                query_warehouse(&format!("create schema {name}"));
                (
                    format!("    warehouse: postgres\n    connections: {postgres}\n"),
                    "path: \"data/sales_{date:%Y%m%d}.csv\", format: csv }".to_owned(),
                    ", load={}",
                    ", export={'path': 'out', 'format': 'csv'}",
                    None,
                )
            }
            Place::Bucket => {
                let root = format!("s3://freshet-test/{name}");
                let mut lake = s3();
                let (bucket, _) = store::open(&root, &lake).expect("the server is there");
                lake.insert("connector".into(), json!("s3"));
                let connections = json!({ "lake": lake });
                (
                    format!(
                        "    lake: {root}/lake\n    connection: lake\n    connections: {connections}\n"
                    ),
                    format!(
                        "path: \"{root}/data/sales_{{date:%Y%m%d}}.csv\", format: csv }}\n        \
                         connection: lake"
                    ),
                    "",
                    "",
                    Some(bucket),
                )
            }
        };
        write(
            "freshet.yml",
            format!("name: till\nenvironments:\n  dev:\n    memory_limit: 128MiB\n{environment}"),
        );
        write(
            "sources/pos.yml",
            format!(
                r#"sources:
  - name: pos
    tables:
      - name: sales
        connector: files
        with: {{ {data}
        max_bad: 60%
        columns:
          - {{ name: id, data_type: bigint, constraints: [{{ type: not_null }}] }}
          - {{ name: store, data_type: int }}
          - {{ name: day, data_type: date }}
"#
            ),
        );
        write(
            "models/appended.sql",
            format!(
                "{{{{ config(materialized='incremental', event_time='day'{load}{export}) }}}}\n\
                 select id, store, day from {{{{ source('pos', 'sales') }}}}\n"
            ),
        );
        if place == Place::Disk {
            // Each request to a bucket costs its time: there it is two models.
            write(
                "models/merged.sql",
                "{{ config(materialized='incremental', unique_key='key') }}\n\
                 select id % 7 as key, max(id) as id from {{ source('pos', 'sales') }} group by 1\n"
                    .to_owned(),
            );
        }
        write(
            "models/daily.sql",
            format!(
                "{{{{ config(materialized='incremental', incremental_strategy='microbatch', \
                 event_time='day', batch_size='month', begin='2026-01-01'{load}) }}}}\n\
                 select day, count(*) as n from {{{{ ref('appended') }}}} group by 1\n"
            ),
        );
        Self { dir, place, bucket, name, nights: 0, refreshed: false }
    }

    /// A file as the lake names those that it still writes.
    pub fn temporary(&self, name: &str) -> PathBuf {
        let folder = self.dir.path().join(".freshet/dev/lake/main/appended");
        let path = folder.join(format!(".freshet-tmp-{name}"));
        fs::write(&path, "half").expect("the table has a folder");
        path
    }

    /// The nights so far.
    pub fn nights(&self) -> u32 {
        self.nights
    }

    /// The files of one more night.
    pub fn night(&mut self) {
        self.nights += 1;
        for file in days(self.nights).skip(((self.nights - 1) * FILES) as usize) {
            let mut text = "id,store,day\n".to_owned();
            for (id, store, day) in records(file) {
                text += &format!("{id},{store},{day}\n");
            }
            text += &format!("9,no store,{}\n", date(file));
            let name = format!("data/sales_{}.csv", date(file).format("%Y%m%d"));
            match &self.bucket {
                Some(bucket) => {
                    runtime()
                        .block_on(bucket.put(&name.into(), text.into()))
                        .expect("the server takes it");
                }
                None => {
                    fs::create_dir_all(self.dir.path().join("data")).expect("made");
                    fs::write(self.dir.path().join(name), text).expect("written");
                }
            }
        }
    }

    /// Runs the binary.
    pub fn run(&self, arguments: &[&str], when: &When) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_freshet"));
        command.arg("-C").arg(self.dir.path()).arg("run").args(arguments).env("NO_COLOR", "1");
        run_and_kill(command, when).expect("the binary starts")
    }

    /// What readers see now.
    pub fn seen(&self) -> Seen {
        let engine = self.engine();
        let mut seen = runtime().block_on(async {
            let mut tables = BTreeMap::new();
            for (table, query) in [
                ("appended", "select id, store, day from appended"),
                ("daily", "select day, n from daily"),
                ("merged", "select key, id from merged"),
            ] {
                if table == "merged" && self.place == Place::Bucket {
                    continue;
                }
                tables.insert(table, rows(&engine, query).await);
            }
            let what = if self.refreshed { "distinct model || id" } else { "*" };
            let letters = format!("select count({what}) from freshet.dead_letters");
            let letters = rows(&engine, &letters).await[0].parse().expect("a number");
            Seen { tables, letters, outside: BTreeMap::new() }
        });
        if self.place == Place::Disk {
            seen.outside = self.outside();
        }
        seen
    }

    /// Records, good records and dead letters of all builds that count, together; nothing where
    /// files were read more than once.
    pub fn counts(&self) -> Option<[u64; 3]> {
        let engine = self.engine();
        let intents = runtime().block_on(engine.intents()).expect("intents can be read");
        let edges = intents.iter().filter_map(|one| one.report.edges.get("decode:pos.sales"));
        let sum = edges.fold([0; 3], |[records, good, dead], edge| {
            [records + edge.rows_in, good + edge.rows_out, dead + edge.dead]
        });
        (!self.refreshed).then_some(sum)
    }

    /// The models that read each file.
    fn readers(&self) -> u64 {
        match self.place {
            Place::Disk => 2,
            Place::Bucket => 1,
        }
    }

    /// What [`Shop::counts`] are to be.
    pub fn expected_counts(&self) -> Option<[u64; 3]> {
        let files = self.readers() * u64::from(self.nights * FILES);
        let counts = [files * u64::from(GOOD + 1), files * u64::from(GOOD), files];
        (!self.refreshed).then_some(counts)
    }

    fn engine(&self) -> Engine {
        let project = Project::load(
            self.dir.path(),
            &LoadOptions {
                environment: None,
                vars: Map::new(),
                env: &|_| None,
                validate_connector: None,
                validate_sink: None,
                now: Some(SystemClock.now()),
                invocation_id: None,
            },
        )
        .expect("the project is right");
        let registry = freshet_connectors::registry();
        Engine::open(Arc::new(project), registry, Arc::new(SystemClock)).expect("it opens")
    }

    fn outside(&self) -> BTreeMap<&'static str, Vec<String>> {
        let name = &self.name;
        let table = |table: &str, columns: &str| {
            let exists = format!("select to_regclass('{name}.{table}') is not null");
            match query_warehouse(&exists)[0].as_str() {
                "t" => query_warehouse(&format!("select {columns} from {name}.{table}")),
                _ => Vec::new(),
            }
        };
        let mut exported: Vec<String> = csv_files(&self.dir.path().join("out"))
            .flat_map(|text| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>())
            .collect();
        exported.sort();
        BTreeMap::from([
            ("appended", table("appended", "id || ',' || store || ',' || day")),
            ("daily", table("daily", "day || ',' || n")),
            ("export", exported),
        ])
    }

    /// What readers are to see after all runs of the first `nights` nights.
    pub fn expected(&self, nights: u32) -> Seen {
        let mut appended = Vec::new();
        let mut merged = BTreeMap::<u32, u32>::new();
        let mut daily = BTreeMap::<NaiveDate, u32>::new();
        for (id, store, day) in days(nights).flat_map(records) {
            appended.push(format!("{id},{store},{day}"));
            let largest = merged.entry(id % 7).or_default();
            *largest = id.max(*largest);
            *daily.entry(day).or_default() += 1;
        }
        appended.sort();
        let mut merged: Vec<_> = merged.iter().map(|(key, id)| format!("{key},{id}")).collect();
        merged.sort();
        let daily: Vec<_> = daily.iter().map(|(day, n)| format!("{day},{n}")).collect();
        let files = u64::from(nights * FILES);
        let mut outside = BTreeMap::new();
        if self.place == Place::Disk {
            outside.insert("appended", appended.clone());
            outside.insert("daily", daily.clone());
            outside.insert("export", appended.clone());
        }
        let mut tables = BTreeMap::from([("appended", appended), ("daily", daily)]);
        if self.place == Place::Disk {
            tables.insert("merged", merged);
        }
        Seen { tables, letters: self.readers() * files, outside }
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if self.place == Place::Disk {
            query_warehouse(&format!("drop schema {} cascade", self.name));
        }
    }
}

/// The files of the first nights, counted from 1.
fn days(nights: u32) -> impl Iterator<Item = u32> {
    1..=nights * FILES
}

fn date(file: u32) -> NaiveDate {
    let first = NaiveDate::from_ymd_opt(2026, 1, 1).expect("a date");
    first.checked_add_days(Days::new(file.into())).expect("a date")
}

/// The good records of a file; one is of the day before.
fn records(file: u32) -> impl Iterator<Item = (u32, u32, NaiveDate)> {
    (1..=GOOD).map(move |row| (file * 10 + row, row % 2, date(file - u32::from(row == GOOD))))
}

/// The rows of a query, sorted; none where a table is not there yet.
async fn rows(engine: &Engine, query: &str) -> Vec<String> {
    let stream = match engine.query(query, None).await {
        Ok(stream) => stream,
        Err(error) if error.chain().to_string().contains("does not exist") => return Vec::new(),
        Err(error) => panic!("{query}: {}", error.chain()),
    };
    let batches: Vec<_> = stream.try_collect().await.expect("what is published can be read");
    let mut writer = arrow::csv::WriterBuilder::new().with_header(false).build(Vec::new());
    for batch in &batches {
        writer.write(batch).expect("rows can be printed");
    }
    let text = String::from_utf8(writer.into_inner()).expect("CSV is text");
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn csv_files(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "csv"))
        .map(|path| fs::read_to_string(path).expect("an export can be read"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a thread")
}

fn s3() -> Map<String, Value> {
    let endpoint = std::env::var("FRESHET_TEST_S3")
        .expect("FRESHET_TEST_S3 is the address of an S3 server: `cargo xtask test` starts one");
    let options = json!({
        "endpoint": endpoint,
        "path_style": true,
        "access_key_id": "test",
        "secret_access_key": "test",
        "region": "us-east-1",
    });
    options.as_object().expect("an object").clone()
}

fn server() -> tokio_postgres::Config {
    std::env::var("FRESHET_TEST_POSTGRES")
        .expect("FRESHET_TEST_POSTGRES names a server: `cargo xtask test` starts one")
        .parse()
        .expect("FRESHET_TEST_POSTGRES is a connection string")
}

/// The connection of a project to a schema of the server.
fn warehouse(schema: &str) -> Value {
    let server = server();
    let Host::Tcp(host) = &server.get_hosts()[0] else { panic!("the server has an address") };
    let password = server.get_password().map(|text| String::from_utf8_lossy(text).into_owned());
    json!({
        "connector": "postgres",
        "host": host,
        "port": server.get_ports()[0],
        "user": server.get_user(),
        "password": password,
        "database": server.get_dbname(),
        "schema": schema,
    })
}

/// The first column of each row, sorted.
fn query_warehouse(query: &str) -> Vec<String> {
    runtime().block_on(async {
        let (client, connection) = server().connect(NoTls).await.expect("the server answers");
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(query).await.expect("the query runs");
        drop(client);
        connection.await.expect("no panic").expect("the connection ends well");
        let mut rows: Vec<String> = messages
            .iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some(row.get(0).unwrap_or("").to_owned())
                }
                _ => None,
            })
            .collect();
        rows.sort();
        rows
    })
}
