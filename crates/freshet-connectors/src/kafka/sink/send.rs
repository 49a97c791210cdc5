//! Sending as rows come: what one promises who says at least once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use freshet_core::error::{Error, Result};
use freshet_core::rows::Rows;
use freshet_core::stream::{Epoch, SinkWriter, Token, Wake};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::encode::RowEncoder;
use crate::kafka::client::Cluster;
use crate::kafka::delivery::Delivery;

/// Sends rows by a task of its own.
#[derive(Debug)]
pub struct SendingWriter {
    line: Arc<Line>,
    acknowledged: watch::Receiver<Progress>,
    limit: usize,
    task: JoinHandle<()>,
}

/// What waits to be sent.
#[derive(Debug)]
struct Line {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug)]
struct Waiting {
    encoder: RowEncoder,
    full: BTreeMap<i32, VecDeque<Bytes>>,
    /// Rows that were ever written.
    rows: u64,
    /// Bytes of `full` and of what is under way.
    held: usize,
}

/// How far sending has come.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// Rows of which all is acknowledged.
    rows: u64,
    failed: Option<Arc<Error>>,
}

impl SendingWriter {
    /// Begins to send to `topic`.
    pub async fn start(
        cluster: Arc<Cluster>,
        topic: Arc<str>,
        encoder: RowEncoder,
        limit: usize,
        wake: Arc<dyn Wake>,
    ) -> Result<Self> {
        let line = Arc::new(Line {
            waiting: Mutex::new(Waiting { encoder, full: BTreeMap::new(), rows: 0, held: 0 }),
            more: Notify::new(),
        });
        let (told, acknowledged) = watch::channel(Progress::default());
        let task = Task {
            delivery: Delivery::start(cluster, topic).await?,
            line: Arc::clone(&line),
            wake,
            limit,
        };
        let task = tokio::spawn(task.run(told));
        Ok(Self { line, acknowledged, limit, task })
    }
}

impl Drop for SendingWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SinkWriter for SendingWriter {
    fn write(&mut self, rows: Rows) -> Result<()> {
        if let Some(failed) = &self.acknowledged.borrow().failed {
            return Err(again(failed));
        }
        let mut waiting = self.line.waiting.lock();
        let full = waiting.encoder.push(&rows)?;
        waiting.rows += rows.len() as u64;
        waiting.enter(full);
        drop(waiting);
        self.line.more.notify_one();
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.line.waiting.lock().held < self.limit
    }

    fn cut(&mut self, _epoch: Epoch) -> Result<BoxFuture<'static, Result<Token>>> {
        let rows = self.line.waiting.lock().rows;
        self.line.more.notify_one();
        let mut acknowledged = self.acknowledged.clone();
        Ok(Box::pin(async move {
            let progress = acknowledged
                .wait_for(|progress| progress.rows >= rows || progress.failed.is_some())
                .await
                .map_err(|_| Error::internal("the task that sends to kafka has ended"))?;
            match &progress.failed {
                Some(failed) => Err(again(failed)),
                None => Ok(Token::Null),
            }
        }))
    }
}

impl Waiting {
    fn enter(&mut self, full: Vec<(i32, Bytes)>) {
        for (partition, batch) in full {
            self.held += batch.len();
            self.full.entry(partition).or_default().push_back(batch);
        }
    }
}

struct Task {
    delivery: Delivery,
    line: Arc<Line>,
    wake: Arc<dyn Wake>,
    limit: usize,
}

impl Task {
    async fn run(mut self, told: watch::Sender<Progress>) {
        loop {
            match self.round().await {
                // All that was written when nothing was left is acknowledged.
                Ok(Some(rows)) => {
                    told.send_modify(|progress| progress.rows = rows);
                    self.line.more.notified().await;
                }
                Ok(None) => {}
                Err(error) => {
                    told.send_modify(|progress| progress.failed = Some(Arc::new(error)));
                    self.wake.wake();
                    return;
                }
            }
        }
    }

    /// Sends the next batch of each partition; without any, the rows that were ever written.
    async fn round(&mut self) -> Result<Option<u64>> {
        let mut round = BTreeMap::new();
        {
            let mut waiting = self.line.waiting.lock();
            if waiting.full.is_empty() {
                // Nothing is full and nothing under way: what there is goes out at once.
                let rest = waiting.encoder.finish()?;
                waiting.enter(rest);
            }
            if waiting.full.is_empty() {
                return Ok(Some(waiting.rows));
            }
            waiting.full.retain(|partition, queue| {
                round.extend(queue.pop_front().map(|batch| (*partition, batch)));
                !queue.is_empty()
            });
        }
        let bytes: usize = round.values().map(Bytes::len).sum();
        self.delivery.send(round).await?;
        let mut waiting = self.line.waiting.lock();
        let was_full = waiting.held >= self.limit;
        waiting.held -= bytes;
        let has_room = waiting.held < self.limit;
        drop(waiting);
        if was_full && has_room {
            self.wake.wake();
        }
        Ok(None)
    }
}

/// The error that ended the task, told once more.
fn again(error: &Error) -> Error {
    let told = Error::new(error.code(), error.message().to_owned()).caused_by(error.chain());
    match error.hint_text() {
        Some(hint) => told.hint(hint.to_owned()),
        None => told,
    }
}
