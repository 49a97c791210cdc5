//! How fast one core joins the bids of an auction house with its auctions, as Nexmark's query 20 does:
//! 92 of 100 events are bids of about 250 bytes, all of which are kept; a bid in five finds its
//! auction. A checkpoint is cut and encoded every so many events.
//!
//! `cargo run --release -p freshet-runtime --example join_bench [MILLION_EVENTS]
//! [EVENTS_PER_CHECKPOINT] [MIB_OF_MEMORY]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringViewBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use freshet_core::Result;
use freshet_core::clock::ManualClock;
use freshet_core::rows::Rows;
use freshet_core::stream::EventTime;
use freshet_runtime::checkpoint::write_run;
use freshet_runtime::operator::{Chain, Flow, OperatorContext, OperatorSpec, Port, Tail};
use freshet_runtime::operators::{Join, JoinKind};
use freshet_runtime::state::{Delta, FolderScratch, KeyGroups, SpillOptions};

/// Events of a batch.
const BATCH: usize = 8192;

/// The time that the processor has worked for this process.
struct Cpu(Duration);

impl Cpu {
    fn now() -> Self {
        // As the scheduler counts it, in nanoseconds.
        let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
        let nanoseconds = stat.split(' ').next().and_then(|number| number.parse().ok());
        Self(Duration::from_nanos(nanoseconds.unwrap_or_default()))
    }

    fn elapsed(&self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
    let fields = fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn bids() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    schema(&[
        ("auction", DataType::Int64),
        ("bidder", DataType::Int64),
        ("price", DataType::Int64),
        ("channel", DataType::Utf8View),
        ("url", DataType::Utf8View),
        ("bid_time", time),
        ("bid_extra", DataType::Utf8View),
    ])
}

fn auctions() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    schema(&[
        ("id", DataType::Int64),
        ("item", DataType::Utf8View),
        ("description", DataType::Utf8View),
        ("initial_bid", DataType::Int64),
        ("reserve", DataType::Int64),
        ("auction_time", time.clone()),
        ("expires", time),
        ("seller", DataType::Int64),
        ("category", DataType::Int64),
        ("auction_extra", DataType::Utf8View),
    ])
}

/// Columns of `rows` rows: numbers as given, texts of these lengths in one block of memory each.
fn batch(
    schema: &SchemaRef,
    rows: usize,
    chance: &mut Chance,
    keys: &[i64],
    lengths: &[usize],
) -> RecordBatch {
    let mut lengths = lengths.iter();
    let mut is_key = true;
    let column = |field: &Arc<Field>| -> ArrayRef {
        match field.data_type() {
            DataType::Utf8View => {
                let length = *lengths.next().expect("a length for each text");
                let mut builder = StringViewBuilder::new().with_fixed_block_size(2 << 20);
                let mut text = "x".repeat(length);
                for _ in 0..rows {
                    let number = chance.below(1 << 30);
                    text.replace_range(..8, &format!("{number:08x}")[..8]);
                    builder.append_value(&text);
                }
                Arc::new(builder.finish())
            }
            DataType::Int64 if std::mem::replace(&mut is_key, false) => {
                Arc::new(Int64Array::from(keys.to_vec()))
            }
            DataType::Int64 => Arc::new(Int64Array::from_iter_values(
                (0..rows).map(|_| chance.below(1 << 20) as i64),
            )),
            _ => Arc::new(TimestampMicrosecondArray::from_iter_values(
                (0..rows as i64).map(|row| 1_790_000_000_000_000 + row),
            )),
        }
    };
    let columns = schema.fields().iter().map(column).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).expect("columns of the schema")
}

#[derive(Default)]
struct Counted(u64);

