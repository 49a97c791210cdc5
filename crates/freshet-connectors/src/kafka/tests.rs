//! Against a real broker: `FRESHET_TEST_KAFKA` names it (`cargo xtask test` starts one). Each test
//! has a topic of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use freshet_core::clock::{Clock, SystemClock};
use freshet_core::config::{HumanDuration, Share};
use freshet_core::format::Decoding;
use freshet_core::record::Decoded;
use freshet_core::rows::RowKind;
use freshet_core::stream::{Fetcher, Partition, Start};
use freshet_core::{ColumnType, Contract, ContractColumn};
use serde_json::json;

use super::batch::{BatchBuilder, Stamp, stamp};
use super::client::Cluster;
use super::client::produce::{Producer, Sender};
use super::records::Compression;
use super::*;

mod avro;
mod broker;
mod group;
mod ingest;
mod read;
mod records;
mod write;

/// The value of a variable that `cargo xtask test` sets.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: `cargo xtask test` starts a broker and sets it")
    })
}

/// A topic of one test.
struct Fixture {
    brokers: String,
    topic: String,
    cluster: Arc<Cluster>,
    sender: Sender,
    sequence: BTreeMap<(i64, i32), i32>,
}

impl Fixture {
    async fn new(name: &str, partitions: i32, settings: &[(&str, &str)]) -> Self {
        Self::at(&variable("FRESHET_TEST_KAFKA"), name, partitions, settings).await
    }

