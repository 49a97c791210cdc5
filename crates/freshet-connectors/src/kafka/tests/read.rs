//! Reading topics.

use freshet_core::source::Position;

use super::*;
use crate::kafka::client::Coordinates;

const ALL: [Compression; 5] = [
    Compression::None,
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

#[tokio::test]
async fn all_compressions_are_read_with_what_is_known_of_each_message() {
    let mut fixture = Fixture::new("compressions", 1, &[]).await;
    for (n, compression) in ALL.into_iter().enumerate() {
        let texts: Vec<String> =
            (0..3).map(|i| format!("{{\"id\":{},\"name\":\"é{i}\"}}", n * 10 + i)).collect();
        let messages: Vec<_> = texts.iter().map(|text| (Some("k"), Some(text.as_str()))).collect();
        fixture.send(0, &messages, compression).await;
    }
    fixture.send(0, &[(None, Some("{\"id\":"))], Compression::Lz4).await;
    let source = fixture.source(json!({}));
    let names: Vec<_> = source.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "name", "_partition", "_offset", "_timestamp", "_key", "_headers"]);
    let seen = read(&source, &[0, 1, 2, 3, 5, 6], Start::Earliest, 16).await;
    assert_eq!(seen.rejects, ["15 syntax"]);
    assert_eq!(seen.rows.len(), 15);
    let topic = &fixture.topic;
    assert_eq!(seen.rows[0], format!("+I 0,é0,{topic}/0,0,6b,{{\"from\":\"test\"}}"));
    assert_eq!(seen.rows[14], format!("+I 42,é2,{topic}/0,14,6b,{{\"from\":\"test\"}}"));
    // From the midst of a batch, and without any column of the value's.
    let seen = read(&source, &[3], Start::At(Position(13)), 3).await;
    assert_eq!(seen.rows, ["+I 13", "+I 14"]);
    let nothing = read(&source, &[], Start::At(Position(13)), 3).await;
    assert_eq!(nothing.rows, ["+I ", "+I "]);
}

#[tokio::test]
async fn values_are_read_as_they_are_in_a_column_of_text_or_bytes() {
    let mut fixture = Fixture::new("raw", 1, &[]).await;
    let messages = [(Some("k"), Some("{\"id\":")), (None, Some("")), (None, None)];
    fixture.send(0, &messages, Compression::Lz4).await;
    let mut batch = BatchBuilder::default();
    batch.push(None, Some(b"\xff"), &[], SystemClock.now_micros() / 1000);
    fixture.deliver(0, batch.finish(Compression::None).expect("as it is"), None, None).await;
    for (columns, rows, rejects) in [
        (vec![], ["+I {\"id\":,6b,0", "+I ,-,1"].as_slice(), ["3 encoding"].as_slice()),
        (
            vec![ContractColumn::new("bytes", ColumnType::Binary)],
            &["+I 7b226964223a,6b,0", "+I ,-,1", "+I ff,-,3"],
            &[],
        ),
    ] {
        let contract = Contract { columns, ..Contract::default() };
        let source = source_of(&fixture.options(json!({"format": "raw"})), contract);
        let source = source.expect("valid options");
        let seen = read(&source, &[0, 4, 2], Start::Earliest, 4).await;
        assert_eq!(seen.filtered, 1);
        assert_eq!(seen.rows, rows);
        assert_eq!(seen.rejects, rejects);
    }
}