impl Tail for Counted {
    fn rows(&mut self, _from: usize, _port: Port, rows: Rows) -> Result<()> {
        self.0 += rows.len() as u64;
        Ok(())
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let events: f64 = arguments.next().unwrap_or(5.0);
    let events = (events * 1e6) as usize;
    let interval = arguments.next().unwrap_or(300_000.0) as usize;
    let budget = arguments.next().map(|mib| (mib * f64::from(1 << 20)) as usize);
    let spill = match budget {
        Some(budget) => {
            let scratch = Arc::new(FolderScratch::new(std::env::temp_dir().join("join_bench"))?);
            Some(SpillOptions { budget: budget.into(), scratch })
        }
        None => None,
    };
    let groups = KeyGroups::default();
    let join = Join {
        kind: JoinKind::Inner,
        left: bids(),
        right: auctions(),
        left_keys: vec![0],
        right_keys: vec![0],
        residual: None,
        ttl: None,
        groups,
    };
    let context = OperatorContext {
        clock: Arc::new(ManualClock::new(0)),
        groups: groups.range(0, 1),
        watermark: EventTime::MIN,
        spill,
    };
    let mut chain = Chain::new(vec![join.create(&context)?]);
    let mut given = Counted::default();
    let mut chance = Chance(7);
    let (mut made, mut rows_in) = (0, 0_u64);
    let [mut joining, mut draining, mut writing, mut longest, mut longest_cut] =
        [Duration::ZERO; 5];
    let (mut encoded, mut drains, mut next) = (0_usize, 0, interval);
    while made < events {
        // Auctions of which one in five is of the category; bids for one of the last hundred, mostly.
        let newest = (made * 6 / 100) as i64;
        made += BATCH;
        let auctions_of = newest..(made * 6 / 100) as i64;
        let ids: Vec<i64> = auctions_of.filter(|id| (id ^ (id >> 7)) % 5 == 0).collect();
        let count = BATCH * 92 / 100;
        let keys: Vec<i64> = (0..count)
            .map(|row| {
                let newest = newest + (row * 6 / 92) as i64;
                match chance.below(2) {
                    0 => newest / 100 * 100,
                    _ => (newest - chance.below(100) as i64).max(0),
                }
            })
            .collect();
        let right = batch(&auctions(), ids.len(), &mut chance, &ids, &[20, 60, 90]);
        let left = batch(&bids(), count, &mut chance, &keys, &[10, 60, 90]);
        rows_in += (ids.len() + count) as u64;
        let begun = Cpu::now();
        for (input, batch) in [(1, right), (0, left)] {
            let mut flow = chain.on_rows(input, Rows::inserts(batch), &mut given)?;
            while flow == Flow::More {
                flow = chain.resume(&mut given)?;
            }
        }
        joining += begun.elapsed();
        if made < next {
            continue;
        }
        next += interval;
        let begun = Cpu::now();
        let cut = Instant::now();
        chain.freeze();
        let cutting = cut.elapsed();
        let mut longest_piece = Duration::ZERO;
        let mut deltas = [Delta::default()];
        let mut flow = Flow::More;
        while flow == Flow::More {
            let begun = Instant::now();
            flow = chain.drain(256 << 10, &mut deltas)?;
            longest_piece = longest_piece.max(begun.elapsed());
            drains += 1;
        }
        let [mut delta] = deltas;
        draining += begun.elapsed();
        let begun = Cpu::now();
        encoded += write_run(&mut delta).0.len();
        writing += begun.elapsed();
        longest = longest.max(longest_piece);
        longest_cut = longest_cut.max(cutting);
    }
    let size = chain.figures().map(|(_, _, size)| size).last().unwrap_or_default();
    let each = |time: Duration| time.as_nanos() as f64 / made as f64;
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    println!("{made} events, {rows_in} rows in, {} joined", given.0);
    println!(
        "join {:.0} ns an event, its part of checkpoints {:.0} ns, runs of them {:.0} ns (beside the \
         workers): {:.0} events/s on one core",
        each(joining),
        each(draining),
        each(writing),
        1e9 / (each(joining) + each(draining) + each(writing))
    );
    println!(
        "state {:.0} MiB in memory, {} keys; {:.0} MiB written, {drains} pieces, the longest {:.2} ms, the \
         longest cut {:.2} ms",
        mib(size.bytes as f64),
        size.keys,
        mib(encoded as f64),
        longest.as_secs_f64() * 1e3,
        longest_cut.as_secs_f64() * 1e3
    );
    Ok(())
}
