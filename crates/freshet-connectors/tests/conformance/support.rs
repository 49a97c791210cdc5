//! Reading of files through the connector, with all that came of it as plain data.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow::util::display::array_value_to_string;
use freshet_connectors::registry;
use freshet_core::clock::ManualClock;
use freshet_core::config::{HumanDuration, Share};
use freshet_core::contract::ContractModes;
use freshet_core::error::{Error, Result};
use freshet_core::registry::{ConnectorContext, SourceSpec};
use freshet_core::source::{
    Extent, Overlay, Purpose, Scan, ScanReport, Source, SplitReport, SplitRequest, SplitStatus,
};
use freshet_core::{ColumnType, Contract, ContractColumn};
use futures::TryStreamExt;
use serde_json::{Map, Value, json};

/// 2027-01-01T00:00:00Z in microseconds.
pub const NOW: i64 = 1_798_761_600_000_000;

/// Columns of the test data: `id`, `day`, `amount`, `note`.
pub fn contract() -> Contract {
    let decimal = ColumnType::Decimal { precision: 10, scale: 2 };
    Contract {
        columns: vec![
            ContractColumn::new("id", ColumnType::Int64).not_null(),
            ContractColumn::new("day", ColumnType::Date),
            ContractColumn::new("amount", decimal),
            ContractColumn::new("note", ColumnType::Text),
        ],
        modes: ContractModes::default(),
        ..Contract::default()
    }
}

/// A source in a folder.
pub struct Reading<'a> {
    pub dir: &'a Path,
    pub options: Value,
    pub contract: Contract,
    pub max_bad: f64,
    pub settle: std::time::Duration,
    pub connection: Map<String, Value>,
    pub workers: usize,
    pub batch_rows: usize,
    pub columns: Option<Vec<&'a str>>,
    pub overlay: Overlay,
    pub extent: Extent,
}

/// What came of it.
pub struct Outcome {
    /// Rows as text, sorted.
    pub rows: Vec<String>,
    pub report: ScanReport,
    /// The error with which the workers' streams ended.
    pub error: Option<Error>,
    pub scan: Arc<dyn Scan>,
}

impl<'a> Reading<'a> {
    pub fn new(dir: &'a Path, path: &str) -> Self {
        Self {
            dir,
            options: json!({ "path": path }),
            contract: contract(),
            max_bad: 1.0,
            settle: std::time::Duration::ZERO,
            connection: Map::new(),
            workers: 1,
            batch_rows: 8192,
            columns: None,
            overlay: Overlay::default(),
            extent: Extent::Whole,
        }
    }

    pub fn with(mut self, option: &str, value: impl Into<Value>) -> Self {
        self.options[option] = value.into();
        self
    }

    pub fn source(&self) -> Result<Arc<dyn Source>> {
        let spec = SourceSpec {
            name: "test.sales".into(),
            contract: Arc::new(self.contract.clone()),
            max_bad: Share(self.max_bad),
            settle: HumanDuration(self.settle),
        };
        let context = ConnectorContext {
            project_dir: self.dir.to_owned(),
            connection: self.connection.clone(),
            clock: Arc::new(ManualClock::new(NOW)),
        };
        registry().get("files").unwrap().source(&self.options, spec, &context)
    }

    pub fn run(&self) -> Outcome {
        runtime().block_on(self.run_async()).unwrap()
    }

    pub async fn run_async(&self) -> Result<Outcome> {
        let source = self.source()?;
        let splits = source.splits().await?;
        let requests = splits
            .into_iter()
            .map(|split| SplitRequest { split, extent: self.extent.clone() })
            .collect();
        let scan = source.plan(requests, Arc::new(self.overlay.clone())).await?;
        let schema = scan.schema();
        let projection: Vec<usize> = match &self.columns {
            None => (0..schema.fields().len()).collect(),
            Some(names) => names.iter().map(|name| schema.index_of(name).unwrap()).collect(),
        };
        let running = scan.start(&projection, self.batch_rows, Purpose::Build)?;
        let tasks: Vec<_> = (0..self.workers)
            .map(|_| tokio::spawn(running.worker().try_collect::<Vec<RecordBatch>>()))
            .collect();
        let (mut rows, mut error) = (Vec::new(), None);
        for task in tasks {
            match task.await.unwrap() {
                Ok(batches) => {
                    if scan.is_in_order() {
                        assert_ascending(&batches);
                    }
                    rows.extend(batches.iter().flat_map(as_text));
                }
                Err(ended) => error = Some(ended),
            }
        }
        rows.sort();
        Ok(Outcome { rows, report: running.report(), error, scan })
    }
}

impl Outcome {
    /// The report of the only file.
    pub fn file(&self) -> &SplitReport {
        assert_eq!(self.report.splits.len(), 1);
        &self.report.splits[0]
    }

    /// Everything but what may differ between two ways to the same end, as one text.
    pub fn summary(&self) -> String {
        let mut text = self.rows.join("\n");
        for file in &self.report.splits {
            text.push_str(&format!(
                "\n{:?} {}={}+{}+{}",
                file.status,
                file.records,
                file.good,
                file.rejects.len(),
                file.dropped
            ));
            for reject in &file.rejects {
                text.push_str(&format!(
                    "\n{}:{} {} {:?} {} | {}",
                    reject.offset,
                    reject.line,
                    reject.rule,
                    reject.column,
                    reject.message,
                    String::from_utf8_lossy(&reject.raw)
                ));
            }
            if file.status == SplitStatus::Read {
                assert_eq!(
                    file.records,
                    file.good + file.dropped + file.rejects.len() as u64,
                    "every record is accounted for"
                );
            }
        }
        text
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The rows of one worker ascend by file and offset, where these are read.
fn assert_ascending(batches: &[RecordBatch]) {
    let mut last = None;
    for batch in batches {
        let column = |name| batch.column_by_name(name);
        let (Some(file), Some(offset)) = (column("_file"), column("_offset")) else { return };
        for row in 0..batch.num_rows() {
            let file = file.as_string_view().value(row).as_bytes().to_vec();
            let here = Some((file, offset.as_primitive::<Int64Type>().value(row)));
            assert!(last < here, "{last:?} stands before {here:?}");
            last = here;
        }
    }
}

fn as_text(batch: &RecordBatch) -> Vec<String> {
    (0..batch.num_rows())
        .map(|row| {
            let values: Vec<String> = batch
                .columns()
                .iter()
                .map(|column| array_value_to_string(column, row).unwrap())
                .collect();
            values.join("|")
        })
        .collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

pub fn utf16(bytes: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(bytes).unwrap();
    std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

/// Writes files below `dir`.
pub fn write(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}
