//! Streaming statements against the same question asked of DataFusion in batch, whose functions know
//! nothing of our windows: straight through, at several parallelisms, and killed and restored.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray};
use arrow::array::{Decimal128Array, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use freshet_core::clock::Clock;
use freshet_core::config::ByteSize;
use freshet_core::error::code;
use freshet_core::rows::Rows;
use freshet_core::stream::StreamSink;
use freshet_core::{Location, Result};
use freshet_engine::session::{CATALOG, Sessions, register};
use freshet_engine::streaming::{
    self, LateRows, LowerOptions, Lowered, StreamCatalog, StreamTable, TimeColumn,
};
use freshet_runtime::checkpoint::Settings;
use freshet_runtime::job::{JobOptions, Restart};
use freshet_runtime::plan::{JobPlan, JobSource, SinkPlan};
use freshet_runtime::source::WatermarkSpec;
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

/// A stream of a test.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Its rows by partition.
    pub partitions: Arc<Vec<RecordBatch>>,
    /// The column of their time.
    pub time: usize,
    /// Microseconds that the watermark stays behind.
    pub delay: i64,
    /// The columns that name a row, where it has versions.
    pub primary_key: Vec<usize>,
    /// Rows that are never read together with those before them.
    pub cuts: Vec<usize>,
}

/// The streams of a test by name.
#[derive(Debug)]
pub struct Streams(BTreeMap<String, Stream>);

impl Streams {
    pub fn new(streams: BTreeMap<String, Stream>) -> Self {
        Self(streams)
    }

    /// A plan over them as one over tables that end.
    pub fn bounded(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let catalog = Catalog { streams: &self.0, chance: Chance::new(0) };
        streaming::bounded(plan, &catalog)
    }

    /// Lowers a plan over them.
    pub fn lower(&self, plan: &LogicalPlan, parallelism: u16) -> Result<Lowered> {
        let catalog = Catalog { streams: &self.0, chance: Chance::new(0) };
        streaming::lower(plan, &catalog, &LowerOptions::new(parallelism))
    }
}

struct Catalog<'a> {
    streams: &'a BTreeMap<String, Stream>,
    chance: Chance,
}

impl StreamCatalog for Catalog<'_> {
    fn time(&self, table: &str) -> Result<Option<TimeColumn>> {
        let column = self.streams[table].time;
        let primary_key = self.streams[table].primary_key.clone();
        Ok(Some(TimeColumn { column, needs: vec![column], primary_key }))
    }

    fn source(
        &self,
        table: &str,
        projection: &[usize],
    ) -> Result<(Arc<dyn JobSource>, Option<WatermarkSpec>)> {
        let Stream { partitions, time, delay, cuts, .. } = &self.streams[table];
        let time = projection.iter().position(|column| column == time).expect("the time is needed");
        let expr = Arc::new(Delayed(time, *delay));
        Ok((
            Arc::new(BatchSource {
                partitions: Arc::clone(partitions),
                projection: projection.to_vec(),
                cuts: cuts.clone(),
                chance: self.chance.clone(),
            }),
            Some(WatermarkSpec::new(expr)),
        ))
    }
}

/// A time less so many microseconds.
#[derive(Debug)]
struct Delayed(usize, i64);

impl freshet_core::scalar::ScalarExpr for Delayed {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        use arrow::array::AsArray;
        use arrow::datatypes::TimestampMicrosecondType;
        let times = batch.column(self.0).as_primitive::<TimestampMicrosecondType>();
        let delayed: TimestampMicrosecondArray = times.unary(|time| time - self.1);
        Ok(Arc::new(delayed))
    }
}

pub async fn plan(context: &SessionContext, sql: &str) -> Result<LogicalPlan> {
    streaming::plan(context, sql, &|_| Location::file("the statement")).await
}

