//! Streaming statements against the same question asked of DataFusion in batch, whose functions know
//! nothing of our windows: straight through, at several parallelisms, and killed and restored.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray};
use arrow::array::{Decimal128Array, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use freshet_core::config::ByteSize;
use freshet_core::error::code;
use freshet_core::{Location, Result};
use freshet_engine::session::{CATALOG, Sessions, register};
use freshet_engine::streaming::{self, StreamCatalog, StreamTable, TimeColumn};
use freshet_runtime::checkpoint::Settings;
use freshet_runtime::job::{JobOptions, Restart};
use freshet_runtime::plan::{JobPlan, JobSource, SinkPlan};
use freshet_runtime::source::WatermarkSpec;
use freshet_runtime::state::KeyGroups;
use freshet_testkit::seeds;
use freshet_testkit::sim::{BatchSource, Chance, Faults, Process, SimSink, Stepped, Target, World};
use object_store::memory::InMemory;

const SECOND: i64 = 1_000_000;

/// Orders: `at` (at most two seconds out of order), `city`, `amount`, `price`, `weight`.
fn orders(seed: u64, partitions: usize) -> Vec<RecordBatch> {
    let chance = Chance::new(seed);
    let partition = |_: usize| {
        let rows = chance.between(0..300);
        let start = 1_790_000_000 * SECOND;
        let next = |null: f64, range: std::ops::Range<i64>| {
            (!chance.happens(null)).then(|| chance.between(range))
        };
        let cities = ["Berlin", "Lyon", "a city whose name is longer than any view holds", ""];
        let mut columns: [Vec<Option<i64>>; 5] = Default::default();
        for row in 0..rows {
            let disorder = next(0.0, 0..2 * SECOND).unwrap_or(0);
            columns[0].push(Some(start + row * SECOND / 5 - disorder));
            columns[1].push(next(0.1, 0..4));
            columns[2].push(next(0.1, -50..1000));
            columns[3].push(next(0.2, -10_000..10_000));
            columns[4].push(next(0.2, 0..64));
        }
        let city = |city: &Option<i64>| city.map(|city| cities[city as usize]);
        let weight = |weight: &Option<i64>| weight.map(|weight| weight as f64 / 8.0);
        let price = Decimal128Array::from_iter(columns[3].iter().map(|v| v.map(i128::from)));
        RecordBatch::try_from_iter_with_nullable([
            (
                "at",
                Arc::new(TimestampMicrosecondArray::from(columns[0].clone())) as ArrayRef,
                false,
            ),
            ("city", Arc::new(columns[1].iter().map(city).collect::<StringViewArray>()), true),
            ("amount", Arc::new(Int64Array::from(columns[2].clone())), true),
            ("price", Arc::new(price.with_precision_and_scale(12, 2).expect("they fit")), true),
            ("weight", Arc::new(columns[4].iter().map(weight).collect::<Float64Array>()), true),
        ])
        .expect("columns of equal length")
    };
    (0..partitions).map(partition).collect()
}

struct Orders {
    partitions: Arc<Vec<RecordBatch>>,
    world: World,
}

impl StreamCatalog for Orders {
    fn time(&self, _table: &str) -> Result<Option<TimeColumn>> {
        Ok(Some(TimeColumn { column: 0, needs: vec![0] }))
    }

    fn source(
        &self,
        _table: &str,
        projection: &[usize],
    ) -> Result<(Arc<dyn JobSource>, Option<WatermarkSpec>)> {
        let time = projection.iter().position(|column| *column == 0).expect("the time is needed");
        let expr = Arc::new(Delayed(time));
        Ok((
            Arc::new(BatchSource {
                partitions: Arc::clone(&self.partitions),
                projection: projection.to_vec(),
                chance: self.world.chance.clone(),
            }),
            Some(WatermarkSpec { expr, idle_after: None }),
        ))
    }
}

/// The time less two seconds.
#[derive(Debug)]
struct Delayed(usize);

impl freshet_core::scalar::ScalarExpr for Delayed {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        use arrow::array::AsArray;
        use arrow::datatypes::TimestampMicrosecondType;
        let times = batch.column(self.0).as_primitive::<TimestampMicrosecondType>();
        let delayed: TimestampMicrosecondArray = times.unary(|time| time - 2 * SECOND);
        Ok(Arc::new(delayed))
    }
}

async fn plan(context: &SessionContext, sql: &str) -> Result<LogicalPlan> {
    streaming::plan(context, sql, &|_| Location::file("the statement")).await
}

fn context() -> SessionContext {
    let sessions = Sessions::new(ByteSize(256 << 20), None, 2, "main").expect("it opens");
    sessions.context()
}

fn stream_context(schema: SchemaRef) -> SessionContext {
    let context = context();
    let table = StreamTable { name: "orders".into(), schema };
    register(&context, "main", "orders", Arc::new(table)).expect("it registers");
    context
}

