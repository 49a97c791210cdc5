//! Carrying rows to a target as they come, beside the workers: what sinks share that promise at
//! least once. An epoch ends when all of its rows have arrived.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use freshet_core::clock::Clock;
use freshet_core::error::{Error, Result};
use freshet_core::rows::Rows;
use freshet_core::stream::{Epoch, SinkWriter, Token, Wake};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// The first wait between two attempts.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Rows that are carried at once, at most.
const ROWS_AT_ONCE: usize = 65_536;

/// Carries rows to where they are to be.
pub trait Deliver: Send + 'static {
    /// Where, for logs.
    fn target(&self) -> String;

    /// All of `rows` have arrived, in their order, once this returns. An error that may pass is
    /// tried again, with the same rows.
    fn deliver<'a>(&'a mut self, rows: &'a [Rows]) -> BoxFuture<'a, Result<()>>;
}

/// Rows that wait.
#[derive(Debug, Default)]
struct Waiting {
    rows: VecDeque<Rows>,
    /// Bytes of `rows` and of what is under way.
    held: usize,
    /// Rows that were ever written.
    written: u64,
}

#[derive(Debug, Default)]
struct Line {
    waiting: Mutex<Waiting>,
    more: Notify,
}

/// How far carrying has come.
#[derive(Debug, Clone, Default)]
struct Progress {
    arrived: u64,
    failed: Option<Arc<Error>>,
}

/// Hands rows to a task of its own.
pub struct SendingWriter {
    line: Arc<Line>,
    progress: watch::Receiver<Progress>,
    limit: usize,
    task: JoinHandle<()>,
}

impl fmt::Debug for SendingWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendingWriter").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl SendingWriter {
    /// Begins to carry; rows of at most `limit` bytes wait.
    pub fn start(
        deliver: impl Deliver,
        limit: usize,
        wake: Arc<dyn Wake>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let line = Arc::<Line>::default();
        let (told, progress) = watch::channel(Progress::default());
        let task = tokio::spawn(carry(deliver, Arc::clone(&line), limit, wake, clock, told));
        Self { line, progress, limit, task }
    }
}

impl Drop for SendingWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SinkWriter for SendingWriter {
    fn write(&mut self, rows: Rows) -> Result<()> {
        if let Some(failed) = &self.progress.borrow().failed {
            return Err(again(failed));
        }
        let mut waiting = self.line.waiting.lock();
        waiting.held += rows.bytes();
        waiting.written += rows.len() as u64;
        waiting.rows.push_back(rows);
        drop(waiting);
        self.line.more.notify_one();
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.line.waiting.lock().held < self.limit
    }

    fn cut(&mut self, _epoch: Epoch) -> Result<BoxFuture<'static, Result<Token>>> {
        let written = self.line.waiting.lock().written;
        let mut progress = self.progress.clone();
        Ok(Box::pin(async move {
            let reached = progress
                .wait_for(|progress| progress.arrived >= written || progress.failed.is_some())
                .await
                .map_err(|_| Error::internal("the task that carries rows has ended"))?;
            match &reached.failed {
                Some(failed) => Err(again(failed)),
                None => Ok(Token::Null),
            }
        }))
    }
}

async fn carry(
    mut deliver: impl Deliver,
    line: Arc<Line>,
    limit: usize,
    wake: Arc<dyn Wake>,
    clock: Arc<dyn Clock>,
    told: watch::Sender<Progress>,
) {
    loop {
        let (mut rows, mut count, mut bytes) = (Vec::new(), 0, 0);
        {
            let mut waiting = line.waiting.lock();
            while count < ROWS_AT_ONCE
                && let Some(next) = waiting.rows.pop_front()
            {
                count += next.len();
                bytes += next.bytes();
                rows.push(next);
            }
        }
        if rows.is_empty() {
            line.more.notified().await;
            continue;
        }
        let mut wait = FIRST_WAIT;
        while let Err(error) = deliver.deliver(&rows).await {
            if !error.is_retryable() {
                told.send_modify(|progress| progress.failed = Some(Arc::new(error)));
                wake.wake();
                return;
            }
            let pause = with_jitter(wait, &*clock);
            tracing::warn!(target_name = deliver.target(), error = %error.chain(),
                wait_ms = pause.as_millis() as u64, "rows are carried again");
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        told.send_modify(|progress| progress.arrived += count as u64);
        let mut waiting = line.waiting.lock();
        let was_full = waiting.held >= limit;
        waiting.held = waiting.held.saturating_sub(bytes);
        let has_room = waiting.held < limit;
        drop(waiting);
        if was_full && has_room {
            wake.wake();
        }
    }
}

/// Half to all of a wait, so that many who failed together do not come back together.
pub fn with_jitter(wait: Duration, clock: &dyn Clock) -> Duration {
    let half = wait / 2;
    let share = clock.now_micros().rem_euclid(1_000) as u32;
    half + half * share / 1_000
}

/// The error that ended the task, told once more.
fn again(error: &Error) -> Error {
    let told = Error::new(error.code(), error.message().to_owned()).caused_by(error.chain());
    match error.hint_text() {
        Some(hint) => told.hint(hint.to_owned()),
        None => told,
    }
}
