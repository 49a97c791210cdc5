//! Records that are pushed to a topic.

use freshet_core::error::code;
use freshet_core::ingest::{AppendRequest, IdempotencyKey, Ingest, Record};

use super::*;

fn ingest(options: &Value) -> Result<Arc<dyn Ingest>> {
    let columns = vec![
        ContractColumn::new("id", ColumnType::Int64),
        ContractColumn::new("name", ColumnType::Text),
    ];
    let spec = SourceSpec {
        name: "test.messages".into(),
        contract: Arc::new(Contract { columns, ..Contract::default() }),
        max_bad: Share(0.0),
        settle: HumanDuration(Duration::ZERO),
    };
    connector().ingest(options, spec, &context())
}

fn request(records: Vec<Record>) -> AppendRequest {
    AppendRequest { records, ..AppendRequest::default() }
}

#[tokio::test]
async fn records_that_are_pushed_are_in_the_topic_once_it_is_answered() {
    let fixture = Fixture::new("pushed", 3, &[]).await;
    let target = ingest(&fixture.options(json!({}))).expect("valid options");
    assert_eq!(target.format(), "ndjson");
    for round in 0..4 {
        let record = |id: i32| {
            let value = format!("{{\"id\":{},\"name\":\"n\"}}", 10 * round + id);
            Record::keyed(format!("key {id}"), value)
        };
        let appended = target.append(request((0..10).map(record).collect())).await;
        let appended = appended.expect("it is taken");
        assert_eq!((appended.kept, appended.accepted), (true, 10));
    }
    let bad =
        vec![Record::new(r#"{"id":100}"#), Record::new("no object"), Record::new(r#"{"id":101}"#)];
    let strict = AppendRequest { strict: true, ..request(bad.clone()) };
    let refused = target.append(strict).await.expect("an answer");
    assert_eq!((refused.kept, refused.accepted, refused.rejects.len()), (false, 2, 1));
    let taken = target.append(request(bad)).await.expect("it is taken");
    assert_eq!((taken.kept, taken.accepted, taken.rejects[0].offset), (true, 2, 1));

    let seen = read(&fixture.source(json!({})), &[0], Start::Earliest, 43).await;
    let mut ids: Vec<i64> =
        seen.rows.iter().map(|row| row[3..].parse().expect("a number")).collect();
    // Records of one key stay in order.
    for key in 0..10 {
        let of_key: Vec<i64> =
            ids.iter().copied().filter(|id| id % 10 == key && *id < 40).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..40).chain([100, 101]).collect::<Vec<_>>());
    assert_eq!(seen.rejects.len(), 1, "{:?}", seen.rejects);
}

#[tokio::test]
async fn what_a_topic_cannot_take_is_said() {
    let fixture = Fixture::new("refused", 1, &[]).await;
    let target = ingest(&fixture.options(json!({"max_record_bytes": "100B"}))).expect("valid");
    let large = request(vec![Record::new(vec![b' '; 200])]);
    assert_eq!(target.append(large).await.expect_err("too large").code(), code::LIMIT);
    let idempotency = Some(IdempotencyKey { name: "again".into(), digest: 7 });
    let again = AppendRequest { idempotency, ..AppendRequest::default() };
    let error = target.append(again).await.expect_err("nobody remembers it");
    assert!(error.message().contains("idempotency"), "{error:?}");
    let several = fixture.options(json!({"topic": ["a", "b"]}));
    let error = ingest(&several).expect_err("which one?");
    assert!(error.message().contains("several topics"), "{error:?}");
}

#[tokio::test]
async fn a_topic_that_is_missing_is_made_where_the_options_say_so() {
    let topic = format!("made-{}", SystemClock.now_micros());
    let brokers = variable("FRESHET_TEST_KAFKA");
    let missing = json!({"brokers": brokers, "topic": topic});
    let target = ingest(&missing).expect("valid options");
    let empty = AppendRequest::default;
    let error = target.append(empty()).await.expect_err("there is no topic");
    assert!(error.chain().contains("UnknownTopicOrPartition"), "{error:?}");
    let made = json!({"brokers": brokers, "topic": topic, "create_partitions": 2});
    let target = ingest(&made).expect("valid options");
    assert!(target.append(empty()).await.expect("it is made").kept);
    let partitions = source(&made).expect("valid options").partitions().await;
    assert_eq!(partitions.expect("it is there").len(), 2);
}
