//! The writing side of a log, one step at a time: a group of requests becomes frames, the frames
//! become durable, and each request gets its answer.
//!
//! Nothing here waits or runs by itself: [`super::service`] gathers the groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use freshet_core::clock::Clock;
use freshet_core::error::{Error, Result, code};
use freshet_core::ingest::{Appended, IdempotencyKey, Record};
use freshet_core::source::Position;
use freshet_core::stream::Partition;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

use super::consumers;
use super::frame::{self, Stamp};
use super::keys::Keys;
use super::partition::{PartitionLog, Retain};
use super::place::Place;
use super::{LogOptions, Retention};

/// Records of requests without an idempotency key are put together to frames of about this size.
const FRAME: usize = 256 << 10;

/// A request whose records are spread over the partitions.
#[derive(Debug)]
pub(super) struct Draft {
    /// The records of each partition that has any.
    pub parts: BTreeMap<u32, Vec<Record>>,
    pub idempotency: Option<IdempotencyKey>,
}

impl Draft {
    /// Spreads records: by a hash of their keys; those without one go together, where the request's
    /// idempotency key says (so that a repetition goes there as well), or to `turn`.
    pub fn new(
        records: Vec<Record>,
        idempotency: Option<IdempotencyKey>,
        partitions: u32,
        turn: u64,
    ) -> Self {
        let of = |hash: u64| (hash % u64::from(partitions)) as u32;
        let keyless = of(idempotency.as_ref().map_or(turn, |key| xxh3_64(key.name.as_bytes())));
        let mut parts: BTreeMap<u32, Vec<Record>> = BTreeMap::new();
        for record in records {
            let partition = record.key.as_ref().map_or(keyless, |key| of(xxh3_64(key)));
            parts.entry(partition).or_default().push(record);
        }
        Self { parts, idempotency }
    }
}

/// How far each partition is, for readers in the process.
pub(super) type Settled = Arc<[u64]>;

/// The writing side of a log.
#[derive(Debug)]
pub(super) struct Writer {
    place: Place,
    options: LogOptions,
    clock: Arc<dyn Clock>,
    partitions: Vec<PartitionLog>,
    keys: Keys,
    /// Tells how far each partition is durable.
    settled: watch::Sender<Option<Settled>>,
    /// Whether partitions are made durable at the same time rather than one after the other.
    at_once: bool,
    scratch: Scratch,
}

/// The frames of one group, by partition.
#[derive(Debug, Default)]
struct Scratch {
    frames: Vec<Vec<u8>>,
    /// Records that wait to be put together, and their bytes.
    loose: Vec<(Vec<Record>, usize)>,
    ends: Vec<u64>,
    times: Vec<i64>,
    settled: Vec<u64>,
}

/// What a request waits for.
#[derive(Debug)]
struct Awaited {
    /// The position behind its records in each partition.
    ends: BTreeMap<u32, u64>,
    repeated: bool,
}

impl Writer {
    /// Opens a log; what an earlier process left is settled once this returns.
    pub fn open(
        place: Place,
        options: LogOptions,
        clock: Arc<dyn Clock>,
        settled: watch::Sender<Option<Settled>>,
    ) -> Result<Self> {
        let now = clock.now_micros();
        let window = micros(options.idempotency_window.0);
        let mut keys = Keys::new(window, options.max_idempotency_keys);
        let mut partitions = Vec::new();
        for number in 0..place.partitions {
            let partition = PartitionLog::open(
                Arc::clone(&place.files),
                place.dir(number),
                options.segment_bytes.0,
                now.saturating_sub(window),
                |header, bytes| {
                    if let Some(stamp) = header.stamp(bytes) {
                        keys.found(number, header, stamp);
                    }
                },
            )?;
            partitions.push(partition);
        }
        keys.complete(now);
        let writer = Self {
            place,
            options,
            clock,
            partitions,
            keys,
            settled,
            at_once: false,
            scratch: Scratch::default(),
        };
        writer.tell();
        Ok(writer)
    }

