//! What a job's state comes to after many checkpoints, with its runs merged and without: runs, bytes, what
//! was written, and how long reading it back takes on one core.
//!
//! `cargo run --release -p freshet-runtime --example state_bench [CHECKPOINTS] [ROWS_PER_CHECKPOINT]`

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use freshet_core::Result;
use freshet_core::clock::ManualClock;
use freshet_core::rows::Rows;
use freshet_core::stream::{EventTime, Generation};
use freshet_runtime::aggregate::{AggregateSpec, Count, Sum};
use freshet_runtime::checkpoint::{
    Fetch, Manifest, Merge, Merger, Merging, Repository, RunRef, Wanted, write_run,
};
use freshet_runtime::operator::{Chain, Flow, OperatorContext, OperatorSpec, Port, Tail};
use freshet_runtime::operators::{GroupAggregate, Join, JoinKind};
use freshet_runtime::state::{Delta, Entry, KeyGroups};
use futures::executor::block_on;
use futures::future::BoxFuture;
use object_store::memory::InMemory;

struct Stored(Repository);

impl Fetch for Stored {
    fn fetch<'a>(&'a self, file: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(self.0.get(file, range))
    }
}

#[derive(Default)]
struct Nowhere;

impl Tail for Nowhere {
    fn rows(&mut self, _from: usize, _port: Port, _rows: Rows) -> Result<()> {
        Ok(())
    }
}

fn schema() -> SchemaRef {
    let field = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(["key", "value", "other"].map(field).to_vec()))
}

fn batch(rows: usize, keys: u64, chance: &mut u64) -> RecordBatch {
    let mut column = |below: u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values((0..rows).map(|_| {
            *chance = chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((*chance >> 33) % below) as i64
        })))
    };
    let columns = vec![column(keys), column(1 << 30), column(1 << 30)];
    RecordBatch::try_new(schema(), columns).expect("columns of the schema")
}

fn operator(name: &str) -> Arc<dyn OperatorSpec> {
    let groups = KeyGroups::default();
    if name == "join" {
        return Arc::new(Join {
            kind: JoinKind::Inner,
            left: schema(),
            right: schema(),
            left_keys: vec![0],
            right_keys: vec![0],
            residual: None,
            ttl: None,
            groups,
        });
    }
    let int = DataType::Int64;
    let sum = Sum::new(1, int.clone(), int).expect("a sum of integers");
    let aggregates: Vec<Arc<dyn AggregateSpec>> = vec![Arc::new(Count::rows()), Arc::new(sum)];
    Arc::new(GroupAggregate {
        input: schema(),
        keys: vec![0],
        aggregates,
        names: ["n", "sum"].map(str::to_owned).to_vec(),
        groups,
        ttl: None,
    })
}

fn chain(name: &str) -> Result<Chain> {
    let context = OperatorContext {
        clock: Arc::new(ManualClock::new(0)),
        groups: KeyGroups::default().range(0, 1),
        watermark: EventTime::MIN,
        spill: None,
    };
    Ok(Chain::new(vec![operator(name).create(&context)?]))
}

async fn bench(name: &str, checkpoints: u64, rows: usize, merging: Merging) -> Result<()> {
    let store = Stored(Repository::new(Arc::new(InMemory::new()), "job"));
    let mut manifest = Manifest::empty("job", KeyGroups::default());
    let groups = manifest.groups.range(0, 1);
    let mut chain = chain(name)?;
    let (mut chance, mut written, mut merged, mut most) = (7, 0, 0, 0);
    let (mut merge_time, mut longest) = (Duration::ZERO, Duration::ZERO);
    for number in 0..checkpoints {
        let keys = rows as u64 * checkpoints / 4;
        let _ = chain.on_rows(0, Rows::inserts(batch(rows, keys, &mut chance)), &mut Nowhere)?;
        chain.flush(&mut Nowhere)?;
        chain.freeze();
        let mut deltas = [Delta::default()];
        while chain.drain(1 << 20, &mut deltas)? == Flow::More {}
        manifest.epoch = manifest.epoch.next();
        let (bytes, entries) = write_run(&mut deltas[0]);
        let file = store.0.state_path(&format!("{number:020}-1-0"));
        let (len, expires) = (bytes.len() as u64, BTreeMap::from([(0, EventTime::MAX)]));
        written += len;
        store.0.put(&file, vec![bytes]).await?;
        let run = RunRef { file, offset: 0, len, entries, groups, expires };
        manifest.operators.entry("state".into()).or_default().push(run);
        while let Some(mut merge) = Merge::plan(&manifest, "state", groups, merging) {
            merge.id = number;
            let begun = Instant::now();
            let run = store.0.merge(&merge, Generation(1), &store, || true).await?;
            merged += run.as_ref().map_or(0, |run| run.len);
            merge.apply(run, manifest.operators.get_mut("state").expect("it has runs"));
            merge_time += begun.elapsed();
            longest = longest.max(begun.elapsed());
        }
        most = manifest.operators["state"].len().max(most);
    }
    let runs = &manifest.operators["state"];
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let bytes = runs.iter().map(|run| run.len).sum();
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut restored = self::chain(name)?;
        let wanted = Wanted { groups, floors: BTreeMap::new(), removed: false };
        let begun = Instant::now();
        let mut merger = Merger::new(runs, &wanted, &store).await?;
        while merger.advance().await? {
            let entries: Vec<Entry<'_>> = merger.entries().map(|(entry, _)| entry).collect();
            restored.load(0, &entries)?;
        }
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!(
        "{name}, merged by {}: {} runs, {most} at most, {:.1} MiB; manifest {:.0} KiB; written {:.1} MiB, \
         merged {:.1} MiB ({:.2} times) in {:.2} s, the longest {:.0} ms; restored in {:.0} ms",
        merging.fan_in,
        runs.len(),
        mib(bytes),
        manifest.encode().len() as f64 / 1024.0,
        mib(written),
        mib(merged),
        merged as f64 / written as f64,
        merge_time.as_secs_f64(),
        longest.as_secs_f64() * 1e3,
        times[2].as_secs_f64() * 1e3,
    );
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let checkpoints = arguments.next().unwrap_or(1000);
    let rows = arguments.next().unwrap_or(5000) as usize;
    for name in ["group", "join"] {
        for fan_in in [0, Merging::default().fan_in] {
            let merging = Merging { fan_in, ..Merging::default() };
            block_on(bench(name, checkpoints, rows, merging))?;
        }
    }
    Ok(())
}
