//! How long an event is on its way through a job: `latency BROKERS IN OUT RATE SECONDS [KEYS]` sends
//! RATE events a second to topic IN, each with the time at which it was due, and reads them from topic
//! OUT, where a job writes them. OUT's records need the columns `id` and `sent`.
//!
//! Prints a line of JSON: milliseconds by percentile, for each second the worst, and those from the
//! start of sending to the first row.
//! `latency fill BROKERS IN EVENTS BYTES` fills a topic with keyed rows instead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use freshet_connectors::kafka::batch::{BatchBuilder, Stamp, stamp};
use freshet_connectors::kafka::client::Cluster;
use freshet_connectors::kafka::client::produce::{Producer, Sender};
use freshet_connectors::kafka::options::KafkaOptions;
use freshet_connectors::kafka::records::Compression;
use freshet_core::clock::{Clock, SystemClock};
use freshet_core::config::{HumanDuration, Share};
use freshet_core::contract::{Contract, ContractColumn, ContractModes};
use freshet_core::format::Decoding;
use freshet_core::record::Decoded;
use freshet_core::registry::{ConnectorContext, SourceSpec};
use freshet_core::stream::{Start, StreamSource};
use freshet_core::types::ColumnType;
use freshet_core::{ContractMode, Error, Result};

/// Between two batches that are sent.
const TICK: Duration = Duration::from_millis(1);
/// Events of the first seconds do not count: the job may still start.
const WARM: i64 = 3_000_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| {
        text.parse::<u64>().map_err(|_| Error::internal(format!("{text} is no number")))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::internal("could not start").caused_by(error))?;
    match words.as_slice() {
        ["fill", brokers, topic, events, bytes] => {
            runtime.block_on(fill(brokers, topic, number(events)?, number(bytes)? as usize))
        }
        [brokers, input, output, rate, seconds, rest @ ..] => {
            let keys = rest.first().map_or(Ok(u64::MAX), |keys| number(keys))?;
            let run = measure(brokers, input, output, number(rate)?, number(seconds)?, keys);
            runtime.block_on(run)
        }
        _ => Err(Error::internal("latency BROKERS IN OUT RATE SECONDS [KEYS]")),
    }
}

/// Writes to all partitions of a topic in turn.
struct Writer {
    sender: Sender,
    producer: Producer,
    sequences: Vec<i32>,
}

impl Writer {
    async fn new(brokers: &str, topic: &str) -> Result<Self> {
        let options = KafkaOptions { brokers: brokers.into(), ..KafkaOptions::default() };
        let cluster = Arc::new(Cluster::new(options.connection(".".as_ref())?));
        let partitions = cluster.topic(topic).await?.leaders.len();
        let producer = cluster.producer(None, Duration::from_secs(60)).await?;
        let sender = Sender::new(cluster, topic.into());
        Ok(Self { sender, producer, sequences: vec![0; partitions] })
    }

    /// Sends these values, which go to the partitions in turn; returns once they were taken.
    async fn send(&mut self, values: &[String]) -> Result<()> {
        let now = SystemClock.now_micros() / 1000;
        let mut builders: Vec<BatchBuilder> =
            self.sequences.iter().map(|_| BatchBuilder::default()).collect();
        let partitions = builders.len();
        for (place, value) in values.iter().enumerate() {
            builders[place % partitions].push(None, Some(value.as_bytes()), &[], now);
        }
        let mut batches = BTreeMap::new();
        for (partition, mut builder) in builders.into_iter().enumerate() {
            let count = builder.count();
            if count == 0 {
                continue;
            }
            let mut bytes = builder
                .finish(Compression::None)
                .map_err(|error| Error::internal("batch").caused_by(error))?;
            let next = &mut self.sequences[partition];
            stamp(
                &mut bytes,
                &Stamp {
                    producer_id: self.producer.id,
                    producer_epoch: self.producer.epoch,
                    sequence: *next,
                    transactional: false,
                },
            );
            *next += count;
            batches.insert(partition as i32, bytes.into());
        }
        self.sender.send(None, &mut batches).await
    }
}

/// Rows with keys from 0, each so many bytes long.
async fn fill(brokers: &str, topic: &str, events: u64, bytes: usize) -> Result<()> {
    let mut writer = Writer::new(brokers, topic).await?;
    let mut next = 0;
    while next < events {
        let end = (next + 4_000).min(events);
        let values: Vec<String> = (next..end)
            .map(|key| {
                let mut value = format!("{{\"key\":{key},\"text\":\"");
                let mut word = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                while value.len() + 2 < bytes {
                    value.push(char::from(b'a' + (word % 26) as u8));
                    word = word.rotate_left(7).wrapping_mul(31).wrapping_add(key);
                }
                value.push_str("\"}");
                value
            })
            .collect();
        writer.send(&values).await?;
        next = end;
    }
    println!("{events}");
    Ok(())
}