#[tokio::test]
async fn records_of_aborted_transactions_are_not_read() {
    let mut fixture = Fixture::new("aborted", 1, &[]).await;
    let line = |id: i32| {
        let mut batch = BatchBuilder::default();
        let text = format!("{{\"id\":{id}}}");
        batch.push(None, Some(text.as_bytes()), &[], SystemClock.now_micros() / 1000);
        batch.finish(Compression::None).expect("no compression")
    };
    fixture.deliver(0, line(1), None, None).await;
    let id = format!("aborter-{}", fixture.topic);
    let transactions = write::Raw::new(&fixture, &id).await;
    for (ids, commit) in [([2, 3], false), ([4, 5], true), ([6, 7], false)] {
        transactions.begin(&fixture).await;
        for id_of_row in ids {
            fixture.deliver(0, line(id_of_row), Some(transactions.producer), Some(&id)).await;
            fixture.deliver(0, line(100 + id_of_row), None, None).await;
        }
        transactions.end(commit).await;
    }
    fixture.deliver(0, line(8), None, None).await;
    let committed = fixture.source(json!({}));
    let seen = read(&committed, &[0], Start::Earliest, 10).await;
    let rows = ["1", "102", "103", "4", "104", "5", "105", "106", "107", "8"];
    assert_eq!(seen.rows, rows.map(|row| format!("+I {row}")));
    let all = fixture.source(json!({"isolation": "read_uncommitted"}));
    let seen = read(&all, &[0], Start::Earliest, 14).await;
    assert_eq!(seen.rows.len(), 14);
}

#[tokio::test]
async fn reading_ends_behind_what_was_there_at_the_start() {
    let mut fixture = Fixture::new("bounded", 3, &[]).await;
    let texts: Vec<String> = (0..6).map(|id| format!("{{\"id\":{id}}}")).collect();
    let of = |range: std::ops::Range<usize>| -> Vec<_> {
        texts[range].iter().map(|text| (None, Some(text.as_str()))).collect()
    };
    fixture.send(0, &of(0..2), Compression::None).await;
    fixture.send(0, &of(2..3), Compression::Lz4).await;
    fixture.send(2, &of(3..4), Compression::None).await;
    // At the end of a partition stands a transaction that came to nothing.
    let id = format!("aborter-{}", fixture.topic);
    let transactions = write::Raw::new(&fixture, &id).await;
    transactions.begin(&fixture).await;
    let mut batch = BatchBuilder::default();
    batch.push(None, Some(b"{\"id\":9}"), &[], SystemClock.now_micros() / 1000);
    let batch = batch.finish(Compression::None).expect("no compression");
    fixture.deliver(0, batch, Some(transactions.producer), Some(&id)).await;
    transactions.end(false).await;

    let source = fixture.source(json!({"end": "latest"}));
    assert_eq!(source.discovery_interval(), None);
    let partitions = source.partitions().await.expect("the topic is there");
    let mut fetcher = source.fetcher().await.expect("a fetcher");
    for partition in &partitions {
        fetcher.add(partition, Start::Earliest).await.expect("the partition is there");
    }
    for partition in 0..3 {
        fixture.send(partition, &of(4..6), Compression::None).await;
    }
    let mut seen = Seen::default();
    let all = more(&source, &mut fetcher, &partitions, &[0], u64::MAX, &mut seen);
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("it ends");
    seen.rows.sort_unstable();
    assert_eq!(seen.rows, ["+I 0", "+I 1", "+I 2", "+I 3"]);
    assert!(fetcher.fetch().await.expect("no error").is_none(), "it has ended for good");

    // What lies behind the end already, and a reader without a partition, end at once.
    let mut fetcher = source.fetcher().await.expect("a fetcher");
    assert!(fetcher.fetch().await.expect("no error").is_none());
    fetcher.add(&partitions[1], Start::Latest).await.expect("the partition is there");
    assert!(fetcher.fetch().await.expect("no error").is_none());
}