pub fn context() -> SessionContext {
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

fn orders_stream(partitions: &Arc<Vec<RecordBatch>>) -> Streams {
    let stream = Stream {
        partitions: Arc::clone(partitions),
        time: 0,
        delay: 2 * SECOND,
        primary_key: vec![1],
        cuts: Vec::new(),
    };
    Streams::new(BTreeMap::from([("orders".into(), stream)]))
}

async fn stream_result(partitions: &Arc<Vec<RecordBatch>>, sql: &str, seed: u64) -> Vec<String> {
    let context = stream_context(partitions[0].schema());
    let plan = plan(&context, sql).await.unwrap_or_else(|error| panic!("{error:?}"));
    fold(&run(&orders_stream(partitions), &plan, seed).await, shown)
}

/// The rows that are left of changes, sorted; `lines` shows those of a batch.
pub fn fold(changes: &[Rows], lines: impl Fn(&RecordBatch) -> Vec<String>) -> Vec<String> {
    let mut table = BTreeMap::<String, i64>::new();
    for rows in changes {
        for (row, line) in lines(rows.batch()).into_iter().enumerate() {
            *table.entry(line).or_default() += rows.kind(row).sign();
        }
    }
    let mut left = Vec::new();
    for (line, count) in table {
        assert!(count >= 0, "{line} was taken away {} times too often", -count);
        left.extend(std::iter::repeat_n(line, count as usize));
    }
    left
}

/// The changes that a job gives, which is killed now and then and goes on at another parallelism.
pub async fn run(streams: &Streams, plan: &LogicalPlan, seed: u64) -> Vec<Rows> {
    run_with_late(streams, plan, seed).await.0
}

/// The same, and the rows of its table of late rows.
pub async fn run_with_late(
    streams: &Streams,
    plan: &LogicalPlan,
    seed: u64,
) -> (Vec<Rows>, Vec<Rows>) {
    let world = World::new(seed);
    let target = Arc::new(Target::new(true));
    let late = parking_lot::Mutex::new(BTreeMap::<String, Arc<Target>>::new());
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
            let catalog = Catalog { streams: &streams.0, chance: chance.clone() };
            let options = LowerOptions::new(parallelism);
            let lowered = streaming::lower(plan, &catalog, &options);
            let mut lowered = lowered.unwrap_or_else(|error| panic!("{error:?}"));
            let sink = |target: &Arc<Target>| -> Arc<dyn StreamSink> {
                Arc::new(SimSink {
                    target: Arc::clone(target),
                    faults: Faults { refused: 0.0, lost: 0.0, slow: 10_000 }.into(),
                    chance: chance.clone(),
                    io: Arc::clone(&io),
                })
            };
            lowered.stages[lowered.output].sink =
                Some(SinkPlan { id: "sink".into(), sink: sink(&target), commit_interval: 0 });
            let clock: Arc<dyn Clock> = Arc::clone(&world.clock) as _;
            let rows = LateRows {
                model: "job",
                clock: &clock,
                sink: &|name| {
                    let mut late = late.lock();
                    sink(late.entry(name.into()).or_insert_with(|| Arc::new(Target::new(true))))
                },
                commit_interval: 0,
            };
            rows.add(&lowered.sides, &mut lowered.stages);
            let groups = options.groups;
            let plan = JobPlan { name: "job".into(), stages: lowered.stages, groups };
            (plan, Arc::clone(&store) as Arc<dyn object_store::ObjectStore>)
        })
        .expect("the plan is sound")
    };
    let mut process = start();
    for _ in 0..world.chance.below(4) {
        for _ in 0..world.chance.below(400) {
            if let Stepped::Waits(Some(until)) = process.step() {
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
    let late = late.into_inner().into_values().flat_map(|target| target.changes()).collect();
    (target.changes(), late)
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
fn groups_are_updated_for_as_long_as_rows_come() {
    check(
        "select city, count(*) n, sum(amount), avg(price), min(weight), max(amount),
                count(distinct amount), count(distinct amount) filter (where price > 0)
         from orders group by city having count(*) > 3",
        "select city, count(*) n, sum(amount), avg(price), min(weight), max(amount),
                count(distinct amount), count(distinct amount) filter (where price > 0)
         from orders group by city having count(*) > 3",
    );
    check(
        "select n, count(*), max(most), min(most), sum(total) from (
             select amount, count(*) n, max(price) most, sum(price) total from orders group by amount
         ) group by n",
        "select n, count(*), max(most), min(most), sum(total) from (
             select amount, count(*) n, max(price) most, sum(price) total from orders group by amount
         ) group by n",
    );
    check(
        "select count(*), sum(amount), count(distinct city) from orders where amount > 990",
        "select count(*), sum(amount), count(distinct city) from orders where amount > 990",
    );
}

#[test]
fn one_row_of_each_key_is_kept() {
    check(
        "select city, at, amount from (
             select *, row_number() over (partition by city, amount % 10 order by at desc, amount, price, weight) n
             from orders) where n = 1 and amount > 100",
        "select city, at, amount from (
             select *, row_number() over (partition by city, amount % 10 order by at desc, amount, price, weight) n
             from orders) where n = 1 and amount > 100",
    );
    check(
        "select distinct city, amount % 7 from orders",
        "select distinct city, amount % 7 from orders",
    );
}

