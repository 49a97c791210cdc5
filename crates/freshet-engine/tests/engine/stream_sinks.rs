//! The lake as a sink of streams: what every sink has to do, added to and merged by key.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use freshet_core::stream::StreamSink;
use freshet_engine::lake::{Lake, LakeOptions, TableName};
use freshet_engine::streaming::LakeSink;
use freshet_project::OnSchemaChange;
use freshet_testkit::stream_sinks::{SinkUnderTest, conforms, schema};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use url::Url;

struct Table {
    lake: Lake,
    name: TableName,
    key: Vec<String>,
}

impl Table {
    fn new(key: &[&str]) -> Self {
        let url = Url::parse("memory:///lake/").expect("a constant");
        let options = LakeOptions { threads: 2, ..LakeOptions::default() };
        let lake = Lake::open(Arc::new(InMemory::new()), url, options).expect("a lake");
        let key = key.iter().map(|column| (*column).to_owned()).collect();
        Self { lake, name: TableName::new("main", "orders"), key }
    }

    /// Data files in the table's folder, whether a version has them or not.
    async fn files(&self) -> usize {
        let objects: Vec<_> = self.lake.store().list(None).try_collect().await.expect("a list");
        let is_data = |path: &str| path.ends_with(".parquet") && !path.contains("_delta_log");
        objects.iter().filter(|object| is_data(object.location.as_ref())).count()
    }
}

#[async_trait]
impl SinkUnderTest for Table {
    fn sink(&self) -> Arc<dyn StreamSink> {
        let (lake, name) = (self.lake.clone(), self.name.clone());
        let sink =
            LakeSink::new(lake, "dev/orders", name, schema(), Vec::new(), OnSchemaChange::Ignore);
        Arc::new(sink.keyed(self.key.clone()))
    }

    async fn rows(&self, _: usize) -> Vec<String> {
        let snapshot = self.lake.load(&self.name, None).await.expect("a lake");
        let snapshot = snapshot.expect("the table is there");
        let context = SessionContext::new();
        context.register_table("t", self.lake.provider(&snapshot)).expect("a free name");
        let sql = "select id, arrow_cast(value, 'Utf8') as value from t";
        let frame = context.sql(sql).await.expect("a query");
        let mut rows = Vec::new();
        for batch in frame.collect().await.expect("rows") {
            let ids = batch.column(0).as_primitive::<Int64Type>();
            let values = batch.column(1).as_string::<i32>();
            let shown = |row| format!("{} {}", ids.value(row), values.value(row));
            rows.extend((0..batch.num_rows()).map(shown));
        }
        rows
    }

    fn fences(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_added_to_conform() {
    conforms(async |_| Table::new(&[])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_merged_by_key_conform() {
    conforms(async |_| Table::new(&["id"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_deleted_leave_no_files_behind() {
    use freshet_core::rows::{RowKind, Rows};
    use freshet_core::stream::{Claim, Epoch, Generation, PendingCommit, Wake};

    #[derive(Debug)]
    struct NoWake;
    impl Wake for NoWake {
        fn wake(&self) {}
    }

    let table = Table::new(&["id"]);
    let sink = table.sink();
    let staged: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    sink.stage_in(Arc::clone(&staged));
    let wake: Arc<dyn Wake> = Arc::new(NoWake);
    let claim = Claim { generation: Generation(1), epoch: Epoch(1) };
    let mut writers = sink.open(claim, &[wake]).await.expect("opened");
    for (epoch, kind) in [(2, RowKind::Insert), (3, RowKind::Delete)] {
        let ids: Vec<i64> = (0..2_000).collect();
        let ids = arrow::array::Int64Array::from(ids);
        let values = arrow::array::StringViewArray::from(vec!["v"; 2_000]);
        let columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(ids), Arc::new(values)];
        let batch = arrow::array::RecordBatch::try_new(schema(), columns).expect("two columns");
        writers[0].write(Rows::changes(batch, vec![kind; 2_000])).expect("written");
        let parts = vec![writers[0].cut(Epoch(epoch)).expect("a cut").await.expect("staged")];
        let pending = PendingCommit { epoch: Epoch(epoch), parts };
        sink.commit(Generation(1), &[pending]).await.expect("committed");
    }
    assert_eq!(table.rows(0).await, Vec::<String>::new());
    // That of the first version, which history still has.
    assert_eq!(table.files().await, 1);
    let left: Vec<_> = staged.list(None).try_collect().await.expect("a list");
    assert!(left.is_empty(), "{left:?}");
}
