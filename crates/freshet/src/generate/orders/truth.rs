//! What was sent, kept while it is sent: the sidecar that a pipeline's results are held against.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::life::{Event, Fate, IN_TIME, Lives, Status, Step, Undelivered};
use super::record::{Order, OrderFault};
use super::world::{CITIES, World};
use super::{OrdersSummary, Stream};
use crate::generate::text::TimeText;

/// Minutes before one that it is compared with, and how many of them there must be.
const BASE_MINUTES: usize = 60;
const LEAST_MINUTES: usize = 5;

/// The events of a city, status and minute that are good and in time.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    /// Different ones.
    events: u64,
    /// Repeated ones included.
    sent: u64,
    cents: u64,
}

type Minute = [[Cell; Status::ALL.len()]; CITIES.len()];

/// See the module.
#[derive(Debug)]
pub(super) struct Truth {
    start: i64,
    /// See [`OrderId::written`](super::life::OrderId::written).
    base: u64,
    minutes: Vec<Minute>,
    summary: OrdersSummary,
    files: Option<Files>,
    end: i64,
}

#[derive(Debug)]
struct Files {
    folder: PathBuf,
    base: u64,
    lines: BufWriter<File>,
    undelivered: BufWriter<File>,
}

/// A line of the sidecar.
#[derive(Serialize)]
struct Line<'a> {
    kind: &'a str,
    /// One-based line in the stream `orders`.
    line: u64,
    /// Byte offset of the line's first byte.
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    city: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_time: Option<String>,
    /// How long after its time it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind_ms: Option<i64>,
    /// The line without its line feed, where it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<&'a str>,
    /// The same in hexadecimal, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_hex: Option<String>,
}

impl Truth {
    /// Of a stream that begins at `start` and lasts for `seconds`; into `folder`, where one is given.
    pub(super) fn new(folder: Option<&Path>, start: i64, base: u64, seconds: i64) -> Result<Self> {
        let files = folder.map(|folder| Files::create(folder, base)).transpose()?;
        let end = seconds * 1_000;
        let summary =
            OrdersSummary { first: at(start), end: at(start + end), ..OrdersSummary::default() };
        Ok(Self { start, base, minutes: Vec::new(), summary, files, end })
    }

    /// A customer becomes known at `from` only.
    pub(super) fn missing_customer(&mut self, customer: u32, from: i64) -> Result<()> {
        self.summary.missing_customers += 1;
        let known_from = (from < self.end).then(|| iso(self.start + from));
        if let Some(files) = &mut self.files {
            let line = serde_json::json!({
                "kind": "missing_customer", "customer_id": customer, "known_from": known_from,
            });
            files.line(&line)?;
        }
        Ok(())
    }

    /// A record of a stream other than `orders` was sent.
    pub(super) fn other(&mut self, stream: Stream, bytes: usize) {
        self.summary.count(stream, bytes);
    }

    /// An order event was sent; `line` has its line feed.
    pub(super) fn order(
        &mut self,
        (world, lives): (&World, &Lives),
        order: &Order,
        event: &Event,
        known_from: Option<i64>,
        line: &[u8],
    ) -> Result<()> {
        let Step::Order(status) = event.step else { return Ok(()) };
        let offset = self.summary.bytes.get(&Stream::Orders).copied().unwrap_or_default();
        self.summary.count(Stream::Orders, line.len());
        let number = self.summary.records[&Stream::Orders];
        if let Fate::Bad(detail) = event.fate {
            let fault = OrderFault::of(detail);
            *self.summary.bad.entry(fault).or_default() += 1;
            return match &mut self.files {
                Some(files) => files.fault(fault, number, offset, line),
                None => Ok(()),
            };
        }
        let minute = usize::try_from(lives.minute(event.at)).unwrap_or_default();
        if minute >= self.minutes.len() {
            self.minutes.resize(minute + 1, Minute::default());
        }
        let cell = &mut self.minutes[minute][order.id.city()][status as usize];
        let kind = match event.fate {
            Fate::Good => {
                cell.events += 1;
                cell.sent += 1;
                cell.cents += u64::from(order.cents);
                self.summary.in_time += 1;
                None
            }
            Fate::Repeat => {
                cell.sent += 1;
                self.summary.repeated += 1;
                Some("repeated")
            }
            Fate::Late => {
                self.summary.late += 1;
                Some("late")
            }
            Fate::Bad(_) => None,
        };
        if event.fate != Fate::Repeat && known_from.is_some_and(|from| event.arrival < from) {
            self.summary.unknown_customer += 1;
        }
        if let (Some(kind), Some(files)) = (kind, &mut self.files) {
            files.line(&Line {
                kind,
                line: number,
                offset,
                rule: None,
                column: None,
                order_id: Some(order.id.written(self.base)),
                city: Some(CITIES[order.id.city()].0),
                status: Some(status.as_str()),
                event_time: Some(iso(self.start + event.at)),
                behind_ms: Some(event.arrival - event.at),
                raw: None,
                raw_hex: None,
            })?;
        }
        if status == Status::Placed && event.fate != Fate::Repeat {
            if event.at + IN_TIME * 1_000 > self.end {
                self.summary.undecided += 1;
            } else if let Some(why) = lives.undelivered(world, order.id) {
                *self.summary.undelivered.entry(why).or_default() += 1;
                if let Some(files) = &mut self.files {
                    files.undelivered(self.start, order, event, why)?;
                }
            }
        }
        Ok(())
    }