#[test]
fn joins_are_those_of_a_batch() {
    for join in ["join", "left join", "right join", "full join"] {
        let both = format!(
            "select a.city, a.amount, b.price, b.n from
                 (select city, amount % 50 k, amount from orders where amount % 3 = 0) a
             {join} (select amount % 50 k, price, count(*) n from orders group by amount % 50, price) b
             on a.k = b.k and a.amount + b.n > 10"
        );
        check(&both, &both);
    }
    let within = "select city, at from orders where amount in (select amount from orders where price > 5000)";
    check(within, within);
    let without = "select city, at from orders o where not exists (select 1 from orders p where p.amount = o.amount and p.price > 5000)";
    check(without, without);
}

#[test]
fn times_that_lie_near_are_joined() {
    for join in ["join", "left join", "full join"] {
        check(
            &format!(
                "select a.city, a.at, b.at from orders a {join} orders b on a.amount % 9 = b.amount % 9
                     and b.at > a.at - interval '2' second and b.at - interval '3' second <= a.at
                     and a.price < b.price"
            ),
            &format!(
                "select a.city, a.at, b.at from orders a {join} orders b on a.amount % 9 = b.amount % 9
                     and b.at > a.at - interval '2 seconds' and b.at <= a.at + interval '3 seconds'
                     and a.price < b.price"
            ),
        );
    }
    check(
        "select window_start, count(*) from table(tumble(
             (select a.at, b.price from orders a join orders b on a.city = b.city
                 and b.at between a.at and a.at + interval '1' second),
             descriptor(at), interval '10' second)) group by window_start, window_end",
        "select date_bin(interval '10 seconds', a.at) w, count(*)
         from orders a join orders b on a.city = b.city and b.at between a.at and a.at + interval '1 second'
         group by w",
    );
}

#[test]
fn windows_that_are_equal_are_joined() {
    let of = |kind: &str, filter: &str| {
        format!(
            "select city, window_start, window_end, count(*) n
             from table({kind}(table orders, descriptor(at), interval '5' second {more})) where {filter}
             group by city, window_start, window_end",
            more = if kind == "hop" { ", interval '15' second" } else { "" },
        )
    };
    let batch = |kind: &str, filter: &str| {
        match kind {
        "hop" => format!(
            "select city, s + k - interval '15 seconds' window_start, s + k window_end, count(*) n
             from (select *, date_bin(interval '5 seconds', at) as s from orders) o,
                  (values (interval '5 seconds'), (interval '10 seconds'), (interval '15 seconds')) as steps(k)
             where {filter} group by city, s + k"
        ),
        _ => format!(
            "select city, date_bin(interval '5 seconds', at) window_start,
                    date_bin(interval '5 seconds', at) + interval '5 seconds' window_end, count(*) n
             from orders where {filter} group by city, window_start"
        ),
    }
    };
    for (kind, join) in [("tumble", "join"), ("tumble", "full join"), ("hop", "left join")] {
        let joined = |a: String, b: String| {
            format!(
                "select a.city, a.window_start, b.window_end, a.n, b.n from ({a}) a {join} ({b}) b
                 on a.city = b.city and a.window_start = b.window_start and a.window_end = b.window_end"
            )
        };
        check(
            &joined(of(kind, "amount > 300"), of(kind, "price > 0")),
            &joined(batch(kind, "amount > 300"), batch(kind, "price > 0")),
        );
    }
    // Nothing is equal but the windows; what is greatest is grouped by them again.
    let most = |all: String| {
        format!(
            "select a.city, a.n, a.window_end from ({all}) a join (
                 select max(n) most, window_end from ({all}) group by window_end, window_start
             ) b on a.window_end = b.window_end and a.n >= b.most"
        )
    };
    check(&most(of("hop", "true")), &most(batch("hop", "true")));
    // The last row in the arrival of a time counts as its version: those with equal times are left out.
    let unique = "select *, count(*) over (partition by city, at) same from orders";
    check(
        "select window_start, count(*) from table(tumble(
             (select a.at, b.amount from orders a left join orders for system_time as of a.at as b
                 on a.city = b.city where a.city is not null),
             descriptor(at), interval '10' second)) group by window_start, window_end",
        &format!(
            "select date_bin(interval '10 seconds', at) w, count(*) from ({unique}) where city is not null group by w"
        ),
    );
}

