//! The state of a job's operators on its way to files and back: restored, kept, merged.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use freshet_core::stream::EventTime;
use freshet_core::{Result, crash};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::retry::Retry;
use super::{Job, Life, Message};
use crate::checkpoint::{
    Event, Fetch, Manifest, Merge, Merger, Part, Repository, RunRef, Wanted, write_run,
};
use crate::executor::Io;
use crate::operator::{Chain, OperatorContext};
use crate::plan::StagePlan;
use crate::state::{Entry, KeyGroupRange};
use crate::task::Cut;

impl Job {
    /// The operators of one task, with the state of their key groups.
    pub(super) async fn chain(
        &self,
        stage: &StagePlan,
        groups: KeyGroupRange,
        watermark: EventTime,
        manifest: &Manifest,
    ) -> Result<Chain> {
        let context = OperatorContext {
            clock: Arc::clone(&self.environment.clock),
            groups,
            watermark,
            spill: self.options.spill.clone(),
        };
        let operators = stage.operators.iter().map(|(_, spec)| spec.create(&context));
        let mut chain = Chain::new(operators.collect::<Result<_>>()?);
        let files = self.files();
        for (place, (id, _)) in stage.operators.iter().enumerate() {
            let Some(runs) = manifest.operators.get(id) else { continue };
            let floors = manifest.floors.get(id).cloned().unwrap_or_default();
            let wanted = Wanted { groups, floors, removed: false };
            let mut merger = Merger::new(runs, &wanted, &files).await?;
            while merger.advance().await? {
                let entries: Vec<Entry<'_>> = merger.entries().map(|(entry, _)| entry).collect();
                chain.load(place, &entries)?;
            }
        }
        Ok(chain)
    }

    /// Makes a task's part of a checkpoint durable.
    pub(super) fn keep(&self, cut: Cut, life: &Life<'_>) {
        let io = &self.environment.io;
        let retry = self.retry();
        let repository = self.repository.clone();
        let stage = &self.plan.stages[usize::from(cut.task.stage)];
        let groups = self.plan.groups.range(cut.task.index.into(), stage.parallelism.into());
        let name = format!("{:020}-{}-{}", cut.epoch.0, life.generation.0, cut.task);
        let file = repository.state_path(&name.replace('/', "."));
        life.answer(io, async move {
            crash::point("checkpoint.cut");
            let Cut { task, epoch, watermark, deltas, positions, staging } = cut;
            let (mut content, mut runs, mut floors, mut offset) = (vec![], vec![], vec![], 0);
            for (place, mut delta) in deltas.into_iter().enumerate() {
                floors.extend(delta.floors().iter().map(|(table, time)| (place, *table, *time)));
                if delta.has_no_entries() {
                    continue;
                }
                let (bytes, entries) = write_run(&mut delta);
                let len = bytes.len() as u64;
                let (file, expires) = (file.clone(), delta.expires());
                runs.push((place, RunRef { file, offset, len, entries, groups, expires }));
                content.push(bytes);
                offset += len;
            }
            if !content.is_empty() {
                retry.run("state", || repository.put(&file, content.clone())).await?;
                crash::point("checkpoint.state");
            }
            let token = match staging {
                Some(staging) => Some(staging.await?),
                None => None,
            };
            if token.is_some() {
                crash::point("checkpoint.staged");
            }
            Ok(Event::Part(Part { task, epoch, watermark, runs, floors, positions, token }))
        });
    }

    /// Merges runs beside the stream. A merge that fails fails nothing else: what it was to merge is there.
    pub(super) fn merge(&self, merge: Merge, life: &Life<'_>) {
        let (sender, generation) = (life.sender.clone(), life.generation);
        let (alive, pipeline) = (Arc::downgrade(life.alive), self.plan.name.clone());
        let (repository, files) = (self.repository.clone(), self.files());
        self.environment.io.spawn(Box::pin(async move {
            let goes_on = || alive.strong_count() > 0;
            let merged = repository.merge(&merge, generation, &files, goes_on).await;
            if !goes_on() {
                return;
            }
            let event = match merged {
                Ok(run) => {
                    crash::point("merge.written");
                    Event::Merged { id: merge.id, run }
                }
                Err(error) => {
                    let (operator, error) = (&merge.operator, error.chain());
                    tracing::warn!(
                        pipeline,
                        operator,
                        error,
                        "state could not be merged, which will be tried again"
                    );
                    Event::NotMerged { id: merge.id }
                }
            };
            let _ = sender.unbounded_send(Message::Event(event));
        }));
    }

    fn files(&self) -> StateFiles {
        StateFiles { repository: self.repository.clone(), io: Arc::clone(&self.environment.io) }
    }

    pub(super) fn retry(&self) -> Retry {
        let io = Arc::clone(&self.environment.io);
        let clock = Arc::clone(&self.environment.clock);
        Retry { pipeline: self.plan.name.clone(), io, clock, monitor: self.monitor.clone() }
    }
}

/// The state files of a job, to be read. What may pass is tried again a few times.
struct StateFiles {
    repository: Repository,
    io: Arc<dyn Io>,
}

impl StateFiles {
    const TRIES: usize = 4;
}

impl Fetch for StateFiles {
    fn fetch<'a>(&'a self, file: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes>> {
        async move {
            let mut wait = Retry::FIRST;
            for _ in 1..Self::TRIES {
                match self.repository.get(file, range.clone()).await {
                    Err(error) if error.is_retryable() => self.io.sleep(wait).await,
                    other => return other,
                }
                wait *= 2;
            }
            self.repository.get(file, range).await
        }
        .boxed()
    }
}
