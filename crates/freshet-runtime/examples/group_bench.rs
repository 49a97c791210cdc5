//! How fast one core groups rows, or keeps the first of each key, with more keys than memory may hold. A
//! checkpoint is cut and encoded every so many rows.
//!
//! `cargo run --release -p freshet-runtime --example group_bench [MILLION_ROWS] [THOUSAND_KEYS]
//! [ROWS_PER_CHECKPOINT] [MIB_OF_MEMORY]`

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use freshet_core::Result;
use freshet_core::clock::ManualClock;
use freshet_core::rows::Rows;
use freshet_core::stream::EventTime;
use freshet_runtime::aggregate::{AggregateSpec, Count, Sum};
use freshet_runtime::checkpoint::write_run;
use freshet_runtime::operator::{Chain, Flow, OperatorContext, OperatorSpec, Port, Tail};
use freshet_runtime::operators::{Deduplicate, GroupAggregate};
use freshet_runtime::state::{Delta, FolderScratch, KeyGroups, SpillOptions};

/// Rows of a batch.
const BATCH: usize = 8192;

/// Seconds that the processor has worked for this process.
fn cpu() -> f64 {
    // As the scheduler counts it, in nanoseconds.
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds: Option<f64> = stat.split(' ').next().and_then(|number| number.parse().ok());
    nanoseconds.unwrap_or_default() / 1e9
}

#[derive(Default)]
struct Counted(u64);

impl Tail for Counted {
    fn rows(&mut self, _from: usize, _port: Port, rows: Rows) -> Result<()> {
        self.0 += rows.len() as u64;
        Ok(())
    }
}

fn schema() -> SchemaRef {
    let field = |name: &str| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(["key", "second", "value"].map(field).to_vec()))
}

/// Nine rows in ten are of a tenth of the keys.
fn batch(keys: u64, chance: &mut u64) -> RecordBatch {
    let mut next = |below: u64| {
        *chance =
            chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*chance >> 33) % below.max(1)
    };
    let chosen: Vec<i64> = (0..BATCH)
        .map(|_| if next(10) > 0 { next(keys / 10) as i64 } else { next(keys) as i64 })
        .collect();
    let column = |of: &dyn Fn(i64) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(chosen.iter().map(|key| of(*key))))
    };
    let columns = vec![column(&|key| key), column(&|key| key ^ 1), column(&|key| key % 7)];
    RecordBatch::try_new(schema(), columns).expect("columns of the schema")
}

fn operators() -> Vec<(&'static str, Arc<dyn OperatorSpec>)> {
    let (int, groups) = (DataType::Int64, KeyGroups::default());
    let group = |keys: Vec<usize>| -> Arc<dyn OperatorSpec> {
        let sum = Sum::new(2, int.clone(), int.clone()).expect("a sum of integers");
        let aggregates: Vec<Arc<dyn AggregateSpec>> = vec![Arc::new(Count::rows()), Arc::new(sum)];
        let names = ["n", "sum"].map(str::to_owned).to_vec();
        Arc::new(GroupAggregate { input: schema(), keys, aggregates, names, groups, ttl: None })
    };
    let order = vec![(2, SortOptions::default())];
    let first =
        Deduplicate { input: schema(), keys: vec![0], order, settled: None, groups, ttl: None };
    vec![
        ("group by one number", group(vec![0])),
        ("group by two numbers", group(vec![0, 1])),
        ("first of a number", Arc::new(first)),
    ]
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let rows = (arguments.next().unwrap_or(10.0) * 1e6) as usize;
    let keys = (arguments.next().unwrap_or(1000.0) * 1e3) as u64;
    let interval = arguments.next().unwrap_or(500_000.0) as usize;
    let budget = arguments.next().map(|mib| (mib * f64::from(1 << 20)) as usize);
    for (name, spec) in operators() {
        let spill = match budget {
            Some(budget) => {
                let scratch =
                    Arc::new(FolderScratch::new(std::env::temp_dir().join("group_bench"))?);
                Some(SpillOptions { budget: budget.into(), scratch })
            }
            None => None,
        };
        let context = OperatorContext {
            clock: Arc::new(ManualClock::new(0)),
            groups: KeyGroups::default().range(0, 1),
            watermark: EventTime::MIN,
            spill,
        };
        let mut chain = Chain::new(vec![spec.create(&context)?]);
        let (mut chance, mut given, mut most) = (7, Counted::default(), 0);
        let (mut working, mut longest) = (0.0, 0.0_f64);
        for number in 0..rows / BATCH {
            let batch = batch(keys, &mut chance);
            let (begun, worked) = (Instant::now(), cpu());
            let _ = chain.on_rows(0, Rows::inserts(batch), &mut given)?;
            if number % 4 == 3 {
                chain.flush(&mut given)?;
            }
            working += cpu() - worked;
            longest = longest.max(begun.elapsed().as_secs_f64());
            if number * BATCH / interval != (number + 1) * BATCH / interval {
                let worked = cpu();
                chain.flush(&mut given)?;
                chain.freeze();
                let mut deltas = [Delta::default()];
                while chain.drain(1 << 20, &mut deltas)? == Flow::More {}
                working += cpu() - worked;
                write_run(&mut deltas[0]);
            }
            let size = chain.figures().map(|(_, _, size)| size).last().unwrap_or_default();
            most = most.max(size.bytes);
        }
        let size = chain.figures().map(|(_, _, size)| size).last().unwrap_or_default();
        println!(
            "{name}: {:.0} ns a row, {:.2} M rows/s on one core; {} keys, {:.1} MiB of memory at most, {:.0} \
             bytes a key; the longest batch {:.1} ms; {} rows given",
            working * 1e9 / rows as f64,
            rows as f64 / working / 1e6,
            size.keys,
            most as f64 / f64::from(1 << 20),
            most as f64 / size.keys as f64,
            longest * 1e3,
            given.0
        );
    }
    Ok(())
}
