//! Reads files through the connector `files` with two workers and prints the speed.
//!
//! `cargo run --release -p freshet-connectors --example files_bench -- PATTERN [COLUMN…]`

use std::sync::Arc;
use std::time::Instant;

use freshet_core::clock::SystemClock;
use freshet_core::config::{HumanDuration, Share};
use freshet_core::contract::ContractModes;
use freshet_core::registry::{ConnectorContext, SourceSpec};
use freshet_core::source::{Extent, Purpose, SplitRequest};
use freshet_core::{Contract, Result};
use futures::StreamExt;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "*.csv".to_owned());
    let wanted: Vec<String> = arguments.collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the machine has threads");
    runtime.block_on(read(&path, &wanted))
}

async fn read(path: &str, wanted: &[String]) -> Result<()> {
    let context = ConnectorContext {
        project_dir: ".".into(),
        connection: serde_json::Map::new(),
        clock: Arc::new(SystemClock),
    };
    let guess = freshet_connectors::infer::infer(path, &context).await?;
    println!("{}", guess.to_yaml("bench", "files"));
    let columns = guess.columns.clone();
    let options = serde_json::json!({
        "path": path,
        "format": guess.format,
        "format_options": guess.format_options,
    });
    let spec = SourceSpec {
        name: "bench.files".into(),
        contract: Arc::new(Contract {
            columns,
            modes: ContractModes::default(),
            ..Contract::default()
        }),
        max_bad: Share(0.5),
        settle: HumanDuration(std::time::Duration::ZERO),
    };
    let registry = freshet_connectors::registry();
    let source = registry.get("files")?.source(&options, spec, &context)?;
    for round in 0..5 {
        let begin = Instant::now();
        let requests = source
            .splits()
            .await?
            .into_iter()
            .map(|split| SplitRequest { split, extent: Extent::Whole })
            .collect();
        let scan = source.plan(requests, Arc::default()).await?;
        let planned = begin.elapsed();
        let schema = scan.schema();
        let projection: Vec<usize> = (0..schema.fields().len())
            .filter(|index| wanted.contains(schema.field(*index).name()))
            .collect();
        let running = scan.start(&projection, 8192, Purpose::Build)?;
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let mut worker = running.worker();
                tokio::spawn(async move {
                    let mut rows = 0;
                    while let Some(batch) = worker.next().await {
                        rows += batch?.num_rows();
                    }
                    Ok::<_, freshet_core::Error>(rows)
                })
            })
            .collect();
        let mut rows = 0;
        for worker in workers {
            rows += worker.await.expect("workers do not panic")?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        let report = running.report();
        let bad: usize = report.splits.iter().map(|split| split.rejects.len()).sum();
        println!(
            "{round}: {rows} rows, {bad} bad, {:.3} s (plan {:.3} s), {:.0} MB/s",
            seconds,
            planned.as_secs_f64(),
            scan.total_bytes() as f64 / 1e6 / seconds,
        );
    }
    Ok(())
}
