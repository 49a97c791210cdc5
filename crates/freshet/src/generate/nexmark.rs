//! Nexmark: the events of an online auction, as the suite's own generator makes them.
//!
//! After Apache Flink's edition of the suite (repository nexmark/nexmark, `generator/`): one person,
//! three auctions and 46 bids in fifty events, hot sellers, auctions and bidders, extra text up to
//! the suite's average sizes, event time in equal steps. What differs is chance: theirs is unseeded,
//! here each event is a pure function of (seed, number), so that partitions can be made apart.
//! An event is one JSON object as Flink's Kafka source of the suite has it: `event_type` 0, 1 or 2
//! and `person`, `auction`, `bid`, of which two are null.
//!
//! Knows no Kafka: [`Nexmark::batches`] hands encoded events to whoever sends them.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};
use chrono::NaiveDateTime;
use serde::Serialize;

use super::files;

mod event;
mod tables;
#[cfg(test)]
mod tests;

pub use event::{EPOCH, Kind, Numbers};
use event::{SHUFFLE, Writer};
use tables::Tables;

/// Bytes of a batch, about: large enough for one write, small enough for a cache.
const BATCH: usize = 256 << 10;

/// What the events are.
#[derive(Debug, Clone, clap::Args)]
pub struct NexmarkEvents {
    /// Events in all partitions together
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub events: u64,
    /// Where chance starts: the same seed and options give the same bytes
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// Events in a second of event time
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub first_event_rate: u64,
    /// Partitions; each gets every so many-th group of fifty events, so all have the same mixture
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub partitions: u32,
    /// The event time of the first event
    #[arg(long, default_value = "2026-01-01T00:00:00")]
    pub start: NaiveDateTime,
    /// Events that are shuffled among each other; 1 keeps event time in order
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub out_of_order_group: u64,
}

/// What to make, and where to.
#[derive(Debug, Clone, clap::Args)]
pub struct NexmarkOptions {
    /// The events.
    #[command(flatten)]
    pub events: NexmarkEvents,
    /// Threads, of which each makes a partition at a time; one a core where not given
    #[arg(long)]
    pub threads: Option<usize>,
    /// The folder to write a file for each partition to; standard output where not given
    pub out: Option<PathBuf>,
}

/// What is in the events of one partition, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NexmarkCounts {
    /// Events.
    pub events: u64,
    /// Events with a new person.
    pub persons: u64,
    /// Events with a new auction.
    pub auctions: u64,
    /// Auctions in category 10.
    pub auctions_in_category_10: u64,
    /// Events with a bid.
    pub bids: u64,
    /// The sum of the bids' prices.
    pub price: u64,
    /// Bytes, line feeds included.
    pub bytes: u64,
}

impl NexmarkCounts {
    fn add(&mut self, kind: Kind) {
        self.events += 1;
        match kind {
            Kind::Person => self.persons += 1,
            Kind::Auction { category } => {
                self.auctions += 1;
                self.auctions_in_category_10 += u64::from(category == 10);
            }
            Kind::Bid { price } => {
                self.bids += 1;
                self.price += price;
            }
        }
    }
}

impl std::ops::AddAssign<&NexmarkCounts> for NexmarkCounts {
    fn add_assign(&mut self, other: &Self) {
        self.events += other.events;
        self.persons += other.persons;
        self.auctions += other.auctions;
        self.auctions_in_category_10 += other.auctions_in_category_10;
        self.bids += other.bids;
        self.price += other.price;
        self.bytes += other.bytes;
    }
}

/// What was made; `OUT/truth.json` holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NexmarkSummary {
    /// Everything.
    pub total: NexmarkCounts,
    /// By partition.
    pub partitions: Vec<NexmarkCounts>,
    /// The least and the greatest event time.
    pub first: NaiveDateTime,
    /// See `first`.
    pub last: NaiveDateTime,
}

/// Some encoded events of one partition, in its order.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(test), expect(dead_code, reason = "files take the bytes alone"))]
pub struct Batch<'a> {
    /// The partition, from 0.
    pub partition: u32,
    /// The events, each with a line feed behind it.
    pub bytes: &'a [u8],
    /// Where each event ends in `bytes`, its line feed included.
    pub ends: &'a [u32],
}

impl<'a> Batch<'a> {
    /// Each event without its line feed.
    #[cfg_attr(not(test), expect(dead_code, reason = "for those who send each event as a message"))]
    pub fn events(&self) -> impl Iterator<Item = &'a [u8]> {
        let (bytes, mut start) = (self.bytes, 0);
        self.ends.iter().map(move |end| {
            let event = &bytes[start..*end as usize - 1];
            start = *end as usize;
            event
        })
    }
}

/// The generator: options that were checked, and what all events draw from.
#[derive(Debug)]
pub struct Nexmark {
    numbers: Numbers,
    events: u64,
    partitions: u32,
    tables: Tables,
}

impl Nexmark {
    /// Checks the options and makes what all events draw from (about a megabyte of text).
    pub fn new(options: &NexmarkEvents) -> Result<Self> {
        ensure!(
            options.events > 0 && options.first_event_rate > 0 && options.partitions > 0,
            "events, rate and partitions must be above zero"
        );
        ensure!(
            options.out_of_order_group > 0 && !options.out_of_order_group.is_multiple_of(SHUFFLE),
            "a group of shuffled events has at least one, and no multiple of {SHUFFLE}: that would repeat events"
        );
        let numbers = Numbers::new(options);
        let last = numbers.latest(options.events);
        ensure!(
            options.start.and_utc().timestamp() >= 0
                && last.is_some_and(|last| last <= super::text::LAST_MILLIS),
            "event time leaves the years 1970 to 9999: choose another start, fewer events or a higher rate"
        );
        Ok(Self {
            numbers,
            events: options.events,
            partitions: options.partitions,
            tables: Tables::new(options.seed),
        })
    }

