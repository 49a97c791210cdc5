//! How fast the embedded log takes records and gives them back: senders push requests of 100 records
//! of 340 bytes and wait until they are durable; then one reader fetches and decodes all.
//!
//! `cargo run --release -p freshet-connectors --example log_bench [REQUESTS] [SENDERS] [FOLDER] [PARTITIONS]`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use freshet_connectors::registry;
use freshet_core::clock::SystemClock;
use freshet_core::contract::{Contract, ContractColumn, ContractMode, ContractModes};
use freshet_core::format::Decoding;
use freshet_core::ingest::{AppendRequest, Record};
use freshet_core::record::Decoded;
use freshet_core::registry::{ConnectorContext, SourceSpec};
use freshet_core::stream::Start;
use futures::StreamExt;

const RECORDS: usize = 100;

fn record(number: usize) -> Record {
    let value = format!(
        "{{\"auction\":{},\"bidder\":{},\"price\":{},\"channel\":\"Google\",\"url\":\"https://www.nexmark.com/abcdefgh/item.htm?query=1&channel_id={number}\",\"dateTime\":\"2026-11-23 01:02:03.004\",\"extra\":\"{:x<120}\"}}",
        1000 + number % 9973,
        1000 + number % 99_991,
        number * 7919 % 10_000_000,
        number,
    );
    Record::keyed(format!("{}", number % 9973), value)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number =
        |or: usize| arguments.next().and_then(|argument| argument.parse().ok()).unwrap_or(or);
    let (requests, senders) = (number(5000), number(64));
    let folder = arguments.next().map(PathBuf::from);
    let temporary = tempfile::tempdir().expect("a folder for the log");
    let context = ConnectorContext {
        project_dir: folder.unwrap_or_else(|| temporary.path().to_owned()),
        connection: serde_json::Map::new(),
        clock: Arc::new(SystemClock),
    };
    let columns = ["auction", "bidder", "price"]
        .map(|name| ContractColumn::new(name, "bigint".parse().expect("a type")).not_null());
    let modes =
        ContractModes { new_columns: ContractMode::DiscardValue, ..ContractModes::default() };
    let spec = SourceSpec {
        name: "bench.bids".into(),
        contract: Arc::new(Contract { columns: columns.to_vec(), modes, ..Contract::default() }),
        max_bad: "5%".parse().expect("a share"),
        settle: "0s".parse().expect("a duration"),
    };
    let registry = registry();
    let connector = registry.get("log").expect("it is there");
    let partitions =
        arguments.next().and_then(|argument| argument.parse::<u32>().ok()).unwrap_or(4);
    let options = serde_json::json!({"partitions": partitions});
    let log = connector.ingest(&options, spec.clone(), &context).expect("the log opens");
    let source = connector.stream(&options, spec, &context).expect("the log opens");

    let prepared: Vec<AppendRequest> = (0..requests)
        .map(|request| AppendRequest {
            records: (0..RECORDS).map(|index| record(request * RECORDS + index)).collect(),
            ..AppendRequest::default()
        })
        .collect();
    let bytes: usize =
        prepared.iter().flat_map(|request| &request.records).map(|r| r.value.len()).sum();
    let start = Instant::now();
    let mut latencies: Vec<f64> = futures::stream::iter(prepared)
        .map(|request| {
            let log = Arc::clone(&log);
            async move {
                let start = Instant::now();
                tokio::spawn(async move { log.append(request).await })
                    .await
                    .expect("it runs to its end")
                    .expect("it is appended");
                start.elapsed().as_secs_f64() * 1e3
            }
        })
        .buffer_unordered(senders)
        .collect()
        .await;
    let seconds = start.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    let records = requests * RECORDS;
    println!(
        "pushed {records} records: {:.0} records/s, {:.0} MB/s, p50 {:.1} ms, p99 {:.1} ms a request",
        records as f64 / seconds,
        bytes as f64 / 1e6 / seconds,
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
    );
    let mut fetcher = source.fetcher().await.expect("it is read");
    for partition in source.partitions().await.expect("it has some") {
        fetcher.add(&partition, Start::Earliest).await.expect("it is there");
    }
    let mut decoder = source.decoder(&[0, 1, 2]).expect("the projection is sound");
    let (start, mut good, mut fetching) = (Instant::now(), 0, 0.0);
    while good < records as u64 {
        let fetch = Instant::now();
        let block = fetcher.fetch().await.expect("it is sound").expect("it has no end");
        fetching += fetch.elapsed().as_secs_f64();
        let mut out = Decoded::default();
        let decoding = decoder.decode(&block, &mut out).expect("it is sound");
        assert_eq!(decoding, Decoding::Done);
        good += out.good;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "read {good} records: {:.0} records/s, {:.0} MB/s, of which fetching {:.0} MB/s",
        good as f64 / seconds,
        bytes as f64 / 1e6 / seconds,
        bytes as f64 / 1e6 / fetching,
    );
}
