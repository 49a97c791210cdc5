//! A log that is written to: one thread gathers what arrives while the last fsync runs, and makes it
//! durable with one more.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use freshet_core::clock::Clock;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::files::FileSystem;
use freshet_core::ingest::{AppendRequest, Appended};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

use super::consumers::{self, Positions};
use super::os::WriterLock;
use super::place::Place;
use super::writer::{Draft, Settled, Writer, request_len, too_large};
use super::{Fsync, LogOptions};

/// How often old records are looked for.
const RETENTION_EVERY: Duration = Duration::from_secs(10);
/// The longest name of an idempotency key.
const MAX_KEY: usize = 256;

/// A log, open for writing in this process.
pub struct EventLog {
    place: Place,
    options: LogOptions,
    shared: Arc<Shared>,
    turn: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    requests: Vec<Waiting>,
    /// Bytes of all requests that have no answer, and of those that the disk refused.
    bytes: usize,
    closed: bool,
}

#[derive(Debug)]
struct Waiting {
    draft: Draft,
    bytes: usize,
    answer: oneshot::Sender<Result<Appended>>,
}

impl EventLog {
    /// Opens the log in the folder `root`, an absolute path, and settles what an earlier process
    /// left. The caller sees to it that nobody else writes it.
    pub fn open(
        files: Arc<dyn FileSystem>,
        root: impl Into<PathBuf>,
        options: LogOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let place = Place::open(files, root.into(), options.partitions)?;
        Self::start(place, options, clock, watch::Sender::new(None), None)
    }

    /// As [`Self::open`], telling readers through `settled`.
    pub(super) fn start(
        place: Place,
        options: LogOptions,
        clock: Arc<dyn Clock>,
        settled: watch::Sender<Option<Settled>>,
        lock: Option<WriterLock>,
    ) -> Result<Self> {
        let told = settled.clone();
        let writer = Writer::open(place.clone(), options.clone(), clock, settled)?.at_once();
        let shared = Arc::new(Shared::default());
        let thread = thread::Builder::new()
            .name("event-log".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                let fsync = options.fsync;
                move || {
                    run(&shared, writer, fsync);
                    // Readers of this process look for another writer from now on.
                    told.send_replace(None);
                    drop(lock);
                }
            })
            .or_code(code::LOG, || place.message("start a thread for"))?;
        Ok(Self { place, options, shared, turn: AtomicU64::new(0), thread: Some(thread) })
    }

    /// Appends records and waits until they are durable. What their contract says of them is not
    /// looked at here.
    pub async fn append(&self, request: AppendRequest) -> Result<Appended> {
        let bytes = self.check(&request)?;
        let AppendRequest { records, idempotency, .. } = request;
        let options = &self.options;
        if records.is_empty() {
            let positions = BTreeMap::new();
            return Ok(Appended { kept: true, positions, ..Appended::default() });
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let draft = Draft::new(records, idempotency, self.place.partitions, turn);
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.shared.queue.lock();
            let most = options.max_pending_bytes.as_usize();
            if queue.bytes + bytes > most {
                return Err(Error::new(
                    code::BUSY,
                    format!(
                        "{} bytes wait to become durable, with these more than the {most} of `max_pending_bytes`",
                        queue.bytes
                    ),
                )
                .hint("try again after a moment")
                .retryable());
            }
            queue.bytes += bytes;
            queue.requests.push(Waiting { draft, bytes, answer });
        }
        self.shared.wake.notify_one();
        answered.await.map_err(|_| {
            Error::new(code::LOG, self.place.message("write")).caused_by("its writer has stopped")
        })?
    }

    /// Whether a request keeps the limits; its bytes.
    pub(super) fn check(&self, request: &AppendRequest) -> Result<usize> {
        let AppendRequest { records, idempotency, .. } = request;
        let options = &self.options;
        for (number, record) in records.iter().enumerate() {
            let most = options.max_record_bytes.0;
            let key = record.key.as_ref().map_or(0, bytes::Bytes::len);
            for (what, bytes) in [("record", record.value.len()), ("the key of record", key)] {
                if bytes as u64 > most {
                    return Err(too_large(
                        &format!("{what} {number}"),
                        bytes,
                        "max_record_bytes",
                        most,
                    ));
                }
            }
        }
        let bytes = request_len(records);
        if bytes as u64 > options.max_batch_bytes.0 {
            let most = options.max_batch_bytes.0;
            return Err(too_large("the request", bytes, "max_batch_bytes", most));
        }
        if let Some(key) = idempotency
            && (key.name.is_empty() || key.name.len() > MAX_KEY)
        {
            return Err(Error::new(
                code::LIMIT,
                format!("an idempotency key has 1 to {MAX_KEY} bytes, not {}", key.name.len()),
            ));
        }
        Ok(bytes)
    }

    /// Makes durable that the consumer `name` needs nothing before `positions`.
    pub fn commit(&self, name: &str, positions: &Positions) -> Result<()> {
        consumers::commit(&self.place, name, positions)
    }

    /// Named consumers and where they are.
    pub fn consumers(&self) -> Result<BTreeMap<String, Positions>> {
        consumers::list(&self.place)
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog").field("root", &self.place.root).finish_non_exhaustive()
    }
}

impl Drop for EventLog {
    /// What was asked for is written first; then the log is free for others.
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Writes group after group until the log is closed.
fn run(shared: &Shared, mut writer: Writer, fsync: Fsync) {
    let mut retained: Option<Instant> = None;
    let mut refused = 0;
    loop {
        if retained.is_none_or(|at| at.elapsed() >= RETENTION_EVERY) {
            if let Err(error) = writer.retain() {
                tracing::warn!(error = %error.chain(), "old records could not be removed");
            }
            retained = Some(Instant::now());
        }
        let group = {
            let mut queue = shared.queue.lock();
            if queue.requests.is_empty() && !queue.closed {
                shared.wake.wait_for(&mut queue, RETENTION_EVERY);
            }
            if queue.requests.is_empty() {
                if queue.closed {
                    return;
                }
                continue;
            }
            if let Fsync::Interval(interval) = fsync {
                let until = Instant::now() + interval.0;
                while !queue.closed && !shared.wake.wait_until(&mut queue, until).timed_out() {}
            }
            std::mem::take(&mut queue.requests)
        };
        let mut done = 0;
        let mut answers = Vec::with_capacity(group.len());
        let drafts = group.into_iter().map(|Waiting { draft, bytes, answer }| {
            done += bytes;
            answers.push(answer);
            draft
        });
        let results = writer.commit(drafts.collect());
        let waiting = writer.waiting();
        {
            let mut queue = shared.queue.lock();
            queue.bytes = queue.bytes + waiting - done - refused;
        }
        refused = waiting;
        for (answer, result) in answers.into_iter().zip(results) {
            // Whoever asked may have gone.
            let _ = answer.send(result);
        }
    }
}
