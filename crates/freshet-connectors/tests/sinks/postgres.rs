//! Tables of a real server, each test in a schema of its own.

use std::time::Duration;

use async_trait::async_trait;
use freshet_core::stream::StreamSink;
use freshet_testkit::stream_sinks::{SinkUnderTest, conforms};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, NoTls};

use super::{sink, variable};

struct Table {
    client: Client,
    options: Value,
    key: &'static [&'static str],
}

impl Table {
    async fn new(schema: &str, key: &'static [&'static str], more: Value) -> Self {
        let server: tokio_postgres::Config =
            variable("FRESHET_TEST_POSTGRES").parse().expect("a connection string");
        let (client, connection) = server.connect(NoTls).await.expect("the server answers");
        tokio::spawn(connection);
        client
            .batch_execute(&format!(
                "set client_min_messages = warning; drop schema if exists {schema} cascade; create schema {schema}"
            ))
            .await
            .expect("a schema");
        let host = match &server.get_hosts()[0] {
            Host::Tcp(host) => host.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let mut options = json!({
            "host": host, "port": server.get_ports()[0], "schema": schema,
            "user": server.get_user().expect("a user"),
            "password": server.get_password().map(text),
            "database": server.get_dbname().expect("a database"),
        });
        let fields = options.as_object_mut().expect("a mapping");
        fields.extend(more.as_object().expect("a mapping").clone());
        Self { client, options, key }
    }

    fn schema(&self) -> &str {
        self.options["schema"].as_str().expect("text")
    }

    async fn query(&self, sql: &str) -> Vec<String> {
        let sql = sql.replace("model", &format!("{}.model", self.schema()));
        let rows = self.client.query(&sql, &[]).await.expect("a query");
        rows.iter().map(|row| row.get(0)).collect()
    }
}

#[async_trait]
impl SinkUnderTest for Table {
    fn sink(&self) -> Arc<dyn StreamSink> {
        sink("postgres", &self.options, self.key)
    }

    async fn rows(&self, _: usize) -> Vec<String> {
        self.query("select id || ' ' || value from model").await
    }
}

#[tokio::test]
async fn appended_tables_conform() {
    conforms(async |case| Table::new(&format!("sink_append_{case}"), &[], json!({})).await).await;
}

#[tokio::test]
async fn merged_tables_conform() {
    conforms(async |case| Table::new(&format!("sink_merge_{case}"), &["id"], json!({})).await)
        .await;
}

mod at_once {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
    use freshet_core::error::code;
    use freshet_core::rows::{RowKind, Rows};
    use freshet_core::sink::Guarantee;
    use freshet_core::stream::{Claim, Epoch, Generation, PendingCommit, Wake};

    use super::*;

    #[derive(Debug)]
    struct NoWake;

    impl Wake for NoWake {
        fn wake(&self) {}
    }

