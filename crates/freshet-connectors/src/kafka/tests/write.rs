//! Writing topics, and transactions by hand for those who read.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use freshet_core::error::{ErrorKind, code};
use freshet_core::rows::Rows;
use freshet_core::stream::{Epoch, Generation, PendingCommit, SinkWriter, Token, Wake};
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, GroupId, OffsetFetchRequest, ProducerId,
    TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::*;
use crate::kafka::client::{Coordinates, retrying, topic_name};

const PATIENCE: Duration = Duration::from_secs(30);

/// Transactions step by step.
pub(super) struct Raw {
    id: String,
    cluster: Arc<Cluster>,
    pub producer: Producer,
}

impl Raw {
    pub(super) async fn new(fixture: &Fixture, id: &str) -> Self {
        let producer = fixture.cluster.producer(Some(id), Duration::from_secs(60)).await;
        let producer = producer.expect("a producer");
        Self { id: id.to_owned(), cluster: Arc::clone(&fixture.cluster), producer }
    }

    fn id(&self) -> TransactionalId {
        TransactionalId(StrBytes::from_string(self.id.clone()))
    }

    pub(super) async fn begin(&self, fixture: &Fixture) {
        let topic = AddPartitionsToTxnTopic::default()
            .with_name(topic_name(&fixture.topic))
            .with_partitions(vec![0]);
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.id())
            .with_v3_and_below_producer_id(ProducerId(self.producer.id))
            .with_v3_and_below_producer_epoch(self.producer.epoch)
            .with_v3_and_below_topics(vec![topic]);
        retrying(PATIENCE, || async {
            let mut coordinator =
                self.cluster.coordinator(Coordinates::Transactions, &self.id).await?;
            let answer = coordinator.call(&request, 3, PATIENCE).await?;
            match answer.results_by_topic_v3_and_below[0].results_by_partition[0]
                .partition_error_code
            {
                0 => Ok(()),
                error => Err(client::refused(error, || "begin".to_owned())),
            }
        })
        .await
        .expect("a transaction");
    }

    pub(super) async fn end(&self, commit: bool) {
        let request = EndTxnRequest::default()
            .with_transactional_id(self.id())
            .with_producer_id(ProducerId(self.producer.id))
            .with_producer_epoch(self.producer.epoch)
            .with_committed(commit);
        let mut coordinator =
            self.cluster.coordinator(Coordinates::Transactions, &self.id).await.expect("one");
        let answer = coordinator.call(&request, 3, PATIENCE).await.expect("an answer");
        assert_eq!(answer.error_code, 0);
    }
}

/// What a group has committed of the first partition.
pub(super) async fn committed(fixture: &Fixture, group: &str) -> i64 {
    let topic = OffsetFetchRequestTopic::default()
        .with_name(topic_name(&fixture.topic))
        .with_partition_indexes(vec![0]);
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
        .with_topics(Some(vec![topic]));
    let mut coordinator =
        fixture.cluster.coordinator(Coordinates::Group, group).await.expect("one");
    let answer = coordinator.call(&request, 7, PATIENCE).await.expect("an answer");
    answer.topics[0].partitions[0].committed_offset
}

#[derive(Debug)]
struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

fn wakes(count: usize) -> Vec<Arc<dyn Wake>> {
    (0..count).map(|_| Arc::new(NoWake) as Arc<dyn Wake>).collect()
}

fn batch(ids: &[i64], names: &[Option<&str>]) -> RecordBatch {
    RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef),
        ("name", Arc::new(StringViewArray::from(names.to_vec()))),
    ])
    .expect("two columns")
}

fn inserts(ids: &[i64]) -> Rows {
    Rows::inserts(batch(ids, &vec![Some("n"); ids.len()]))
}

async fn cut(writers: &mut [Box<dyn SinkWriter>], epoch: u64) -> PendingCommit {
    let mut parts: Vec<Token> = Vec::new();
    for writer in writers {
        parts.push(writer.cut(Epoch(epoch)).expect("a cut").await.expect("staged"));
    }
    PendingCommit { epoch: Epoch(epoch), parts }
}

