//! Projects and builders for the tests of this crate.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use chrono::{DateTime, TimeZone, Utc};
use freshet_core::config::ByteSize;
use freshet_core::contract::{SchemaChange, SchemaDiff};
use freshet_core::source::{ContentDigest, Interval, Split, SplitStatus};
use freshet_core::{EdgeCounts, Error, ErrorKind, ModelId, OperatorCounts, Result, SourceId};
use freshet_engine::{
    BuildObserver, BuildReport, BuildTask, CheckReport, CheckStatus, ConsumedSplit, ErrorReport,
    FileReport, MissingFile, ModelProgress,
};
use freshet_project::{Environment, Materialized, Node, NodeConfig, NodeKind, Project, Templates};
use parking_lot::Mutex;

use crate::builder::{BuildFailure, Builder, IntentRecord, RecoveredIntent};
use crate::{RunEvent, RunObserver};

/// A project of tables; a name that starts with `v_` is a view, with `e_` ephemeral.
pub(crate) fn project(state_dir: &Path, nodes: &[(&str, &[&str])]) -> Project {
    Project {
        dir: state_dir.to_owned(),
        name: "shop".into(),
        environment: Environment {
            name: "dev".into(),
            lake: state_dir.join("lake").display().to_string(),
            lake_connection: None,
            state_dir: state_dir.to_owned(),
            memory_limit: ByteSize::mib(64),
            keep_runs: None,
            http: freshet_core::http::HttpOptions::default(),
            threads: Some(2),
            schema: "main".into(),
            warehouse: None,
            connections: BTreeMap::new(),
            vars: serde_json::Map::new(),
        },
        nodes: nodes.iter().map(|(id, refs)| (ModelId::from(*id), node(id, refs))).collect(),
        sources: indexmap::IndexMap::new(),
        checks: Vec::new(),
        unit_tests: Vec::new(),
        sql_macros: Vec::new(),
        demo_data: None,
        warnings: Vec::new(),
        templates: Arc::new(Templates::default()),
    }
}

fn node(id: &str, refs: &[&str]) -> Node {
    let materialized = match id.get(..2) {
        Some("v_") => Materialized::View,
        Some("e_") => Materialized::Ephemeral,
        _ => Materialized::Table,
    };
    Node {
        id: id.into(),
        kind: NodeKind::Model,
        path: format!("models/{id}.sql").into(),
        raw: String::new(),
        description: String::new(),
        config: NodeConfig { materialized, ..NodeConfig::default() },
        columns: Vec::new(),
        refs: refs.iter().map(|name| ModelId::from(*name)).collect(),
        sources: Vec::new(),
        checksum: format!("checksum of {id}"),
    }
}

pub(crate) fn at(second: u32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 9, 20, 1, 2, second).single().expect("a time that exists")
}

/// A build that published nothing and read nothing.
pub(crate) fn empty_build(model: &str) -> BuildReport {
    BuildReport::of(model.into(), "table")
}

/// A build that published `rows` rows as number `number`, with the ledger moved on.
pub(crate) fn published(model: &str, number: u64, rows: u64) -> BuildReport {
    BuildReport {
        version: Some(number - 1),
        number: Some(number),
        rows_written: rows,
        rows_total: Some(rows),
        progress: progress(number, usize::try_from(number).expect("small")),
        ..empty_build(model)
    }
}

/// A ledger of `files` files.
pub(crate) fn progress(number: u64, files: usize) -> ModelProgress {
    let splits = (0..files).map(|file| {
        let id = format!("data/sales_{file:05}.csv");
        let day = chrono::NaiveDate::from_ymd_opt(2026, 9, 1).expect("a day")
            + chrono::Days::new(file as u64);
        let start = day.and_time(chrono::NaiveTime::MIN);
        let split = Split {
            id: id.clone(),
            size: (file % 2 == 0).then_some(1_000 + file as u64),
            version: format!("v{file}"),
            modified: Some(at(3)),
            captured: BTreeMap::from([("date".to_owned(), day.to_string())]),
            interval: Some(Interval { start, end: start + chrono::TimeDelta::days(1) }),
        };
        let digest = (file % 3 == 0).then(|| ContentDigest(format!("{file:032x}")));
        (id, ConsumedSplit { split, digest, corrections: file as u64, empty: file == 3 })
    });
    ModelProgress {
        number,
        consumed: BTreeMap::from([(SourceId::of("pos", "sales"), splits.collect())]),
        inputs: BTreeMap::from([(ModelId::from("stores"), number + 3)]),
    }
}