    /// Makes the events of one partition and hands them over in batches of about 256 KiB.
    pub fn batches(
        &self,
        partition: u32,
        each: &mut dyn FnMut(Batch<'_>) -> Result<()>,
    ) -> Result<NexmarkCounts> {
        let step = EPOCH * u64::from(self.partitions);
        let mut first = EPOCH * u64::from(partition);
        let mut batcher = Batcher::new(self, partition, each);
        while first < self.events {
            for event in first..(first + EPOCH).min(self.events) {
                batcher.add(event)?;
            }
            first += step;
        }
        batcher.finish()
    }

    /// Makes all events in the order of their numbers, as if there were one partition.
    pub fn in_order(&self, each: &mut dyn FnMut(Batch<'_>) -> Result<()>) -> Result<NexmarkCounts> {
        let mut batcher = Batcher::new(self, 0, each);
        for event in 0..self.events {
            batcher.add(event)?;
        }
        batcher.finish()
    }

    fn summary(&self, partitions: Vec<NexmarkCounts>) -> NexmarkSummary {
        let mut total = NexmarkCounts::default();
        for counts in &partitions {
            total += counts;
        }
        let (first, last) = self.numbers.span(self.events);
        NexmarkSummary { total, partitions, first: naive(first), last: naive(last) }
    }
}

/// Writes the events, and into a folder their truth too.
pub fn run(options: &NexmarkOptions) -> Result<NexmarkSummary> {
    let nexmark = Nexmark::new(&options.events)?;
    match &options.out {
        Some(out) => write_files(&nexmark, options, out),
        None => {
            let mut stdout = std::io::stdout().lock();
            let counts = nexmark.in_order(&mut |batch| Ok(stdout.write_all(batch.bytes)?))?;
            stdout.flush()?;
            Ok(nexmark.summary(vec![counts]))
        }
    }
}

fn write_files(nexmark: &Nexmark, options: &NexmarkOptions, out: &Path) -> Result<NexmarkSummary> {
    let name = |partition: u32| format!("nexmark-{partition:05}.ndjson");
    let ours = |file: &str| {
        let number = file.strip_prefix("nexmark-").and_then(|rest| rest.strip_suffix(".ndjson"));
        number.and_then(|number| number.parse::<u32>().ok())
    };
    files::claim(
        out,
        |file| ours(file).is_some(),
        |file| ours(file).is_some_and(|number| number < nexmark.partitions),
    )?;
    let partitions = each_partition(nexmark, options.threads, &|partition| {
        files::write_whole(&out.join(name(partition)), |file| {
            nexmark.batches(partition, &mut |batch| Ok(file.write_all(batch.bytes)?))
        })
    })?;
    let summary = nexmark.summary(partitions);
    files::write_whole(&out.join("truth.json"), |file| {
        let mut file = BufWriter::new(file);
        serde_json::to_writer_pretty(&mut file, &summary)?;
        writeln!(file)?;
        Ok(file.flush()?)
    })?;
    Ok(summary)
}

/// Runs `make` for every partition on a few threads.
fn each_partition(
    nexmark: &Nexmark,
    threads: Option<usize>,
    make: &(dyn Fn(u32) -> Result<NexmarkCounts> + Sync),
) -> Result<Vec<NexmarkCounts>> {
    let threads = threads
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1)
        .clamp(1, nexmark.partitions as usize);
    let next = AtomicU32::new(0);
    let done: Mutex<BTreeMap<u32, Result<NexmarkCounts>>> = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let partition = next.fetch_add(1, Ordering::Relaxed);
                    if partition >= nexmark.partitions {
                        return;
                    }
                    let made = make(partition);
                    if made.is_err() {
                        next.store(nexmark.partitions, Ordering::Relaxed);
                    }
                    done.lock()
                        .expect("no thread panics while it holds this")
                        .insert(partition, made);
                }
            });
        }
    });
    done.into_inner().expect("no thread panics while it holds this").into_values().collect()
}

/// Gathers events until there are enough for a batch.
struct Batcher<'a> {
    writer: Writer<'a>,
    partition: u32,
    bytes: Vec<u8>,
    ends: Vec<u32>,
    counts: NexmarkCounts,
    each: &'a mut dyn FnMut(Batch<'_>) -> Result<()>,
}

impl<'a> Batcher<'a> {
    fn new(
        nexmark: &'a Nexmark,
        partition: u32,
        each: &'a mut dyn FnMut(Batch<'_>) -> Result<()>,
    ) -> Self {
        Self {
            writer: Writer::new(&nexmark.numbers, &nexmark.tables),
            partition,
            bytes: Vec::with_capacity(BATCH + 4_096),
            ends: Vec::with_capacity(1_024),
            counts: NexmarkCounts::default(),
            each,
        }
    }

    fn add(&mut self, event: u64) -> Result<()> {
        let kind = self.writer.write(event, &mut self.bytes);
        self.bytes.push(b'\n');
        self.ends.push(self.bytes.len() as u32);
        self.counts.add(kind);
        if self.bytes.len() >= BATCH { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<()> {
        self.counts.bytes += self.bytes.len() as u64;
        (self.each)(Batch { partition: self.partition, bytes: &self.bytes, ends: &self.ends })?;
        self.bytes.clear();
        self.ends.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<NexmarkCounts> {
        if !self.ends.is_empty() {
            self.hand_over()?;
        }
        Ok(self.counts)
    }
}

fn naive(millis: i64) -> NaiveDateTime {
    chrono::DateTime::from_timestamp_millis(millis).unwrap_or_default().naive_utc()
}
