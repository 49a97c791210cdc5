//! Topics of a real broker, one for each test.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use freshet_connectors::registry;
use freshet_core::clock::{Clock, SystemClock};
use freshet_core::config::{HumanDuration, Share};
use freshet_core::format::Decoding;
use freshet_core::record::Decoded;
use freshet_core::registry::SourceSpec;
use freshet_core::stream::{Start, StreamSink};
use freshet_core::{ColumnType, Contract, ContractColumn};
use freshet_testkit::stream_sinks::{SinkUnderTest, conforms};
use serde_json::{Value, json};

use super::{context, sink, variable};

struct Topic {
    options: Value,
    upsert: bool,
}

impl Topic {
    fn new(name: &str, upsert: bool) -> Self {
        let topic = format!("{name}-{}", SystemClock.now_micros());
        let brokers = variable("FRESHET_TEST_KAFKA");
        Self { options: json!({ "brokers": brokers, "topic": topic }), upsert }
    }

    fn with(&self, more: Value) -> Value {
        let mut options = self.options.clone();
        let fields = options.as_object_mut().expect("a mapping");
        fields.extend(more.as_object().expect("a mapping").clone());
        options
    }
}

#[async_trait]
impl SinkUnderTest for Topic {
    fn sink(&self) -> Arc<dyn StreamSink> {
        let options = json!({
            "create_partitions": 1, "upsert": self.upsert,
            "key": if self.upsert { json!(["id"]) } else { json!([]) },
        });
        sink("kafka", &self.with(options), &[])
    }

    /// What a reader of committed messages has seen once nothing more comes for a while.
    async fn rows(&self, _: usize) -> Vec<String> {
        let mut more = json!({ "fetch_wait": "50ms" });
        if self.upsert {
            more["tombstones"] = json!("delete");
            more["key"] = json!(["id"]);
        }
        let columns = vec![
            ContractColumn::new("id", ColumnType::Int64),
            ContractColumn::new("value", ColumnType::Text),
        ];
        let spec = SourceSpec {
            name: "test.messages".into(),
            contract: Arc::new(Contract { columns, ..Contract::default() }),
            max_bad: Share(0.0),
            settle: HumanDuration(Duration::ZERO),
        };
        let registry = registry();
        let connector = registry.get("kafka").expect("it is there");
        let source = connector.stream(&self.with(more), spec, &context()).expect("valid options");
        let partitions = source.partitions().await.expect("the topic is there");
        let mut fetcher = source.fetcher().await.expect("a fetcher");
        let mut decoder = source.decoder(&[0, 1]).expect("a decoder");
        for partition in &partitions {
            fetcher.add(partition, Start::Earliest).await.expect("the partition is there");
            decoder.add(partition);
        }
        let (mut rows, mut keys) = (Vec::new(), BTreeMap::new());
        while let Ok(block) =
            tokio::time::timeout(Duration::from_millis(700), fetcher.fetch()).await
        {
            let block = block.expect("a block").expect("topics do not end");
            let mut out = Decoded::default();
            let decoding = decoder.decode(&block, &mut out).expect("a sound block");
            assert_eq!(decoding, Decoding::Done);
            assert!(out.rejects.is_empty(), "{:?}", out.rejects);
            for (number, batch) in out.batches.iter().enumerate() {
                let ids = batch.column(0).as_primitive::<Int64Type>();
                let values =
                    arrow::compute::cast(batch.column(1), &arrow::datatypes::DataType::Utf8);
                let values = values.expect("text");
                let values = values.as_string::<i32>();
                for row in 0..batch.num_rows() {
                    let adds = out.kinds.get(number).is_none_or(|kinds| kinds[row].adds());
                    let shown = format!("{} {}", ids.value(row), values.value(row));
                    match (self.upsert, adds) {
                        (false, _) => rows.push(shown),
                        (true, true) => drop(keys.insert(ids.value(row), shown)),
                        (true, false) => drop(keys.remove(&ids.value(row))),
                    }
                }
            }
        }
        rows.extend(keys.into_values());
        rows
    }
}

#[tokio::test]
async fn topics_conform() {
    conforms(async |case| Topic::new(&format!("sink-{case}"), false)).await;
}

#[tokio::test]
async fn upsert_topics_conform() {
    conforms(async |case| Topic::new(&format!("upsert-{case}"), true)).await;
}