    /// Makes partitions durable at the same time, on threads: what happens when is chance then.
    pub fn at_once(mut self) -> Self {
        self.at_once = true;
        self
    }

    /// Appends a group of requests and makes them durable: one answer for each, in their order.
    pub fn commit(&mut self, group: Vec<Draft>) -> Vec<Result<Appended>> {
        let now = self.clock.now_micros();
        self.keys.forget(now);
        self.begin_group(now);
        let awaited: Vec<_> = group.into_iter().map(|draft| self.enter(draft)).collect();
        self.end_group();
        let failures = self.settle();
        self.tell();
        awaited.into_iter().map(|awaited| self.answer(awaited?, &failures)).collect()
    }

    /// Makes durable what the partitions have taken; what went wrong in which.
    fn settle(&mut self) -> BTreeMap<u32, String> {
        let failed = |result: std::io::Result<()>| result.err().map(|error| error.to_string());
        let touched = (0u32..).zip(&mut self.partitions).filter(|(_, log)| log.waiting() > 0);
        let outcomes: Vec<(u32, Option<String>)> = if self.at_once {
            // Syncs of several files at once share a commit of the file system's journal (example
            // `log_bench`, 4 partitions, ext4, 64 senders of 100 records: 7.5 ms a request at the
            // median and 814,000 records/s; one after the other 28.6 ms and 223,000).
            std::thread::scope(|scope| {
                let mut touched: Vec<_> = touched.collect();
                let last = touched.pop();
                let others: Vec<_> = touched
                    .into_iter()
                    .map(|(number, log)| (number, scope.spawn(move || failed(log.settle()))))
                    .collect();
                let last = last.map(|(number, log)| (number, failed(log.settle())));
                let others = others.into_iter().map(|(number, thread)| {
                    let lost = |_| Some("its thread panicked".to_owned());
                    (number, thread.join().unwrap_or_else(lost))
                });
                others.chain(last).collect()
            })
        } else {
            touched.map(|(number, log)| (number, failed(log.settle()))).collect()
        };
        outcomes.into_iter().filter_map(|(number, error)| Some((number, error?))).collect()
    }

    /// Bytes that wait to become durable after the disk failed.
    pub fn waiting(&self) -> usize {
        self.partitions.iter().map(PartitionLog::waiting).sum()
    }

    /// Lets go of what is too old or too much.
    pub fn retain(&mut self) -> Result<()> {
        let needed = match self.options.retention {
            Retention::Strict => Vec::new(),
            Retention::Needed => consumers::list(&self.place)?.into_values().collect(),
        };
        let now = self.clock.now_micros();
        let before = self.options.retention_time.map(|age| now.saturating_sub(micros(age.0)));
        let share = u64::from(self.place.partitions);
        let bytes = self.options.retention_bytes.map(|bytes| bytes.0.div_ceil(share));
        for (number, partition) in (0u32..).zip(&mut self.partitions) {
            let name = Partition(number.to_string());
            let positions = needed.iter().map(|consumer: &consumers::Positions| {
                consumer.get(&name).map_or(0, |position| position.0)
            });
            let needed = positions.min().unwrap_or(u64::MAX);
            let gone = partition.retain(Retain { before, bytes, needed })?;
            if gone > 0 {
                tracing::info!(partition = number, segments = gone, "old records were let go of");
            }
        }
        Ok(())
    }

    fn begin_group(&mut self, now: i64) {
        let scratch = &mut self.scratch;
        scratch.frames.resize_with(self.partitions.len(), Vec::new);
        scratch.loose.resize_with(self.partitions.len(), Default::default);
        scratch.ends.clear();
        scratch.ends.extend(self.partitions.iter().map(PartitionLog::end));
        scratch.times.clear();
        scratch.times.extend(self.partitions.iter_mut().map(|partition| partition.arrival(now)));
        scratch.settled.clear();
        scratch.settled.extend(self.partitions.iter().map(PartitionLog::settled));
    }