#[tokio::test]
async fn tombstones_are_deletes_or_counted() {
    let mut fixture = Fixture::new("tombstones", 1, &[("cleanup.policy", "compact")]).await;
    let messages = [
        (Some("1"), Some("{\"id\":1,\"name\":\"a\"}")),
        (Some("2"), Some("{\"id\":2,\"name\":\"b\"}")),
        (Some("1"), None),
        (Some("x"), None),
        (Some("3"), Some("{\"id\":3,\"name\":\"c\"}")),
    ];
    fixture.send(0, &messages, Compression::Zstd).await;
    let counted = fixture.source(json!({}));
    let seen = read(&counted, &[0, 1], Start::Earliest, 5).await;
    assert_eq!((seen.rows.len(), seen.filtered), (3, 2));
    let deletes = fixture.source(json!({"tombstones": "delete", "key": ["id"]}));
    let seen = read(&deletes, &[1, 0, 3], Start::Earliest, 5).await;
    assert_eq!(seen.rows, ["+I a,1,0", "+I b,2,1", "-D -,1,2", "+I c,3,4"]);
    assert_eq!(seen.rejects, ["3 type"]);
}

#[tokio::test]
async fn reading_begins_where_the_options_say() {
    let mut fixture = Fixture::new("start", 1, &[]).await;
    // Of the last hour, so that retention leaves them.
    let first = SystemClock.now_micros() / 1_000_000 * 1000 - 3_600_000;
    for id in 0..4_i64 {
        let mut batch = BatchBuilder::default();
        let text = format!("{{\"id\":{id}}}");
        batch.push(None, Some(text.as_bytes()), &[], first + id * 1000);
        let batch = batch.finish(Compression::None).expect("no compression");
        fixture.deliver(0, batch, None, None).await;
    }
    let from = |start: Value| fixture.source(json!({"start": start}));
    let time = chrono::DateTime::from_timestamp_millis(first + 1500).expect("a time");
    let offsets: Value = json!({format!("{}/0", fixture.topic): 3});
    for (start, rows) in [(json!("earliest"), 4), (json!(time.to_rfc3339()), 2), (offsets, 1)] {
        let seen = read(&from(start.clone()), &[0], Start::Configured, rows).await;
        assert_eq!(seen.rows.len() as u64, rows, "{start}");
        assert_eq!(seen.rows.last().map(String::as_str), Some("+I 3"));
    }
    let latest = from(json!("latest"));
    let partitions = latest.partitions().await.expect("the topic is there");
    let mut fetcher = latest.fetcher().await.expect("a fetcher");
    fetcher.add(&partitions[0], Start::Configured).await.expect("the partition is there");
    fixture.send(0, &[(None, Some("{\"id\":9}"))], Compression::None).await;
    let mut seen = Seen::default();
    more(&latest, &mut fetcher, &partitions, &[0], 1, &mut seen).await;
    assert_eq!(seen.rows, ["+I 9"]);
}