/// A build with something in every field.
pub(crate) fn full_build(model: &str) -> BuildReport {
    let error = ErrorReport {
        code: "F0203".into(),
        kind: ErrorKind::Data,
        message: "too many bad records".into(),
        hint: Some("mend it".into()),
        location: Some("sources/pos.yml:3:1".into()),
        retryable: false,
    };
    let start = at(0).naive_utc();
    let interval = Interval { start, end: start + chrono::TimeDelta::days(1) };
    let source = SourceId::of("pos", "sales");
    let file = |name: &str, status, error| FileReport {
        source: source.clone(),
        file: name.into(),
        status,
        records: 12,
        good: 10,
        dead: 2,
        bytes: 900,
        error,
    };
    let edge = EdgeCounts { rows_in: 12, rows_out: 9, dead: 2, filtered: 1 };
    BuildReport {
        incremental: true,
        bytes_read: 1_800,
        batches: vec![interval],
        edges: BTreeMap::from([("decode:pos.sales".into(), edge), ("store".into(), edge)]),
        operators: vec![OperatorCounts {
            operator: "FilterExec#3".into(),
            rows_in: 9,
            rows_out: 8,
            filtered: 1,
            ..OperatorCounts::default()
        }],
        files: vec![
            file("b.csv", SplitStatus::Read, None),
            file("a.csv", SplitStatus::SetAside, Some(error)),
        ],
        missing: vec![MissingFile { source: source.clone(), interval, expected: "c.csv".into() }],
        schema_diffs: vec![
            SchemaDiff { file: Some("b.csv".into()), changes: vec![SchemaChange::Reordered] },
            SchemaDiff {
                file: None,
                changes: vec![SchemaChange::Added {
                    column: "till".into(),
                    data_type: "text".into(),
                }],
            },
        ],
        dead_letters: BTreeMap::from([(
            "pos.sales".into(),
            BTreeMap::from([("type".into(), 1), ("quote".into(), 1)]),
        )]),
        checks: vec![CheckReport {
            name: "not_null_stg_id".into(),
            rule: "not_null".into(),
            status: CheckStatus::Warn,
            failures: 1,
            rows: 9,
            value: Some(0.5),
            message: "1 row of 9".into(),
            sample: vec![vec![("id".into(), None), ("amount".into(), Some("3".into()))]],
        }],
        warnings: vec!["something odd".into()],
        staged: Some("main/stg/_staged/7".into()),
        seconds: BTreeMap::from([("execute".into(), 0.25)]),
        ..published(model, 2, 9)
    }
}

/// Keeps what it is told.
#[derive(Debug, Default)]
pub(crate) struct Recorder(pub Mutex<Vec<RunEvent>>);

impl RunObserver for Recorder {
    fn on_event(&self, event: RunEvent) {
        self.0.lock().push(event);
    }
}

type Script = dyn Fn(BuildTask, Arc<dyn BuildObserver>) -> futures::future::BoxFuture<'static, Outcome>
    + Send
    + Sync;
pub(crate) type Outcome = Result<BuildReport, BuildFailure>;

/// Builds as a function says.
pub(crate) struct Scripted {
    script: Box<Script>,
    pub tasks: Mutex<Vec<BuildTask>>,
    pub recovered: Mutex<Vec<RecoveredIntent>>,
    /// Makes the next recovery fail.
    pub unrecoverable: Mutex<Option<Error>>,
    pub intents: Mutex<Vec<IntentRecord>>,
    pub intents_read: AtomicUsize,
}

impl Scripted {
    pub(crate) fn new<F>(
        script: impl Fn(BuildTask, Arc<dyn BuildObserver>) -> F + Send + Sync + 'static,
    ) -> Arc<Self>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        Arc::new(Self {
            script: Box::new(move |task, observer| Box::pin(script(task, observer))),
            tasks: Mutex::default(),
            recovered: Mutex::default(),
            unrecoverable: Mutex::default(),
            intents: Mutex::default(),
            intents_read: AtomicUsize::new(0),
        })
    }

    /// Models in the order in which their attempts began.
    pub(crate) fn order(&self) -> Vec<String> {
        self.tasks.lock().iter().map(|task| task.model.to_string()).collect()
    }
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

#[async_trait]
impl Builder for Scripted {
    async fn recover(&self, _killed: bool) -> Result<Vec<RecoveredIntent>> {
        match self.unrecoverable.lock().take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut self.recovered.lock())),
        }
    }

    async fn build(&self, task: &BuildTask, observer: Arc<dyn BuildObserver>) -> Outcome {
        self.tasks.lock().push(task.clone());
        (self.script)(task.clone(), observer).await
    }

    async fn intents(&self) -> Result<Vec<IntentRecord>> {
        self.intents_read.fetch_add(1, Ordering::SeqCst);
        Ok(self.intents.lock().clone())
    }
}
