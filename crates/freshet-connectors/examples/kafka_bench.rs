//! How fast a topic is read: `kafka_bench fill BROKERS TOPIC EVENTS [COMPRESSION]` writes events of
//! 340 bytes, `kafka_bench read BROKERS TOPIC EVENTS [fetch]` reads them, decoding four fields, or
//! fetching alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use freshet_connectors::kafka::batch::{BatchBuilder, Stamp, stamp};
use freshet_connectors::kafka::client::Cluster;
use freshet_connectors::kafka::client::produce::Sender;
use freshet_connectors::kafka::options::KafkaOptions;
use freshet_connectors::kafka::records::Compression;
use freshet_core::clock::{Clock, SystemClock};
use freshet_core::config::{HumanDuration, Share};
use freshet_core::contract::{Contract, ContractColumn};
use freshet_core::format::Decoding;
use freshet_core::record::Decoded;
use freshet_core::registry::{ConnectorContext, SourceSpec};
use freshet_core::stream::{Block, Start};
use freshet_core::types::ColumnType;
use freshet_core::{Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [task, brokers, topic, events, rest @ ..] = arguments.as_slice() else {
        return Err(Error::internal("fill|read BROKERS TOPIC EVENTS [COMPRESSION|fetch]"));
    };
    let events: u64 = events.parse().map_err(|_| Error::internal("EVENTS is a number"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Error::internal("could not start").caused_by(error))?;
    match task.as_str() {
        "fill" => {
            let compression = match rest.first().map(String::as_str) {
                Some("gzip") => Compression::Gzip,
                Some("snappy") => Compression::Snappy,
                Some("lz4") => Compression::Lz4,
                Some("zstd") => Compression::Zstd,
                _ => Compression::None,
            };
            runtime.block_on(fill(brokers, topic, events, compression))
        }
        _ => read(&runtime, brokers, topic, events, rest.iter().any(|word| word == "fetch")),
    }
}

async fn fill(brokers: &str, topic: &str, events: u64, compression: Compression) -> Result<()> {
    let options = KafkaOptions { brokers: brokers.into(), ..KafkaOptions::default() };
    let cluster = Arc::new(Cluster::new(options.connection(".".as_ref())?));
    if cluster.topic(topic).await.is_err() {
        cluster.create_topic(topic, 4, &[]).await?;
    }
    let mut sender = Sender::new(Arc::clone(&cluster), topic.into());
    let producer = cluster.producer(None, Duration::from_secs(60)).await?;
    let mut sequences = [0_i32; 4];
    // Old enough ones would be deleted by the topic's retention.
    let now = SystemClock.now_micros() / 1000;
    let mut number = 0;
    while number < events {
        let mut batches = BTreeMap::new();
        for (partition, next) in sequences.iter_mut().enumerate() {
            let mut batch = BatchBuilder::default();
            while batch.len() < 256 << 10 && number < events {
                let text = event(number);
                batch.push(None, Some(text.as_bytes()), &[], now);
                number += 1;
            }
            let count = batch.count();
            if count == 0 {
                continue;
            }
            let mut bytes =
                batch.finish(compression).map_err(|e| Error::internal("batch").caused_by(e))?;
            let sequence = *next;
            *next += count;
            stamp(
                &mut bytes,
                &Stamp {
                    producer_id: producer.id,
                    producer_epoch: producer.epoch,
                    sequence,
                    transactional: false,
                },
            );
            batches.insert(partition as i32, bytes.into());
        }
        sender.send(None, &mut batches).await?;
    }
    Ok(())
}

/// About what Nexmark's bids look like, 340 bytes long.
fn event(number: u64) -> String {
    let (auction, bidder) = (1000 + number % 5000, 2000 + number * 7 % 9000);
    let price = number * 31 % 100_000;
    let mut text = format!(
        "{{\"event_type\":2,\"auction\":{auction},\"bidder\":{bidder},\"price\":{price},\
         \"channel\":\"channel-{}\",\"url\":\"https://www.nexmark.com/{}/item.htm?query=1&channel_id={}\",\
         \"date_time\":\"2024-01-01T00:{:02}:{:02}.{:03}Z\",\"extra\":\"",
        number % 10_000,
        number % 97,
        number % 1_000_000,
        number / 60_000 % 60,
        number / 1000 % 60,
        number % 1000,
    );
    while text.len() < 338 {
        text.push(char::from(b'a' + (number.wrapping_mul(text.len() as u64 + 7) % 26) as u8));
    }
    text.push_str("\"}");
    text
}

fn read(
    runtime: &tokio::runtime::Runtime,
    brokers: &str,
    topic: &str,
    events: u64,
    fetch_only: bool,
) -> Result<()> {
    let options = serde_json::json!({ "brokers": brokers, "topic": topic });
    let contract = Contract {
        columns: vec![
            ContractColumn::new("auction", ColumnType::Int64),
            ContractColumn::new("bidder", ColumnType::Int64),
            ContractColumn::new("price", ColumnType::Int64),
            ContractColumn::new("date_time", ColumnType::TimestampTz),
        ],
        ..Contract::default()
    };
    let spec = SourceSpec {
        name: "bench.bids".into(),
        contract: Arc::new(Contract {
            modes: freshet_core::contract::ContractModes {
                new_columns: freshet_core::ContractMode::DiscardValue,
                ..contract.modes
            },
            ..contract
        }),
        max_bad: Share(0.0),
        settle: HumanDuration(Duration::ZERO),
    };
    let context = ConnectorContext {
        project_dir: ".".into(),
        connection: serde_json::Map::new(),
        clock: Arc::new(SystemClock),
    };
    let _entered = runtime.enter();
    let registry = freshet_connectors::registry();
    let source = registry.get("kafka")?.stream(&options, spec, &context)?;
    let (sender, blocks) = std::sync::mpsc::sync_channel::<Block>(16);
    let partitions = runtime.block_on(source.partitions())?;
    let begun = Instant::now();
    let reading = Arc::clone(&source);
    let of_fetcher = partitions.clone();
    let fetching = runtime.spawn(async move {
        let mut fetcher = reading.fetcher().await?;
        for partition in &of_fetcher {
            fetcher.add(partition, Start::Earliest).await?;
        }
        while let Some(block) = fetcher.fetch().await? {
            if tokio::task::block_in_place(|| sender.send(block)).is_err() {
                break;
            }
        }
        Ok::<_, Error>(())
    });
    let mut decoder = source.decoder(&[0, 1, 2, 3])?;
    for partition in &partitions {
        decoder.add(partition);
    }
    let (mut rows, mut bytes, mut count) = (0, 0, 0_u64);
    let mut out = Decoded::default();
    while rows < events {
        let Ok(block) = blocks.recv() else {
            return runtime
                .block_on(fetching)
                .unwrap_or_else(|_| Err(Error::internal("the fetcher was stopped")));
        };
        count += 1;
        bytes += block.bytes.len();
        if fetch_only {
            let mut at = 0;
            while let Ok(Some(header)) =
                freshet_connectors::kafka::records::BatchHeader::parse(&block.bytes[at..])
            {
                at += header.length;
                rows += header.count as u64;
            }
            continue;
        }
        assert_eq!(decoder.decode(&block, &mut out)?, Decoding::Done);
        rows += out.good;
        assert!(out.balances() && out.rejects.is_empty(), "{:?}", out.rejects.first());
        out.clear();
    }
    let took = begun.elapsed().as_secs_f64();
    drop(blocks);
    fetching.abort();
    let cpu = cpu_seconds();
    println!(
        "{rows} events in {took:.2} s: {:.2} million/s, {:.0} MB/s, {cpu:.2} CPU s, {count} blocks of {} KB",
        rows as f64 / took / 1e6,
        bytes as f64 / took / 1e6,
        bytes as u64 / count.max(1) / 1024,
    );
    Ok(())
}

/// User and system time of this process, in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    // Behind the name the state is field 0; times are the 14th and 15th of all.
    (ticks(11) + ticks(12)) / 100.0
}
