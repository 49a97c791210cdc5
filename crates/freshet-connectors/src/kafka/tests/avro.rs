//! Messages of Avro, whose schemas a registry has: `FRESHET_TEST_SCHEMA_REGISTRY` names it.

use arrow::array::{ArrayRef, Int64Array, RecordBatch};

use super::*;
use crate::avro::{AvroEncoder, AvroOptions, Framing, SchemaRegistry, WrittenSchema};

#[tokio::test]
async fn rows_are_written_with_a_schema_that_is_registered_first() {
    use arrow::array::StringViewArray;
    use freshet_core::rows::Rows;
    use freshet_core::stream::{Claim, Epoch, Generation, PendingCommit, Wake};

    #[derive(Debug)]
    struct NoWake;

    impl Wake for NoWake {
        fn wake(&self) {}
    }

    let fixture = Fixture::new("avro-sink", 1, &[]).await;
    let address = variable("FRESHET_TEST_SCHEMA_REGISTRY");
    let options = json!({
        "format": "avro",
        "format_options": {"registry": address, "record_name": "shop.Item"},
        "upsert": true,
        "key": ["id"],
    });
    for guarantee in ["exactly_once", "at_least_once"] {
        let mut of_sink = options.clone();
        of_sink["guarantee"] = guarantee.into();
        let sink = fixture.sink(of_sink);
        let wakes: Vec<Arc<dyn Wake>> = vec![Arc::new(NoWake)];
        let claim = Claim { generation: Generation(1), epoch: Epoch(u64::MAX) };
        let mut writers = sink.open(claim, &wakes).await.expect("the schema is registered");
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 1]));
        let names: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None, None]));
        let batch =
            RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("name", names, true)]);
        let kinds = vec![RowKind::Insert, RowKind::Insert, RowKind::Delete];
        writers[0].write(Rows::changes(batch.expect("two columns"), kinds)).expect("written");
        let part = writers[0].cut(Epoch(1)).expect("a cut").await.expect("staged");
        let pending = [PendingCommit { epoch: Epoch(1), parts: vec![part] }];
        sink.commit(Generation(1), &pending).await.expect("published");
    }
    let mut of_source = options;
    of_source["tombstones"] = "delete".into();
    of_source.as_object_mut().expect("an object").remove("upsert");
    let source = fixture.source(of_source);
    let seen = read(&source, &[0, 1], Start::Earliest, 6).await;
    assert_eq!(seen.rows, ["+I 1,a", "+I 2,-", "-D 1,-", "+I 1,a", "+I 2,-", "-D 1,-"]);
    // Who does not know us reads the same schema.
    let url = format!("{address}/subjects/{}-value/versions/latest", fixture.topic);
    let answer = reqwest::get(url).await.expect("the registry answers");
    let answer: Value =
        serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON");
    let schema: Value =
        serde_json::from_str(answer["schema"].as_str().expect("a schema")).expect("JSON");
    assert_eq!(
        schema,
        json!({"type": "record", "name": "Item", "namespace": "shop", "fields": [
            {"name": "id", "type": ["null", "long"], "default": null},
            {"name": "name", "type": ["null", "string"], "default": null},
        ]})
    );
}

#[tokio::test]
async fn messages_are_read_by_the_schema_that_they_name() {
    let mut fixture = Fixture::new("avro", 1, &[]).await;
    let address = variable("FRESHET_TEST_SCHEMA_REGISTRY");
    let options = AvroOptions { registry: Some(address.clone()), ..AvroOptions::default() };
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let batch = RecordBatch::try_from_iter([("id", ids)]).expect("one column");
    let written = WrittenSchema::of(&batch.schema(), &options, &context()).expect("a schema");
    let registry = SchemaRegistry::new(&options, &std::env::temp_dir(), Arc::new(SystemClock));
    let registry = registry.expect("sound options").expect("an address");
    let subject = format!("{}-value", fixture.topic);
    let id = registry.register(&subject, &written.json).await.expect("it is new");
    let encoder = AvroEncoder::new(&written, Framing::Confluent, id);
    let rows = encoder.and_then(|mut encoder| encoder.encode(&batch)).expect("rows");
    for compression in [Compression::None, Compression::Zstd] {
        let mut messages = BatchBuilder::default();
        for row in rows.iter() {
            messages.push(Some(b"k"), Some(&row), &[], 0);
        }
        messages.push(None, Some(b"\0\0"), &[], 0);
        fixture.deliver(0, messages.finish(compression).expect("packed"), None, None).await;
    }
    let format_options = json!({"registry": address});
    let source = fixture.source(json!({"format": "avro", "format_options": format_options}));
    let seen = read(&source, &[0, 1, 3], Start::Earliest, 8).await;
    assert_eq!(seen.rows, ["+I 1,-,0", "+I 2,-,1", "+I 3,-,2", "+I 1,-,4", "+I 2,-,5", "+I 3,-,6"]);
    assert_eq!(seen.rejects, ["3 syntax", "7 syntax"]);
}

#[test]
fn the_registry_of_a_connection_is_for_avro_alone() {
    let connection = json!({"format_options": {"registry": "http://a", "registry_username": "u"}});
    let connection = connection.as_object().expect("an object");
    let own = json!({"registry": "http://b"});
    for (options, expect) in [
        (json!({"format": "avro"}), json!({"registry": "http://a", "registry_username": "u"})),
        (
            json!({"format": "avro", "format_options": own}),
            json!({"registry": "http://b", "registry_username": "u"}),
        ),
        (json!({}), json!({})),
        (json!({"format_options": {"x": 1}}), json!({"x": 1})),
    ] {
        let read = KafkaOptions::read(&options, connection).expect("sound options");
        assert_eq!(read.format_options, expect, "{options}");
    }
}