#[tokio::test]
async fn positions_that_are_gone_are_an_error_or_a_new_beginning() {
    let mut fixture = Fixture::new("lost", 1, &[]).await;
    fixture.send(0, &[(None, Some("{\"id\":1}"))], Compression::None).await;
    let gone = Start::At(Position(77));
    let source = fixture.source(json!({}));
    let mut fetcher = source.fetcher().await.expect("a fetcher");
    let partitions = source.partitions().await.expect("the topic is there");
    fetcher.add(&partitions[0], gone).await.expect("it is not asked for yet");
    let error = fetcher.fetch().await.expect_err("there is no such record");
    assert!(error.message().contains("offset 77"), "{error:?}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("on_lost")), "{error:?}");
    let again = fixture.source(json!({"on_lost": "earliest"}));
    let seen = read(&again, &[0], gone, 1).await;
    assert_eq!(seen.rows, ["+I 1"]);
}

#[tokio::test]
async fn positions_are_committed_for_others_to_see() {
    let mut fixture = Fixture::new("offsets", 1, &[]).await;
    fixture.send(0, &[(None, Some("{\"id\":1}"))], Compression::None).await;
    let group = format!("group-{}", fixture.topic);
    let source = fixture.source(json!({"group": group}));
    let seen = read(&source, &[0], Start::Earliest, 1).await;
    let positions = seen.next.iter().map(|(partition, next)| (partition.clone(), Position(*next)));
    let positions: BTreeMap<_, _> = positions.collect();
    // A group's first coordinator may still be loading.
    client::retrying(Duration::from_secs(30), || source.publish(&positions))
        .await
        .expect("committed");
    let committed = write::committed(&fixture, &group).await;
    assert_eq!(committed, 1);
}

#[tokio::test]
async fn logins_are_taken_and_refused() {
    let fixture = Fixture::new("logins", 1, &[]).await;
    let options = |username: &str, password: &str, mechanism: &str| {
        let options = json!({
            "brokers": variable("FRESHET_TEST_KAFKA_TLS"),
            "topic": fixture.topic,
            "security": "sasl_ssl",
            "ca_file": variable("FRESHET_TEST_KAFKA_CA"),
            "username": username,
            "password": password,
            "mechanism": mechanism,
        });
        source(&options).expect("valid options")
    };
    for mechanism in ["plain", "scram-sha-256"] {
        let source = options("freshet", "freshet", mechanism);
        assert_eq!(source.partitions().await.expect("a login").len(), 1, "{mechanism}");
        let error = options("freshet", "wrong", mechanism).partitions().await;
        let error = error.expect_err("a wrong password");
        assert!(error.message().contains("could not log in"), "{mechanism}: {error:?}");
        assert!(!format!("{error:?}").contains("wrong"), "{error:?}");
    }
    let other = variable("FRESHET_TEST_KAFKA_CA").replace("ca.crt", "other_ca.crt");
    let mut distrusting = json!({
        "brokers": variable("FRESHET_TEST_KAFKA_TLS"),
        "topic": fixture.topic,
        "security": "ssl",
        "ca_file": other,
    });
    let error = source(&distrusting).expect("valid options").partitions().await;
    let error = error.expect_err("an authority that did not sign");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("ca_file")), "{error:?}");
    distrusting["brokers"] = json!("127.0.0.1:1");
    distrusting["security"] = json!("plaintext");
    let error = source(&distrusting).expect("valid options").partitions().await;
    assert!(error.expect_err("nobody listens").is_retryable());
}

#[tokio::test]
async fn unknown_topics_are_named() {
    let fixture = Fixture::new("known", 1, &[]).await;
    let source = source(&json!({"brokers": fixture.brokers, "topic": "nowhere"}));
    let error = source.expect("valid options").partitions().await.expect_err("no such topic");
    assert!(error.message().contains("\"nowhere\""), "{error:?}");
    assert!(error.hint_text().is_some(), "{error:?}");
    assert!(fixture.cluster.coordinator(Coordinates::Group, "any").await.is_ok());
}

#[tokio::test]
async fn a_topic_that_was_made_again_is_another() {
    let mut fixture = Fixture::new("again", 1, &[]).await;
    fixture.send(0, &[(None, Some("{\"id\":1}"))], Compression::None).await;
    let source = fixture.source(json!({}));
    let partitions = source.partitions().await.expect("the topic is there");
    let mut fetcher = source.fetcher().await.expect("a fetcher");
    fetcher.add(&partitions[0], Start::Earliest).await.expect("the partition is there");
    fetcher.fetch().await.expect("a block");
    fixture.cluster.delete_topic(&fixture.topic).await.expect("deleted");
    // What is gone is waited for, with a reason.
    let waiting = async {
        while source.waits().is_empty() {
            tokio::select! {
                fetched = fetcher.fetch() => panic!("{fetched:?}"),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("a reason");
    let wait = &source.waits()[0];
    assert_eq!(wait.what, partitions[0].0);
    assert!(wait.reason.contains("UnknownTopic"), "{wait:?}");
    client::retrying(Duration::from_secs(30), || async {
        let made = fixture.cluster.create_topic(&fixture.topic, 1, &[]).await;
        made.map_err(freshet_core::Error::retryable)
    })
    .await
    .expect("made again");
    let error = tokio::time::timeout(Duration::from_secs(30), fetcher.fetch()).await;
    let error = error.expect("in time").expect_err("another topic");
    assert!(error.message().contains("made again"), "{error:?}");
}