fn sorted(mut seen: Seen) -> Vec<String> {
    seen.rows.sort();
    seen.rows
}

#[tokio::test]
async fn epochs_are_published_once_however_often_they_are_committed() {
    let fixture = Fixture::new("epochs", 2, &[]).await;
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let sink = fixture.sink(json!({"batch_bytes": 2048, "compression": "none"}));
    sink.stage_in(Arc::clone(&store));
    let mut writers = sink.open(claim(1), &wakes(2)).await.expect("open");
    // The first is staged in its token, the second in the store.
    writers[0].write(inserts(&[1, 2])).expect("written");
    writers[1].write(inserts(&[3])).expect("written");
    let first = cut(&mut writers, 1).await;
    let many: Vec<i64> = (1000..3000).collect();
    writers[1].write(inserts(&many)).expect("written");
    let second = cut(&mut writers, 2).await;
    assert!(second.parts[1].get("object").is_some(), "{second:?}");
    let pending = [first, second.clone()];
    sink.commit(Generation(1), &pending).await.expect("committed");
    sink.commit(Generation(1), &pending).await.expect("committed again");
    // A process that comes after a crash knows of neither commit.
    let other = fixture.sink(json!({}));
    other.stage_in(store);
    let mut writers = other.open(claim(2), &wakes(1)).await.expect("open");
    other.commit(Generation(2), &pending).await.expect("committed again");
    writers[0].write(inserts(&[4])).expect("written");
    let third = cut(&mut writers, 3).await;
    other.commit(Generation(2), std::slice::from_ref(&third)).await.expect("committed");
    // The one before has nothing to say any more.
    let zombie = PendingCommit { epoch: Epoch(4), parts: third.parts.clone() };
    let error = sink.commit(Generation(1), &[zombie]).await.expect_err("fenced");
    assert_eq!(error.code(), code::FENCED, "{error:?}");
    let error = sink.open(claim(1), &wakes(1)).await.expect_err("fenced");
    assert_eq!(error.code(), code::FENCED, "{error:?}");
    let source = fixture.source(json!({}));
    let seen = read(&source, &[0], Start::Earliest, 2004).await;
    let mut expected: Vec<String> =
        [1, 2, 3, 4].iter().chain(&many).map(|id| format!("+I {id}")).collect();
    expected.sort();
    assert_eq!(sorted(seen), expected);
}

#[tokio::test]
async fn what_was_left_open_is_aborted_and_published_again() {
    let fixture = Fixture::new("open", 1, &[]).await;
    let id = format!("freshet-dev-t-{}", fixture.topic);
    let sink = fixture.sink(json!({}));
    let mut writers = sink.open(claim(1), &wakes(1)).await.expect("open");
    writers[0].write(inserts(&[1])).expect("written");
    let pending = [cut(&mut writers, 1).await];
    // Crashed in the midst of its transaction.
    let mut crashed = Fixture { sequence: BTreeMap::new(), ..fixture };
    let raw = Raw::new(&crashed, &id).await;
    raw.begin(&crashed).await;
    let mut builder = BatchBuilder::default();
    builder.push(None, Some(b"{\"id\":1}"), &[], SystemClock.now_micros() / 1000);
    let half = builder.finish(Compression::None).expect("no compression");
    crashed.deliver(0, half, Some(raw.producer), Some(&id)).await;
    let next = crashed.sink(json!({}));
    next.open(claim(2), &wakes(1)).await.expect("open");
    next.commit(Generation(2), &pending).await.expect("committed");
    let mut writers = next.open(claim(3), &wakes(1)).await.expect("open");
    writers[0].write(inserts(&[2])).expect("written");
    next.commit(Generation(3), &[cut(&mut writers, 2).await]).await.expect("committed");
    let seen = read(&crashed.source(json!({})), &[0], Start::Earliest, 2).await;
    assert_eq!(sorted(seen), ["+I 1", "+I 2"]);
}

