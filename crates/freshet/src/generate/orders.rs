//! A food delivery's events: orders, couriers, restaurants and customers, disorderly as real ones.
//!
//! Order events come out of order within a bound, some of them far too late, some faulty, some twice;
//! now and then a city falls silent, another surges, a third drops; a few customers are missing at
//! first and become known later, as of a time before their orders. Beside it lies the truth:
//!
//! - `truth.jsonl`: each bad, late and repeated line of `orders` with its place, each missing
//!   customer, and a summary as the last line;
//! - `truth_counts.csv`: by minute, city and status the order events that are good and in time;
//! - `truth_city_minutes.csv`: each city in each whole minute, and whether it was silent, a surge or
//!   a drop against the hour before, as `truth::Change` defines it;
//! - `truth_undelivered.csv`: good orders without a courier's `delivered` within 45 minutes, of
//!   those placed 45 minutes before the end or earlier, and why.
//!
//! What is late: a row in time is sent less than `--out-of-order` after its time, so that a
//! watermark with that delay never overtakes it. A late one is sent 70 seconds or more behind that
//! bound: in a stream that goes on, its minute has closed.
//!
//! Everything is a pure function of (seed, second): nothing is remembered but what is under way.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use chrono::NaiveDateTime;
use freshet_core::clock::Clock;
use freshet_core::config::{HumanDuration, Share};
use serde::Serialize;

mod life;
mod people;
mod record;
mod sink;
#[cfg(test)]
mod tests;
mod truth;
mod world;

pub use life::Undelivered;
use life::{Event, Lives, OrderId, Sending, Step, longest};
use people::{Change, People, Who};
use record::{Order, Writer};
pub use sink::{Sink, Stream};
use truth::{ByFault, Truth};
use world::World;

/// What to make, and where to.
#[derive(Debug, Clone, clap::Args)]
pub struct OrdersOptions {
    /// Order events in a second of event time, on average; those of couriers come on top
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,
    /// How long the stream lasts, in event time
    #[arg(long, default_value = "10m")]
    pub span: HumanDuration,
    /// How long after its time an event in time is sent at most
    #[arg(long, default_value = "5s")]
    pub out_of_order: HumanDuration,
    /// Share of order events that are sent later than that, when their minute has closed
    #[arg(long, default_value = "0.001")]
    pub late: Share,
    /// Share of order events that are made wrong
    #[arg(long, default_value = "0.005")]
    pub bad: Share,
    /// Share of order events that are sent twice
    #[arg(long, default_value = "0.001")]
    pub duplicates: Share,
    /// Share of customers that become known only while the stream runs
    #[arg(long, default_value = "0.002")]
    pub missing_customers: Share,
    /// Customers
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub customers: u32,
    /// Restaurants, in ten cities
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub restaurants: u32,
    /// Where chance starts: the same seed and options give the same bytes
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// Where event time begins, in whole seconds; in real time it begins now
    #[arg(long, default_value = "2026-01-01T18:00:00", conflicts_with = "live")]
    pub start: NaiveDateTime,
    /// Send in real time: event time is the time of day
    #[arg(long)]
    pub live: bool,
    /// The stream that goes to standard output
    #[arg(long, value_enum, default_value = "orders", conflicts_with = "out")]
    pub stream: Stream,
    /// The folder to write the truth to, where there is no other
    #[arg(long, value_name = "DIR", conflicts_with = "out")]
    pub truth: Option<PathBuf>,
    /// The folder to write a file for each stream and the truth to; standard output where not given
    pub out: Option<PathBuf>,
}

/// What was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct OrdersSummary {
    /// Records by stream.
    pub records: BTreeMap<Stream, u64>,
    /// Bytes by stream.
    pub bytes: BTreeMap<Stream, u64>,
    /// Order events that are good and in time, repeated ones apart.
    pub in_time: u64,
    /// Order events that are good and in time and came before.
    pub repeated: u64,
    /// Order events that are good and late.
    pub late: u64,
    /// Order events with a fault, by kind.
    pub bad: ByFault,
    /// Customers that are missing at first.
    pub missing_customers: u64,
    /// Good order events, repeated ones apart, sent before their customer became known.
    pub unknown_customer: u64,
    /// Good orders that were not delivered within 45 minutes, by reason.
    pub undelivered: BTreeMap<Undelivered, u64>,
    /// Good orders placed less than 45 minutes before the end.
    pub undecided: u64,
    /// Whole minutes of a city without an event.
    pub silent_minutes: u64,
    /// Whole minutes of a city that are a surge.
    pub surges: u64,
    /// Whole minutes of a city that are a drop.
    pub drops: u64,
    /// Where event time begins.
    pub first: NaiveDateTime,
    /// Where it ends.
    pub end: NaiveDateTime,
}