async fn measure(
    brokers: &str,
    input: &str,
    output: &str,
    rate: u64,
    seconds: u64,
    keys: u64,
) -> Result<()> {
    let source = output_of(brokers, output)?;
    let partitions = source.partitions().await?;
    let mut fetcher = source.fetcher().await?;
    for partition in &partitions {
        fetcher.add(partition, Start::Latest).await?;
    }
    let mut decoder = source.decoder(&[0, 1])?;
    for partition in &partitions {
        decoder.add(partition);
    }
    let mut writer = Writer::new(brokers, input).await?;
    let begun = SystemClock.now_micros();
    let total = rate * seconds;
    let sending = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(TICK);
        let mut sent = 0;
        while sent < total {
            ticks.tick().await;
            let elapsed = SystemClock.now_micros() - begun;
            let due = (elapsed.max(0) as u64 * rate / 1_000_000).min(total);
            // An event's time is when it was due: a slow broker does not make us look fast.
            let values: Vec<String> = (sent..due)
                .map(|id| {
                    let time = begun + (id * 1_000_000 / rate) as i64;
                    format!("{{\"id\":{id},\"key\":{},\"sent\":{time}}}", id % keys)
                })
                .collect();
            if !values.is_empty() {
                writer.send(&values).await?;
            }
            sent = due;
        }
        Ok::<_, Error>(())
    });
    let (mut rows, mut latencies, mut first) = (0, Vec::new(), None);
    let mut worst: BTreeMap<i64, i64> = BTreeMap::new();
    let mut out = Decoded::default();
    let patience = Duration::from_secs(60);
    while rows < total {
        let block = tokio::time::timeout(patience, fetcher.fetch()).await.map_err(|_| {
            Error::internal(format!("{rows} of {total} events came, and no more for a minute"))
        })??;
        let now = SystemClock.now_micros();
        let Some(block) = block else { break };
        if decoder.decode(&block, &mut out)? == Decoding::Waits {
            return Err(Error::internal("a decoder of JSON waits for something"));
        }
        for batch in &out.batches {
            let sent = batch.column(1).as_primitive::<Int64Type>();
            // Rows of an earlier run may come first, where the job goes on from a checkpoint.
            for sent in sent.iter().flatten().filter(|sent| *sent >= begun) {
                rows += 1;
                first.get_or_insert(now - begun);
                if sent - begun >= WARM {
                    latencies.push(now - sent);
                    let second = worst.entry((sent - begun) / 1_000_000).or_default();
                    *second = (*second).max(now - sent);
                }
            }
        }
        out.clear();
    }
    sending.await.map_err(|error| Error::internal("the sender failed").caused_by(error))??;
    latencies.sort_unstable();
    let millis = |micros: i64| (micros as f64 / 10.0).round() / 100.0;
    let at = |share: f64| {
        let place = (latencies.len() as f64 * share) as usize;
        latencies.get(place.min(latencies.len().saturating_sub(1))).copied().map_or(0.0, millis)
    };
    let report = serde_json::json!({
        "events": latencies.len(),
        "first_ms": first.map(millis),
        "p50_ms": at(0.5),
        "p90_ms": at(0.9),
        "p99_ms": at(0.99),
        "p999_ms": at(0.999),
        "max_ms": at(1.0),
        "worst_by_second_ms": worst.values().copied().map(millis).collect::<Vec<_>>(),
    });
    println!("{report}");
    Ok(())
}

/// The topic that the job writes.
fn output_of(brokers: &str, topic: &str) -> Result<Arc<dyn StreamSource>> {
    let options = serde_json::json!({ "brokers": brokers, "topic": topic, "fetch_wait": "100ms" });
    let contract = Contract {
        columns: vec![
            ContractColumn::new("id", ColumnType::Int64),
            ContractColumn::new("sent", ColumnType::Int64),
        ],
        modes: ContractModes {
            new_columns: ContractMode::DiscardValue,
            ..Contract::default().modes
        },
        ..Contract::default()
    };
    let spec = SourceSpec {
        name: "bench.out".into(),
        contract: Arc::new(contract),
        max_bad: Share(0.0),
        settle: HumanDuration(Duration::ZERO),
    };
    let context = ConnectorContext {
        project_dir: ".".into(),
        connection: serde_json::Map::new(),
        clock: Arc::new(SystemClock),
    };
    freshet_connectors::registry().get("kafka")?.stream(&options, spec, &context)
}