fn shown(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("a type that is shown"))
        .collect();
    (0..batch.num_rows())
        .map(|row| {
            let values: Vec<_> =
                columns.iter().map(|column| column.value(row).to_string()).collect();
            format!("+I {}", values.join(","))
        })
        .collect()
}

async fn batch_result(partitions: &[RecordBatch], sql: &str) -> Vec<String> {
    let context = context();
    let table = MemTable::try_new(partitions[0].schema(), vec![partitions.to_vec()]);
    register(&context, "main", "orders", Arc::new(table.expect("one schema")))
        .expect("it registers");
    let frame = context.sql(sql).await.expect("the oracle's SQL plans");
    let batches = frame.collect().await.expect("the oracle runs");
    let mut rows: Vec<String> = batches.iter().flat_map(shown).collect();
    rows.sort_unstable();
    rows
}

async fn stream_result(partitions: &Arc<Vec<RecordBatch>>, sql: &str, seed: u64) -> Vec<String> {
    let world = World::new(seed);
    let context = stream_context(partitions[0].schema());
    let plan = plan(&context, sql).await.unwrap_or_else(|error| panic!("{error:?}"));
    let target = Arc::new(Target::new(true));
    let store = Arc::new(InMemory::new());
    let start = || {
        let chance = &world.chance;
        let parallelism = 1 + chance.below(3) as u16;
        let options = JobOptions {
            checkpoints: Settings { interval: 20_000, ..Settings::default() },
            restart: Restart { attempts: Some(0), ..Restart::default() },
            ..JobOptions::default()
        };
        Process::start(&world, options, 1 + chance.below(2), |io| {
            let catalog = Orders { partitions: Arc::clone(partitions), world: world.clone() };
            let groups = KeyGroups::default();
            let lowered = streaming::lower(&plan, &catalog, parallelism, groups);
            let mut lowered = lowered.unwrap_or_else(|error| panic!("{error:?}"));
            let sink = SimSink {
                target: Arc::clone(&target),
                faults: Faults { refused: 0.0, lost: 0.0, slow: 10_000 },
                chance: chance.clone(),
                io,
            };
            lowered.stages[lowered.output].sink =
                Some(SinkPlan { id: "sink".into(), sink: Arc::new(sink), commit_interval: 0 });
            let plan = JobPlan { name: "job".into(), stages: lowered.stages, groups };
            (plan, Arc::clone(&store) as Arc<dyn object_store::ObjectStore>)
        })
        .expect("the plan is sound")
    };
    let mut process = start();
    // Killed now and then; each life has a parallelism of its own.
    for _ in 0..world.chance.below(4) {
        for _ in 0..world.chance.below(400) {
            if let Stepped::Waits(Some(until)) = process.step() {
                use freshet_core::clock::Clock;
                world.clock.advance_micros((until - world.clock.now_micros()).max(1));
            }
        }
        if process.ended().is_none() {
            process = start();
        }
    }
    if process.ended().is_none() {
        world.run(&mut process).expect("it comes to its end");
    }
    target.rows()
}

/// Holds a streaming statement against one for a batch, over many inputs.
#[track_caller]
fn check(stream: &str, batch: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    seeds::for_each(0..12, |seed| {
        let partitions = Arc::new(orders(seed, 1 + seed as usize % 3));
        // The simulator polls futures itself: nothing of it may wait for a runtime.
        let (found, expected) = runtime.block_on(async {
            let expected = batch_result(&partitions, batch).await;
            (stream_result(&partitions, stream, seed).await, expected)
        });
        assert_eq!(found, expected, "seed {seed}: {stream}");
    });
}

#[test]
fn rows_are_filtered_and_computed() {
    check(
        "select city, amount * 2 as twice, upper(city) u, at from orders where amount > 100",
        "select city, amount * 2 as twice, upper(city) u, at from orders where amount > 100",
    );
}

#[test]
fn tumbling_windows_are_those_of_date_bin() {
    check(
        "select city, window_start, window_end, count(*) as n, count(amount), sum(amount), min(price),
                max(city), sum(price), avg(price), avg(amount),
                count(*) filter (where amount > 500) as large
         from table(tumble(table orders, descriptor(at), interval '10' second))
         group by city, window_start, window_end",
        "select city, date_bin(interval '10 seconds', at) as s,
                date_bin(interval '10 seconds', at) + interval '10 seconds',
                count(*) as n, count(amount), sum(amount), min(price),
                max(city), sum(price), avg(price), avg(amount),
                count(*) filter (where amount > 500) as large
         from orders group by city, s",
    );
}