    /// Writes what can be said at the end only.
    pub(super) fn finish(mut self) -> Result<OrdersSummary> {
        // A city or minute without any event has its row, too.
        let last = (self.start + self.end - 1).div_euclid(60_000) - self.start.div_euclid(60_000);
        let minutes = usize::try_from(last + 1).unwrap_or_default();
        self.minutes.resize(minutes.max(self.minutes.len()), Minute::default());
        let changes = self.changes();
        for change in &changes {
            self.summary.silent_minutes += u64::from(change.events == 0);
            self.summary.surges += u64::from(change.is_surge());
            self.summary.drops += u64::from(change.is_drop());
        }
        if let Some(files) = self.files.take() {
            let folder = files.folder.clone();
            let write = || -> Result<()> {
                files.finish(&self.summary)?;
                self.write_counts(&folder.join("truth_counts.csv"))?;
                self.write_changes(&folder.join("truth_city_minutes.csv"), &changes)
            };
            write()
                .with_context(|| format!("could not write the truth to {}", folder.display()))?;
        }
        Ok(self.summary)
    }

    /// Each city in each whole minute.
    fn changes(&self) -> Vec<Change> {
        let first = usize::from(self.start % 60_000 != 0);
        let whole = self.minutes.len() - usize::from((self.start + self.end) % 60_000 != 0);
        let mut changes = Vec::new();
        for minute in first..whole {
            for city in 0..CITIES.len() {
                let placed = |minute: usize| self.minutes[minute][city][Status::Placed as usize];
                let before = first.max(minute.saturating_sub(BASE_MINUTES))..minute;
                changes.push(Change {
                    minute,
                    city,
                    events: self.minutes[minute][city].iter().map(|cell| cell.events).sum(),
                    placed: placed(minute).events,
                    base_minutes: before.len(),
                    base: before.map(|minute| placed(minute).events).sum(),
                });
            }
        }
        changes
    }

    fn write_counts(&self, path: &Path) -> Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        writeln!(file, "minute,city,status,events,sent,amount")?;
        for (minute, cities) in self.minutes.iter().enumerate() {
            for (cells, (city, _)) in cities.iter().zip(CITIES) {
                for (cell, status) in cells.iter().zip(Status::ALL) {
                    if cell.sent > 0 {
                        writeln!(
                            file,
                            "{},{city},{},{},{},{}.{:02}",
                            self.minute_text(minute),
                            status.as_str(),
                            cell.events,
                            cell.sent,
                            cell.cents / 100,
                            cell.cents % 100
                        )?;
                    }
                }
            }
        }
        Ok(file.flush()?)
    }

    fn write_changes(&self, path: &Path, changes: &[Change]) -> Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        writeln!(file, "minute,city,events,placed,base_minutes,base_placed,silent,change")?;
        for change in changes {
            let kind = match change {
                change if change.is_surge() => "surge",
                change if change.is_drop() => "drop",
                _ => "",
            };
            writeln!(
                file,
                "{},{},{},{},{},{},{},{kind}",
                self.minute_text(change.minute),
                CITIES[change.city].0,
                change.events,
                change.placed,
                change.base_minutes,
                change.base,
                change.events == 0
            )?;
        }
        Ok(file.flush()?)
    }

    fn minute_text(&self, minute: usize) -> String {
        iso((self.start.div_euclid(60_000) + minute as i64) * 60_000)
    }
}