    fn rows(ids: &[Option<i64>], kinds: &[RowKind]) -> Rows {
        let ids = Int64Array::from(ids.to_vec());
        let values = StringViewArray::from_iter_values((0..ids.len()).map(|n| format!("v{n}")));
        let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(values)];
        let schema = freshet_testkit::stream_sinks::schema();
        let batch = RecordBatch::try_new(schema, columns).expect("two columns");
        Rows::changes(batch, kinds.to_vec())
    }

    fn claim(generation: u64) -> Claim {
        Claim { generation: Generation(generation), epoch: Epoch(generation) }
    }

    #[tokio::test]
    async fn rows_that_break_a_constraint_end_the_job_and_none_of_their_epoch_is_there() {
        let table = Table::new("sink_refused", &[], json!({})).await;
        let sink = table.sink();
        let store: Arc<dyn object_store::ObjectStore> =
            Arc::new(object_store::memory::InMemory::new());
        sink.stage_in(store);
        let wake: Arc<dyn Wake> = Arc::new(NoWake);
        let mut writers = sink.open(claim(1), &[Arc::clone(&wake)]).await.expect("opened");
        let schema = table.schema();
        let rule = format!("alter table {schema}.model add constraint small check (id < 10)");
        table.client.batch_execute(&rule).await.expect("a constraint");
        let inserts = [RowKind::Insert; 3];
        let batch = rows(&[Some(1), Some(10), Some(2)], &inserts).into_batch();
        writers[0].write(Rows::inserts(batch)).expect("written");
        let parts = vec![writers[0].cut(Epoch(2)).expect("a cut").await.expect("staged")];
        let pending = [PendingCommit { epoch: Epoch(2), parts }];
        let error = sink.commit(Generation(1), &pending).await.expect_err("a row is refused");
        assert_eq!(error.code(), code::SINK_REFUSED);
        assert!(!error.is_retryable());
        assert!(error.chain().contains("constraint \"small\""), "{}", error.chain());
        assert_eq!(table.query("select id::text from model").await, Vec::<String>::new());
        // Once the table takes them, the same commit goes through.
        let rule = format!("alter table {schema}.model drop constraint small");
        table.client.batch_execute(&rule).await.expect("no constraint");
        sink.commit(Generation(1), &pending).await.expect("committed");
        assert_eq!(table.query("select id::text from model order by 1").await, ["1", "10", "2"]);
    }

    #[tokio::test]
    async fn what_no_table_can_hold_is_known_before_it_is_written() {
        let table = Table::new("sink_never", &[], json!({})).await;
        let sink = table.sink();
        assert!(sink.can_refuse());
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let values: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), Some("b\0c"), None]));
        let schema = freshet_testkit::stream_sinks::schema();
        let batch = RecordBatch::try_new(schema, vec![ids, values]).expect("two columns");
        let refused = sink.refuses(&Rows::inserts(batch)).expect("looked at");
        assert_eq!(refused.len(), 1);
        assert_eq!((refused[0].row, refused[0].column.as_str()), (1, "value"));
        assert!(refused[0].reason.contains("NUL"), "{}", refused[0].reason);
    }

    #[tokio::test]
    async fn rows_are_there_as_they_arrive_and_an_epoch_ends_when_all_are() {
        use RowKind::{Delete, Insert, UpdateAfter, UpdateBefore};
        let table =
            Table::new("sink_at_once", &["id"], json!({ "guarantee": "at_least_once" })).await;
        let sink = table.sink();
        assert_eq!(sink.guarantee(), Guarantee::AtLeastOnce);
        let wake: Arc<dyn Wake> = Arc::new(NoWake);
        let mut writers = sink.open(claim(1), &[Arc::clone(&wake)]).await.expect("opened");
        // Nobody cuts an epoch. A null is a key like any other.
        writers[0].write(rows(&[Some(1), None, Some(2)], &[Insert; 3])).expect("written");
        let begun = tokio::time::Instant::now();
        while table.query("select id::text from model where value = 'v2'").await.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "no row arrived");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let changes = [UpdateBefore, UpdateAfter, Delete];
        writers[0].write(rows(&[None, None, Some(2)], &changes)).expect("written");
        writers[0].cut(Epoch(2)).expect("a cut").await.expect("all arrived");
        let left = table
            .query("select coalesce(id::text, '-') || ' ' || value from model order by 1")
            .await;
        assert_eq!(left, ["- v1", "1 v0"]);
        // The next instance keeps the one before from writing.
        table.sink().open(claim(2), &[wake]).await.expect("opened");
        writers[0].write(rows(&[Some(9)], &[Insert])).expect("taken");
        let error = writers[0].cut(Epoch(3)).expect("a cut").await.expect_err("fenced");
        assert_eq!(error.code(), code::FENCED, "{error:?}");
        assert_eq!(table.query("select id::text from model where id = 9").await.len(), 0);
    }
}

#[tokio::test]
async fn tables_that_cannot_take_the_rows_are_refused_when_opening() {
    let table = Table::new("sink_other", &[], json!({})).await;
    table.query("select 'x' from (select 1) x").await;
    table.client.batch_execute("create table sink_other.model (id text)").await.expect("a table");
    let claim = freshet_core::stream::Claim {
        generation: freshet_core::stream::Generation(1),
        epoch: freshet_core::stream::Epoch(1),
    };
    let error = table.sink().open(claim, &[]).await.expect_err("another type");
    assert!(error.message().contains("is text, but the model gives bigint"), "{error:?}");
}