/// Sends the streams to files or to standard output.
pub fn run(options: &OrdersOptions, clock: &dyn Clock) -> Result<OrdersSummary> {
    match &options.out {
        Some(out) => {
            let mut files = sink::Files::create(out)?;
            let summary = send(options, &mut files, Some(out), clock)?;
            files.finish()?;
            Ok(summary)
        }
        None => {
            let mut stdout = sink::Stdout(options.stream);
            send(options, &mut stdout, options.truth.as_deref(), clock)
        }
    }
}

/// Sends the streams to `sink`, and keeps the truth in a folder where one is given.
pub fn send(
    options: &OrdersOptions,
    sink: &mut dyn Sink,
    truth: Option<&Path>,
    clock: &dyn Clock,
) -> Result<OrdersSummary> {
    send_awaiting(options, sink, truth, clock, &std::thread::sleep)
}

/// As [`send`], where `sleep` is how a span of time is awaited.
fn send_awaiting(
    options: &OrdersOptions,
    sink: &mut dyn Sink,
    truth: Option<&Path>,
    clock: &dyn Clock,
    sleep: &dyn Fn(Duration),
) -> Result<OrdersSummary> {
    let seconds = options.span.0.as_secs() as i64;
    ensure!(
        (1..life::MAX_SECONDS - 10_000).contains(&seconds),
        "a span of orders is a second at least and four years at most"
    );
    let bound = options.out_of_order.0;
    ensure!(bound <= Duration::from_secs(600), "orders are ten minutes out of order at most");
    let bound = bound.as_millis() as i64;
    let start = if options.live {
        clock.now_micros().div_euclid(1_000_000) * 1_000
    } else {
        options.start.and_utc().timestamp_millis()
    };
    let last = start.checked_add(seconds * 1_000).unwrap_or(i64::MAX);
    ensure!(
        start % 1_000 == 0 && start >= 2 * 86_400_000 && last < super::text::LAST_MILLIS,
        "event time begins with a whole second, and lies in the years 1970 to 9999"
    );

    let base = if options.live { OrderId::base(start) } else { 0 };
    let sending =
        Sending { bound, bad: options.bad.0, late: options.late.0, repeated: options.duplicates.0 };
    let lives = Lives::new(options.seed, sending, start, seconds);
    let placed = f64::from(options.rate) / lives.events_of_an_order();
    let people = People::new(
        options.seed,
        options.customers,
        options.restaurants,
        options.missing_customers.0,
        seconds,
    );
    Sender {
        options,
        world: World::new(options.seed, placed, seconds / 60),
        lives,
        people,
        writer: Writer::new(start, base),
        truth: Truth::new(truth, start, base, seconds)?,
        out: Outbox { buffers: Default::default(), sink },
        pace: Pace { clock: options.live.then_some(clock), sleep, start },
        seconds,
        bound,
    }
    .run()
}

/// Bytes of a stream that are gathered before they are sent.
const BLOCK: usize = 256 << 10;
/// Milliseconds whose events are sent together in real time.
const TICK: i64 = 10;

struct Sender<'a> {
    options: &'a OrdersOptions,
    world: World,
    lives: Lives,
    people: People,
    writer: Writer,
    truth: Truth,
    out: Outbox<'a>,
    pace: Pace<'a>,
    seconds: i64,
    bound: i64,
}

