//! Folders of this machine, and of a bucket.

use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};
use async_trait::async_trait;
use bytes::Bytes;
use freshet_connectors::registry;
use freshet_core::registry::ConnectorContext;
use freshet_core::stream::StreamSink;
use freshet_testkit::stream_sinks::{SinkUnderTest, conforms};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use super::{context, sink, spec, try_sink, variable};

struct Folder {
    temp: tempfile::TempDir,
    format: &'static str,
}

impl Folder {
    fn new(format: &'static str) -> Self {
        Self { temp: tempfile::tempdir().expect("a folder"), format }
    }
}

/// The files that a reader would take: those of the folder that are no record.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            let name = entry.file_name().into_string().expect("text");
            assert!(name.starts_with("part-"), "{name}");
            files.push((name, std::fs::read(entry.path()).expect("a file")));
        }
    }
    files
}

fn parquet_rows(bytes: Vec<u8>) -> Vec<String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).expect("parquet");
    let mut rows = Vec::new();
    for batch in reader.build().expect("a reader") {
        let batch = batch.expect("a batch");
        let ids = batch.column(0).as_primitive::<Int64Type>().clone();
        let values = arrow::compute::cast(batch.column(1), &DataType::Utf8).expect("text");
        let values = values.as_string::<i32>();
        rows.extend(
            (0..batch.num_rows()).map(|row| format!("{} {}", ids.value(row), values.value(row))),
        );
    }
    rows
}

#[async_trait]
impl SinkUnderTest for Folder {
    fn sink(&self) -> Arc<dyn StreamSink> {
        let path = self.temp.path().join("out");
        let options = json!({
            "path": path.to_str().expect("text"), "format": self.format, "file_bytes": 600,
        });
        sink("files", &options, &[])
    }

    async fn rows(&self, _: usize) -> Vec<String> {
        let mut rows = Vec::new();
        for (name, bytes) in files(&self.temp.path().join("out")) {
            if name.ends_with(".parquet") {
                rows.extend(parquet_rows(bytes));
                continue;
            }
            let text = String::from_utf8(bytes).expect("text");
            if name.ends_with(".csv") {
                let mut lines = text.lines();
                assert_eq!(lines.next(), Some("id,value"));
                rows.extend(lines.map(|line| line.replace(',', " ")));
                continue;
            }
            for line in text.lines() {
                let row: Value = serde_json::from_str(line).expect("JSON");
                rows.push(format!("{} {}", row["id"], row["value"].as_str().expect("text")));
            }
        }
        rows
    }
}

#[tokio::test]
async fn folders_of_parquet_conform() {
    conforms(async |_| Folder::new("parquet")).await;
}

#[tokio::test]
async fn folders_of_lines_conform() {
    conforms(async |_| Folder::new("ndjson")).await;
}

#[tokio::test]
async fn folders_of_csv_conform() {
    conforms(async |_| Folder::new("csv")).await;
}

/// A folder of a bucket.
struct Bucket {
    store: Arc<dyn ObjectStore>,
    connection: serde_json::Map<String, Value>,
    folder: String,
}

impl Bucket {
    fn new() -> Self {
        let connection = json!({
            "endpoint": variable("FRESHET_TEST_S3"), "access_key_id": "test",
            "secret_access_key": "test", "region": "us-east-1",
        });
        let connection = connection.as_object().expect("a mapping").clone();
        let store = freshet_connectors::files::s3::open("freshet-test", &connection);
        let temp = tempfile::tempdir().expect("a folder");
        let unique = temp.path().file_name().and_then(|name| name.to_str()).expect("a name");
        let folder = format!("sinks/{}", unique.trim_start_matches('.'));
        Self { store: store.expect("a bucket"), connection, folder }
    }
}

#[async_trait]
impl SinkUnderTest for Bucket {
    fn sink(&self) -> Arc<dyn StreamSink> {
        let path = format!("s3://freshet-test/{}", self.folder);
        let options = json!({ "path": path, "format": "parquet" });
        let context = ConnectorContext { connection: self.connection.clone(), ..context() };
        let registry = registry();
        let connector = registry.get("files").expect("it is there");
        connector.stream_sink(&options, &spec(&[]), &context).expect("valid options")
    }

    async fn rows(&self, _: usize) -> Vec<String> {
        let folder = object_store::path::Path::from(self.folder.as_str());
        let listed = self.store.list_with_delimiter(Some(&folder)).await.expect("a list");
        let mut rows = Vec::new();
        for object in listed.objects {
            let read = self.store.get(&object.location).await.expect("a file");
            rows.extend(parquet_rows(read.bytes().await.expect("bytes").to_vec()));
        }
        rows
    }
}

#[tokio::test]
async fn folders_of_buckets_conform() {
    conforms(async |_| Bucket::new()).await;
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (options, message) in [
        (json!({ "path": "out" }), "option \"format\" is required"),
        (json!({ "path": "out", "format": "xml" }), "option \"format\" is wrong"),
        (json!({ "path": "out/*.csv", "format": "csv" }), "which is no folder"),
        (json!({ "path": "s3:///x", "format": "csv" }), "names no bucket"),
        (json!({ "pth": "out", "format": "csv" }), "no option \"pth\""),
    ] {
        let error = try_sink("files", &options, &[]).expect_err("wrong");
        assert!(error.message().contains(message), "{error:?}");
    }
}