/// One city in one minute, against the hour before.
///
/// A surge is a minute with more than twice, a drop one with less than half the placed orders that
/// the up to sixty whole minutes before it had on average; there must be five of those at least.
/// Counted are different events that are good and in time. A minute without any event of the
/// city is silent, whatever came before it.
#[derive(Debug, Clone, Copy)]
struct Change {
    minute: usize,
    city: usize,
    events: u64,
    placed: u64,
    base_minutes: usize,
    base: u64,
}

impl Change {
    fn is_surge(&self) -> bool {
        self.base_minutes >= LEAST_MINUTES && self.placed * self.base_minutes as u64 > 2 * self.base
    }

    fn is_drop(&self) -> bool {
        self.base_minutes >= LEAST_MINUTES
            && 2 * self.placed * (self.base_minutes as u64) < self.base
    }
}

impl Files {
    fn create(folder: &Path, base: u64) -> Result<Self> {
        let create = || -> Result<Self> {
            fs::create_dir_all(folder)?;
            let mut undelivered =
                BufWriter::new(File::create(folder.join("truth_undelivered.csv"))?);
            writeln!(undelivered, "order_id,city,placed_at,placed_late,why")?;
            let lines = BufWriter::new(File::create(folder.join("truth.jsonl"))?);
            Ok(Self { folder: folder.to_owned(), base, lines, undelivered })
        };
        create().with_context(|| format!("could not write the truth to {}", folder.display()))
    }

    fn line<T: Serialize>(&mut self, line: &T) -> Result<()> {
        serde_json::to_writer(&mut self.lines, line)?;
        Ok(self.lines.write_all(b"\n")?)
    }

    fn fault(&mut self, fault: OrderFault, line: u64, offset: u64, raw: &[u8]) -> Result<()> {
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        let text = std::str::from_utf8(raw).ok();
        let hex = || raw.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let kind = serde_json::to_value(fault)?;
        self.line(&Line {
            kind: kind.as_str().unwrap_or_default(),
            line,
            offset,
            rule: Some(fault.rule().as_str()),
            column: fault.column(),
            order_id: None,
            city: None,
            status: None,
            event_time: None,
            behind_ms: None,
            raw: text,
            raw_hex: text.is_none().then(hex),
        })
    }

    fn undelivered(
        &mut self,
        start: i64,
        order: &Order,
        event: &Event,
        why: Undelivered,
    ) -> Result<()> {
        let why = serde_json::to_value(why)?;
        writeln!(
            self.undelivered,
            "{},{},{},{},{}",
            order.id.written(self.base),
            CITIES[order.id.city()].0,
            iso(start + event.at),
            event.fate == Fate::Late,
            why.as_str().unwrap_or_default()
        )?;
        Ok(())
    }

    fn finish(mut self, summary: &OrdersSummary) -> Result<()> {
        #[derive(Serialize)]
        struct Total<'a> {
            kind: &'static str,
            #[serde(flatten)]
            summary: &'a OrdersSummary,
        }
        self.line(&Total { kind: "summary", summary })?;
        self.lines.flush()?;
        Ok(self.undelivered.flush()?)
    }
}

impl OrdersSummary {
    fn count(&mut self, stream: Stream, bytes: usize) {
        *self.records.entry(stream).or_default() += 1;
        *self.bytes.entry(stream).or_default() += bytes as u64;
    }

    /// Order events with a fault.
    pub fn dead(&self) -> u64 {
        self.bad.values().sum()
    }
}

fn iso(millis: i64) -> String {
    let mut text = Vec::with_capacity(24);
    TimeText::new(b'T').write(millis, &mut text);
    text.push(b'Z');
    String::from_utf8(text).unwrap_or_default()
}

fn at(millis: i64) -> chrono::NaiveDateTime {
    chrono::DateTime::from_timestamp_millis(millis).unwrap_or_default().naive_utc()
}

/// The type that counts by fault have.
pub(super) type ByFault = BTreeMap<OrderFault, u64>;