impl Sender<'_> {
    fn run(mut self) -> Result<OrdersSummary> {
        for (customer, from) in self.people.missing() {
            self.truth.missing_customer(customer, from)?;
        }
        for change in self.people.known() {
            change_line(&self.people, &change, &mut self.writer, &mut self.out, &mut self.truth)?;
        }

        // Events by the second in which they arrive, from the current one on.
        let ahead = (longest(self.bound) / 1_000 + 2) as usize;
        let mut arriving: VecDeque<Vec<Event>> = VecDeque::new();
        arriving.resize_with(ahead, Vec::new);
        let mut changes = VecDeque::new();
        let mut second = 0;
        while second < self.seconds || arriving.iter().any(|events| !events.is_empty()) {
            if second < self.seconds {
                if second % 60 == 0 {
                    changes.extend(self.people.changes(second / 60));
                }
                self.lives.events(&self.world, second, &mut |event| {
                    arriving[(event.arrival / 1_000 - second) as usize].push(event);
                });
            }
            let mut events = arriving.pop_front().unwrap_or_default();
            events.sort_unstable();
            for event in &events {
                self.changes_until(&mut changes, event.arrival)?;
                self.event(event)?;
            }
            if second < self.seconds {
                self.changes_until(&mut changes, second * 1_000 + 999)?;
            }
            events.clear();
            arriving.push_back(events);
            second += 1;
        }
        self.out.flush()?;
        self.truth.finish()
    }

    fn changes_until(&mut self, changes: &mut VecDeque<Change>, until: i64) -> Result<()> {
        while let Some(change) = changes.pop_front() {
            // The last minute may be cut short.
            if change.arrival > until {
                changes.push_front(change);
                break;
            }
            self.pace.reach(change.arrival, &mut self.out)?;
            change_line(&self.people, &change, &mut self.writer, &mut self.out, &mut self.truth)?;
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<()> {
        self.pace.reach(event.arrival, &mut self.out)?;
        let order = Order::new(self.options.seed, &self.people, event.order);
        let stream = match event.step {
            Step::Order(_) => Stream::Orders,
            Step::Courier(_) => Stream::Couriers,
        };
        let buffer = &mut self.out.buffers[stream as usize];
        let start = buffer.len();
        self.writer.event(&order, event, buffer);
        let line = &buffer[start..];
        if stream == Stream::Orders {
            let known_from = self.people.known_from(order.customer);
            let places = (&self.world, &self.lives);
            self.truth.order(places, &order, event, known_from, line)?;
        } else {
            self.truth.other(stream, line.len());
        }
        self.out.full(stream)
    }
}

fn change_line(
    people: &People,
    change: &Change,
    writer: &mut Writer,
    out: &mut Outbox<'_>,
    truth: &mut Truth,
) -> Result<()> {
    let stream = match change.who {
        Who::Restaurant(_) => Stream::Restaurants,
        Who::Customer(_) => Stream::Customers,
    };
    let buffer = &mut out.buffers[stream as usize];
    let start = buffer.len();
    people.write(change, writer, buffer);
    truth.other(stream, buffer.len() - start);
    out.full(stream)
}

/// Lines that are not sent yet, by stream.
struct Outbox<'a> {
    buffers: [Vec<u8>; Stream::ALL.len()],
    sink: &'a mut dyn Sink,
}

impl Outbox<'_> {
    /// Sends a stream's lines where there are many.
    fn full(&mut self, stream: Stream) -> Result<()> {
        if self.buffers[stream as usize].len() >= BLOCK { self.send(stream) } else { Ok(()) }
    }

    fn send(&mut self, stream: Stream) -> Result<()> {
        let buffer = &mut self.buffers[stream as usize];
        if !buffer.is_empty() {
            self.sink.send(stream, buffer)?;
            buffer.clear();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        // Those who look something up find what was known before.
        for stream in Stream::ALL.into_iter().rev() {
            self.send(stream)?;
        }
        self.sink.flush()
    }
}

/// Sends nothing before its time, where there is a clock.
struct Pace<'a> {
    clock: Option<&'a dyn Clock>,
    sleep: &'a dyn Fn(Duration),
    start: i64,
}

impl Pace<'_> {
    /// Something arrives at `arrival`: what is of an earlier tick leaves, and its own tick is awaited.
    fn reach(&self, arrival: i64, out: &mut Outbox<'_>) -> Result<()> {
        let Some(clock) = self.clock else { return Ok(()) };
        let due = self.start + arrival / TICK * TICK;
        let missing = || due - clock.now_micros().div_euclid(1_000);
        if missing() <= 0 {
            return Ok(());
        }
        out.flush()?;
        loop {
            let missing = missing();
            if missing <= 0 {
                return Ok(());
            }
            (self.sleep)(Duration::from_millis(missing.clamp(1, 100) as u64));
        }
    }
}