#[test]
fn sessions_end_after_a_pause() {
    check(
        "select city, window_start, window_end, count(*), sum(amount), count(distinct amount)
         from table(session(table orders partition by city, descriptor(at), interval '1' second))
         group by city, window_start, window_end",
        "select city, min(at), max(at) + interval '1 second', count(*), sum(amount), count(distinct amount)
         from (
             select *, sum(begins) over (partition by city order by at, amount, price, weight
                                         rows between unbounded preceding and current row) session
             from (
                 select *, case when at - lag(at) over (partition by city order by at, amount, price, weight)
                                   <= interval '1 second' then 0 else 1 end begins
                 from orders)
         ) group by city, session",
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
fn what_windows_give_is_grouped_by_the_same_windows() {
    check(
        "select window_start, window_end, max(n), count(*) from (
             select city, window_start, window_end, count(*) n
             from table(hop(table orders, descriptor(at), interval '5' second, interval '15' second))
             group by city, window_start, window_end)
         group by window_start, window_end",
        "select w, w + interval '15 seconds', max(n), count(*) from (
             select city, s + k - interval '15 seconds' w, count(*) n
             from (select *, date_bin(interval '5 seconds', at) as s from orders) o,
                  (values (interval '5 seconds'), (interval '10 seconds'), (interval '15 seconds')) as steps(k)
             group by city, w)
         group by w",
    );
    check(
        "select window_end, city, amount
         from table(hop(table orders, descriptor(at), interval '5' second, interval '10' second))
         where window_end < timestamp '2026-09-21 14:14:00'",
        "select s + k, city, amount
         from (select *, date_bin(interval '5 seconds', at) as s from orders) o,
              (values (interval '5 seconds'), (interval '10 seconds')) as steps(k)
         where s + k < timestamp '2026-09-21 14:14:00'",
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
        ("select distinct on (city) * from orders", "DISTINCT ON is not supported"),
        ("select * from orders order by at", "ORDER BY is not supported"),
        ("select * from orders limit 3", "LIMIT is not supported"),
        (
            "select a.city from orders a join orders b on a.at < b.at",
            "no columns that are to be equal",
        ),
        ("select 1 as one", "a query without a source"),
        ("select random() from orders", "another value each time"),
        (
            "select window_start, city from table(session(table orders, descriptor(at), interval '5' second))",
            "used before it is aggregated",
        ),
        (
            "select city, window_start, window_end, count(*) from table(session(table orders, descriptor(at), interval '5' second)) group by city, window_start, window_end",
            "which does not divide them",
        ),
        (
            "select window_start, window_end, count(*) from table(session(table orders partition by city, descriptor(at), interval '5' second)) group by window_start, window_end",
            "divided by 1 columns, and grouped by 0",
        ),
        (
            "select * from (select *, row_number() over (partition by city order by at) as n from orders) where n <= 3",
            "Top-N is not supported",
        ),
        (
            "select *, row_number() over (partition by city order by at) as n from orders",
            "OVER is not supported",
        ),
        (
            "select window_end, count(*) from table(tumble((select max(at) as at from orders group by city), descriptor(at), interval '1' second)) group by window_start, window_end",
            "no watermark says",
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
        let streams = orders_stream(&Arc::new(partitions.clone()));
        let error = match plan(&context, sql).await {
            Err(error) => error,
            Ok(plan) => match streams.lower(&plan, 1) {
                Err(error) => error,
                Ok(_) => panic!("it is lowered: {sql}"),
            },
        };
        assert_eq!(error.code(), code::SQL, "{sql}: {error}");
        assert!(error.to_string().contains(expected), "{sql}: {error}");
    }
    assert_eq!(CATALOG, "freshet");
}