#[test]
fn hopping_and_cumulating_windows_are_joins_with_their_starts() {
    check(
        "select window_end, city, sum(amount) total
         from table(hop(table orders, descriptor(at), interval '5' second, interval '20' second)) o
         where amount is not null
         group by window_start, window_end, city having sum(amount) > 10",
        "select s + k as window_end, city, sum(amount) total
         from (select *, date_bin(interval '5 seconds', at) as s from orders) o,
              (values (interval '5 seconds'), (interval '10 seconds'), (interval '15 seconds'),
                      (interval '20 seconds')) as steps(k)
         where amount is not null group by s + k, city
         having sum(amount) > 10",
    );
    check(
        "select window_start, window_end, count(*), max(weight)
         from table(cumulate(table orders, descriptor(at), interval '5' second, interval '15' second))
         group by window_start, window_end",
        "select w, w + k as window_end, count(*), max(weight)
         from (select *, date_bin(interval '15 seconds', at) as w from orders) o,
              (values (interval '5 seconds'), (interval '10 seconds'), (interval '15 seconds')) as steps(k)
         where at < w + k group by w, w + k",
    );
}

#[test]
fn windows_are_made_of_windows() {
    check(
        "with by_city as (
             select city, window_time as at, count(*) as n
             from table(tumble(table orders, descriptor(at), interval '5' second))
             group by city, window_start, window_end, window_time
         )
         select window_start, max(n), sum(n), count(*)
         from table(tumble(table by_city, descriptor(at), interval '1' minute))
         group by window_start, window_end",
        "select date_bin(interval '1 minute', s) as w, max(n), sum(n), count(*)
         from (select city, date_bin(interval '5 seconds', at) as s, count(*) as n
               from orders group by city, s)
         group by w",
    );
}

#[test]
fn unions_take_the_rows_of_all() {
    check(
        "select city, amount from orders where amount > 500
         union all select 'none', amount from orders where city is null
         union all select city, 0 from orders where amount is null",
        "select city, amount from orders where amount > 500
         union all select 'none', amount from orders where city is null
         union all select city, 0 from orders where amount is null",
    );
    check(
        "select window_start, sum(amount) from table(tumble(
             (select at, amount from orders union all select at, -amount from orders where amount < 9),
             descriptor(at), interval '3' second)) group by window_start",
        "select date_bin(interval '3 seconds', at) w, sum(amount)
         from (select at, amount from orders union all select at, -amount from orders where amount < 9)
         group by w",
    );
}

#[tokio::test]
async fn what_is_not_supported_is_an_error_when_planning() {
    let partitions = orders(0, 1);
    let cases = [
        ("select distinct city from orders", "DISTINCT is not supported"),
        ("select city, count(*) from orders group by city", "without a window"),
        ("select * from orders order by at", "ORDER BY is not supported"),
        ("select * from orders limit 3", "LIMIT is not supported"),
        ("select a.city from orders a join orders b on a.city = b.city", "a join is not supported"),
        ("select 1 as one", "a query without a source"),
        ("select random() from orders", "another value each time"),
        (
            "select window_start, city from table(hop(table orders, descriptor(at), interval '1' second, interval '5' second))",
            "before they are aggregated",
        ),
        (
            "select window_end, count(distinct city) from table(tumble(table orders, descriptor(at), interval '1' second)) group by window_end",
            "DISTINCT is not supported",
        ),
        (
            "select window_end, median(amount) from table(tumble(table orders, descriptor(at), interval '1' second)) group by window_end",
            "\"median\" is not supported",
        ),
        (
            "select window_end, count(*) from table(tumble(table orders, descriptor(at), interval '1' month)) group by window_end",
            "is no span",
        ),
        (
            "select window_end, count(*) from table(tumble((select at + interval '1' hour as later from orders), descriptor(later), interval '1' minute)) group by window_end",
            "no watermark says",
        ),
        (
            "select * from table(tumbel(table orders, descriptor(at), interval '1' second))",
            "is no table function",
        ),
        (
            "select * from table(tumble(table orders, at, interval '1' second))",
            "DESCRIPTOR(column)",
        ),
        (
            "select * from table(hop(table orders, descriptor(at), interval '1' second))",
            "lacks SIZE",
        ),
    ];
    for (sql, expected) in cases {
        let context = stream_context(partitions[0].schema());
        let catalog = Orders { partitions: Arc::new(partitions.clone()), world: World::new(0) };
        let error = match plan(&context, sql).await {
            Err(error) => error,
            Ok(plan) => match streaming::lower(&plan, &catalog, 1, KeyGroups::default()) {
                Err(error) => error,
                Ok(_) => panic!("it is lowered: {sql}"),
            },
        };
        assert_eq!(error.code(), code::SQL, "{sql}: {error}");
        assert!(error.to_string().contains(expected), "{sql}: {error}");
    }
    assert_eq!(CATALOG, "freshet");
}
