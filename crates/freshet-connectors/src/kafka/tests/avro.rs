//! Messages of Avro, whose schemas a registry has: `FRESHET_TEST_SCHEMA_REGISTRY` names it.

use arrow::array::{ArrayRef, Int64Array, RecordBatch};

use super::*;
use crate::avro::{AvroEncoder, AvroOptions, Framing, SchemaRegistry, WrittenSchema};

#[tokio::test]
async fn messages_are_read_by_the_schema_that_they_name() {
    let mut fixture = Fixture::new("avro", 1, &[]).await;
    let address = variable("FRESHET_TEST_SCHEMA_REGISTRY");
    let options = AvroOptions { registry: Some(address.clone()), ..AvroOptions::default() };
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let batch = RecordBatch::try_from_iter([("id", ids)]).expect("one column");
    let written = WrittenSchema::of(&batch.schema(), &options, None).expect("a schema");
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