    async fn at(brokers: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Self {
        let topic = format!("{name}-{}", SystemClock.now_micros());
        let options = KafkaOptions { brokers: brokers.to_owned(), ..KafkaOptions::default() };
        let connection = options.connection(".".as_ref()).expect("valid options");
        let cluster = Arc::new(Cluster::new(connection));
        cluster.create_topic(&topic, partitions, settings).await.expect("the topic can be made");
        // A topic is made before all brokers know of it, and who leads its partitions.
        let led = async {
            loop {
                match cluster.topic(&topic).await {
                    Ok(known) if known.leaders.values().all(Option::is_some) => break,
                    Err(error) if !error.is_retryable() => panic!("{error:?}"),
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), led).await.expect("partitions have leaders");
        let sender = Sender::new(Arc::clone(&cluster), topic.as_str().into());
        Self { brokers: brokers.to_owned(), topic, cluster, sender, sequence: BTreeMap::new() }
    }

    fn options(&self, more: Value) -> Value {
        let mut options = json!({ "brokers": self.brokers, "topic": self.topic });
        let fields = options.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        options
    }

    fn source(&self, more: Value) -> Arc<dyn StreamSource> {
        source(&self.options(more)).expect("valid options")
    }

    fn sink(&self, more: Value) -> Arc<dyn StreamSink> {
        self.try_sink(more).expect("valid options")
    }

    fn try_sink(&self, more: Value) -> Result<Arc<dyn StreamSink>> {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8View, true),
        ]);
        let spec = StreamSinkSpec {
            writer: "dev/t".into(),
            table: "t".into(),
            schema: Arc::new(schema),
            unique_key: Vec::new(),
        };
        connector().stream_sink(&self.options(more), &spec, &context())
    }

    /// Writes messages: key, value.
    async fn send(
        &mut self,
        partition: i32,
        messages: &[(Option<&str>, Option<&str>)],
        compression: Compression,
    ) {
        let mut batch = BatchBuilder::default();
        for (key, value) in messages {
            let headers = [(b"from".as_slice(), Some(b"test".as_slice()))];
            batch.push(
                key.map(str::as_bytes),
                value.map(str::as_bytes),
                &headers,
                SystemClock.now_micros() / 1000,
            );
        }
        let batch = batch.finish(compression).expect("it can be compressed");
        self.deliver(partition, batch, None, None).await;
    }

    async fn deliver(
        &mut self,
        partition: i32,
        mut batch: Vec<u8>,
        producer: Option<Producer>,
        transaction: Option<&str>,
    ) {
        if let Some(producer) = producer {
            let header = super::records::BatchHeader::parse(&batch).expect("sound").expect("whole");
            let sequence = self.sequence.entry((producer.id, partition)).or_default();
            let stamped = Stamp {
                producer_id: producer.id,
                producer_epoch: producer.epoch,
                sequence: *sequence,
                transactional: transaction.is_some(),
            };
            stamp(&mut batch, &stamped);
            *sequence += header.count;
        }
        let mut batches = BTreeMap::from([(partition, Bytes::from(batch))]);
        // A topic is made before all know who leads it.
        for _ in 0..100 {
            match self.sender.send(transaction, &mut batches).await {
                Ok(()) => return,
                Err(error) if error.is_retryable() => {
                    tokio::time::sleep(Duration::from_millis(50)).await
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        panic!("the broker takes no messages");
    }
}

fn connector() -> KafkaConnector {
    KafkaConnector::new(crate::formats())
}

fn context() -> ConnectorContext {
    ConnectorContext {
        project_dir: std::env::temp_dir(),
        connection: serde_json::Map::new(),
        clock: Arc::new(SystemClock),
    }
}

fn source(options: &Value) -> Result<Arc<dyn StreamSource>> {
    let columns = vec![
        ContractColumn::new("id", ColumnType::Int64),
        ContractColumn::new("name", ColumnType::Text),
    ];
    source_of(options, Contract { columns, ..Contract::default() })
}

fn source_of(options: &Value, contract: Contract) -> Result<Arc<dyn StreamSource>> {
    let spec = SourceSpec {
        name: "test.messages".into(),
        contract: Arc::new(contract),
        max_bad: Share(0.0),
        settle: HumanDuration(Duration::ZERO),
    };
    connector().stream(options, spec, &context())
}

/// What was read: rows as text, each behind its kind, and what else was counted.
#[derive(Debug, Default)]
struct Seen {
    rows: Vec<String>,
    rejects: Vec<String>,
    records: u64,
    filtered: u64,
    /// Behind the last block of each partition.
    next: BTreeMap<Partition, u64>,
}

/// Reads until `records` were seen, bad and filtered ones included, or the topic's end.
async fn read(
    source: &Arc<dyn StreamSource>,
    projection: &[usize],
    start: Start,
    records: u64,
) -> Seen {
    let partitions = source.partitions().await.expect("the topic is there");
    let mut fetcher = source.fetcher().await.expect("a fetcher");
    for partition in &partitions {
        fetcher.add(partition, start).await.expect("the partition is there");
    }
    let mut seen = Seen::default();
    let reading = more(source, &mut fetcher, &partitions, projection, records, &mut seen);
    match tokio::time::timeout(Duration::from_secs(60), reading).await {
        Ok(()) => seen,
        Err(_) => panic!(
            "{records} records were expected, and these came: {seen:?}, waits: {:?}",
            source.waits()
        ),
    }
}

async fn more(
    source: &Arc<dyn StreamSource>,
    fetcher: &mut Box<dyn Fetcher>,
    partitions: &[Partition],
    projection: &[usize],
    records: u64,
    seen: &mut Seen,
) {
    let mut decoder = source.decoder(projection).expect("a decoder");
    for partition in partitions {
        decoder.add(partition);
    }
    while seen.records < records {
        let Some(block) = fetcher.fetch().await.expect("a block") else { return };
        let mut out = Decoded::default();
        while decoder.decode(&block, &mut out).expect("a sound block") == Decoding::Waits {
            out.clear();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(out.balances(), "{out:?}");
        let format = FormatOptions::default().with_null("-");
        for (index, batch) in out.batches.iter().enumerate() {
            let columns: Vec<_> = batch
                .columns()
                .iter()
                .map(|column| {
                    ArrayFormatter::try_new(column, &format).expect("a type that is shown")
                })
                .collect();
            for row in 0..batch.num_rows() {
                let kind = out.kinds.get(index).map_or(RowKind::Insert, |kinds| kinds[row]);
                let values: Vec<_> =
                    columns.iter().map(|column| column.value(row).to_string()).collect();
                seen.rows.push(format!("{} {}", kind.short(), values.join(",")));
            }
        }
        seen.rejects
            .extend(out.rejects.iter().map(|reject| format!("{} {}", reject.offset, reject.rule)));
        seen.records += out.records;
        seen.filtered += out.filtered;
        seen.next.insert(partitions[block.partition].clone(), block.next.0);
    }
}