#[tokio::test]
async fn changes_become_upserts_with_keys_and_headers() {
    use RowKind::{Delete, Insert, UpdateAfter, UpdateBefore};
    let fixture = Fixture::new("upserts", 3, &[]).await;
    let sink = fixture.sink(json!({
        "guarantee": "at_least_once", "upsert": true, "key": ["id"], "headers": ["name"],
    }));
    let mut writers = sink.open(claim(1), &wakes(1)).await.expect("open");
    let rows = batch(&[1, 2, 1, 1, 2], &[Some("a"), Some("b"), Some("a"), Some("c"), None]);
    let rows = Rows::changes(rows, vec![Insert, Insert, UpdateBefore, UpdateAfter, Delete]);
    writers[0].write(rows).expect("written");
    cut(&mut writers, 1).await;
    let source = fixture.source(json!({"tombstones": "delete", "key": ["id"]}));
    let seen = read(&source, &[0, 5, 6], Start::Earliest, 4).await;
    let mut rows = sorted(seen);
    rows.dedup();
    assert_eq!(
        rows,
        [
            "+I 1,31,{\"name\":\"a\"}",
            "+I 1,31,{\"name\":\"c\"}",
            "+I 2,32,{\"name\":\"b\"}",
            "-D 2,32,{\"name\":null}",
        ]
    );
    for (options, message) in [
        (json!({"upsert": true}), "\"key\" names no column"),
        (json!({"upsert": true, "key": ["idd"]}), "no column \"idd\""),
        (json!({"headers": ["title"]}), "option \"headers\" names"),
    ] {
        let error = fixture.try_sink(options).expect_err("no such key");
        assert!(error.message().contains(message), "{error:?}");
    }
    let appended = fixture.sink(json!({}));
    let mut writers = appended.open(claim(1), &wakes(1)).await.expect("open");
    let error = writers[0].write(Rows::changes(batch(&[1], &[None]), vec![Delete]));
    let error = error.expect_err("only inserts");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("upsert")), "{error:?}");
}

#[tokio::test]
async fn raw_values_are_written_as_they_are_and_sent_at_once() {
    let fixture = Fixture::new("raw", 1, &[]).await;
    let sink = fixture.sink(json!({"format": "raw", "guarantee": "at_least_once"}));
    let mut writers = sink.open(claim(1), &wakes(1)).await.expect("open");
    let text = StringViewArray::from(vec!["{\"id\":7}", "{\"id\":8}"]);
    let batch = RecordBatch::try_from_iter([("value", Arc::new(text) as ArrayRef)]);
    writers[0].write(Rows::inserts(batch.expect("one column"))).expect("written");
    // Nobody cuts an epoch.
    let seen = read(&fixture.source(json!({})), &[0], Start::Earliest, 2).await;
    assert_eq!(seen.rows, ["+I 7", "+I 8"]);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (options, message) in [
        (json!({"tombstones": "delete"}), "\"key\" does not say"),
        (json!({"start": "yesterday"}), "\"start\" is wrong"),
        (json!({"fetch_bytes": "2GiB"}), "between 1KiB and 1GiB"),
        (json!({"brokerz": "a:1"}), "no option \"brokerz\""),
    ] {
        let error = connector().validate(&options).expect_err("wrong");
        assert_eq!(error.kind(), ErrorKind::User);
        assert!(error.message().contains(message), "{error:?}");
    }
    let no_port = json!({"brokers": "localhost", "topic": "t"});
    assert!(source(&no_port).expect_err("no port").message().contains("no address"));
    let no_user = json!({"brokers": "localhost:1", "topic": "t", "security": "sasl_plaintext"});
    assert!(source(&no_user).expect_err("no user").message().contains("\"username\""));
}

/// What an instance of this generation has; its checkpoints are newer than all that a test writes.
fn claim(generation: u64) -> freshet_core::stream::Claim {
    let epoch = freshet_core::stream::Epoch(u64::MAX);
    freshet_core::stream::Claim { generation: Generation(generation), epoch }
}