    /// Makes the frames of a request.
    fn enter(&mut self, draft: Draft) -> Result<Awaited> {
        let Draft { parts, idempotency } = draft;
        let Some(key) = idempotency else {
            let mut ends = BTreeMap::new();
            for (number, records) in parts {
                let index = number as usize;
                let (loose, bytes) = &mut self.scratch.loose[index];
                *bytes += records.iter().map(frame::record_len).sum::<usize>();
                if loose.is_empty() {
                    *loose = records;
                } else {
                    loose.extend(records);
                }
                let (full, waiting) = (*bytes >= FRAME, loose.len() as u64);
                ends.insert(number, self.scratch.ends[index] + waiting);
                if full {
                    self.scratch.frame(index);
                }
            }
            return Ok(Awaited { ends, repeated: false });
        };
        let known = self.keys.known(&key)?.cloned().unwrap_or_default();
        let repeated = self.keys.is_whole(&key.name);
        let stamp = Stamp { key, parts: parts.len() as u32 };
        let mut ends = known;
        for (number, records) in parts {
            if repeated || ends.contains_key(&number) {
                continue;
            }
            let index = number as usize;
            self.scratch.frame(index);
            let end = self.scratch.append(index, &records, Some(&stamp));
            self.keys.add(number, end, self.scratch.times[index], &stamp);
            ends.insert(number, end);
        }
        Ok(Awaited { ends, repeated })
    }

    fn end_group(&mut self) {
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            self.scratch.frame(index);
            let frames = &mut self.scratch.frames[index];
            if !frames.is_empty() {
                partition.take(std::mem::take(frames), self.scratch.ends[index]);
            }
        }
    }

    fn answer(&self, awaited: Awaited, failures: &BTreeMap<u32, String>) -> Result<Appended> {
        for (number, end) in &awaited.ends {
            if self.partitions[*number as usize].settled() < *end {
                let why = failures.get(number).map_or("it was not written", String::as_str);
                let dir = self.place.dir(*number);
                return Err(Error::new(
                    code::LOG,
                    format!("could not make records durable in \"{}\"", dir.display()),
                )
                .caused_by(why)
                .retryable());
            }
        }
        let positions = awaited
            .ends
            .into_iter()
            .map(|(number, end)| (Partition(number.to_string()), Position(end)))
            .collect();
        Ok(Appended { kept: true, repeated: awaited.repeated, positions, ..Appended::default() })
    }

    fn tell(&self) {
        let settled: Settled = self.partitions.iter().map(PartitionLog::settled).collect();
        self.settled.send_if_modified(|told| {
            let changed = told.as_deref() != Some(&*settled);
            *told = Some(settled);
            changed
        });
    }
}

impl Scratch {
    /// Puts the loose records of a partition into a frame.
    fn frame(&mut self, index: usize) {
        let (records, bytes) = std::mem::take(&mut self.loose[index]);
        if bytes > 0 {
            self.append(index, &records, None);
        }
    }

    fn append(&mut self, index: usize, records: &[Record], stamp: Option<&Stamp>) -> u64 {
        let base = self.ends[index];
        let (settled, time) = (self.settled[index], self.times[index]);
        frame::encode(index as u32, base, settled, time, records, stamp, &mut self.frames[index]);
        self.ends[index] += records.len() as u64;
        self.ends[index]
    }
}

/// Bytes of a request as its limits count them.
pub(super) fn request_len(records: &[Record]) -> usize {
    records.iter().map(frame::record_len).sum()
}

/// A span of time in microseconds.
pub(super) fn micros(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// The error of a record or request that is too large.
pub(super) fn too_large(what: &str, bytes: usize, option: &str, most: u64) -> Error {
    Error::new(code::LIMIT, format!("{what} has {bytes} bytes, more than the {most} of `{option}`"))
        .hint(format!("send less at a time, or raise `{option}` of the source"))
}
