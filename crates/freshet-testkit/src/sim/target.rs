//! What is written to: a system of its own, which outlives the processes that write.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use freshet_core::rows::{RowKind, Rows};
use freshet_core::sink::Guarantee;
use freshet_core::stream::{
    Changes, Claim, Epoch, Generation, PendingCommit, SinkWriter, StreamSink, Token, Wake,
};
use freshet_core::{Error, Result, error::code};
use freshet_runtime::executor::Io;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::{Chance, Weather};

/// A step that is left out on purpose, to prove that a test would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetMutant {
    /// It does not remember which epochs it holds.
    NoMarker,
    /// Rows are seen as soon as they are staged.
    NoCommit,
}

/// A target with transactions.
#[derive(Debug, Default)]
pub struct Target {
    state: Mutex<State>,
    fences: bool,
    mutant: Option<TargetMutant>,
}

#[derive(Debug, Default)]
struct State {
    fence: Generation,
    committed: Epoch,
    staged: BTreeMap<String, Vec<Rows>>,
    rows: Vec<Rows>,
    commits: u64,
    fenced: u64,
}

impl Target {
    /// A target that holds nothing yet; where it `fences`, it takes commits of the latest generation
    /// alone.
    pub fn new(fences: bool) -> Self {
        Self { fences, ..Self::default() }
    }

    /// A target that leaves out a step.
    pub fn with_mutant(mutant: TargetMutant) -> Self {
        Self { mutant: Some(mutant), ..Self::default() }
    }

    /// The rows that are visible, sorted.
    pub fn rows(&self) -> Vec<String> {
        let mut shown: Vec<String> = self.state.lock().rows.iter().flat_map(show).collect();
        shown.sort_unstable();
        shown
    }

    /// The rows that are visible, in the order of their commits.
    pub fn changes(&self) -> Vec<Rows> {
        self.state.lock().rows.clone()
    }

    /// As [`Self::changes`], each row as text.
    pub fn changelog(&self) -> Vec<(RowKind, String)> {
        let rows = self.changes();
        rows.iter()
            .flat_map(|rows| (0..rows.len()).map(|row| rows.kind(row)).zip(lines(rows)))
            .collect()
    }

    /// How many epochs were committed, and how often somebody was fenced.
    pub fn figures(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.commits, state.fenced)
    }

    fn shows_early(&self) -> bool {
        self.mutant == Some(TargetMutant::NoCommit)
    }

    fn check(&self, generation: Generation) -> Result<()> {
        let mut state = self.state.lock();
        if self.fences && generation < state.fence {
            state.fenced += 1;
            return Err(Error::new(code::FENCED, "a later generation has opened the target"));
        }
        Ok(())
    }
}

/// The sink that writes into a target.
#[derive(Debug, Clone)]
pub struct SimSink {
    /// The target.
    pub target: Arc<Target>,
    /// What goes wrong on the way.
    pub faults: Weather,
    /// When.
    pub chance: Chance,
    /// The process that writes.
    pub io: Arc<dyn Io>,
}

impl SimSink {
    async fn call<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let failed = |what: &'static str| Error::new(code::LOAD, what).retryable();
        self.faults.now().before(&self.chance, &*self.io).await.map_err(failed)?;
        let answer = call();
        self.faults.now().after(&self.chance, &*self.io).await.map_err(failed)?;
        answer
    }
}

#[async_trait]
impl StreamSink for SimSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn changes(&self) -> Changes {
        Changes::All
    }

    fn target(&self) -> String {
        "a target that forgets nothing".into()
    }

    async fn open(
        &self,
        claim: Claim,
        wakes: &[Arc<dyn Wake>],
    ) -> Result<Vec<Box<dyn SinkWriter>>> {
        let generation = claim.generation;
        self.call(|| {
            self.target.check(generation)?;
            self.target.state.lock().fence = generation;
            Ok(())
        })
        .await?;
        let writer = |task: usize| -> Box<dyn SinkWriter> {
            Box::new(Writer {
                sink: self.clone(),
                name: format!("{}-{task}", generation.0),
                rows: Vec::new(),
            })
        };
        Ok((0..wakes.len()).map(writer).collect())
    }

    async fn commit(&self, generation: Generation, pending: &[PendingCommit]) -> Result<()> {
        for PendingCommit { epoch, parts } in pending {
            self.call(|| {
                self.target.check(generation)?;
                let mut state = self.target.state.lock();
                if *epoch <= state.committed && self.target.mutant != Some(TargetMutant::NoMarker) {
                    return Ok(());
                }
                for part in parts.iter().filter(|_| !self.target.shows_early()) {
                    let token = part.as_str().expect("a token of ours");
                    let rows = state.staged.get(token).expect("what is committed was staged");
                    let rows = rows.clone();
                    state.rows.extend(rows);
                }
                state.committed = (*epoch).max(state.committed);
                state.commits += 1;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Writer {
    sink: SimSink,
    name: String,
    rows: Vec<Rows>,
}

/// Each row as text, with its kind.
fn show(rows: &Rows) -> Vec<String> {
    let lines = lines(rows).into_iter().enumerate();
    lines.map(|(row, line)| format!("{} {line}", rows.kind(row).short())).collect()
}

/// Each row as text.
fn lines(rows: &Rows) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let columns: Vec<_> = rows
        .batch()
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("a type that is shown"))
        .collect();
    let line = |row: usize| {
        let values: Vec<_> = columns.iter().map(|column| column.value(row).to_string()).collect();
        values.join(",")
    };
    (0..rows.len()).map(line).collect()
}

impl SinkWriter for Writer {
    fn write(&mut self, rows: Rows) -> Result<()> {
        self.rows.push(rows);
        Ok(())
    }

    fn cut(&mut self, epoch: Epoch) -> Result<BoxFuture<'static, Result<Token>>> {
        let (sink, rows) = (self.sink.clone(), std::mem::take(&mut self.rows));
        let token = format!("{epoch}-{}", self.name);
        Ok(Box::pin(async move {
            loop {
                let staged = sink.call(|| {
                    let mut state = sink.target.state.lock();
                    let is_new = state.staged.insert(token.clone(), rows.clone()).is_none();
                    if is_new && sink.target.shows_early() {
                        state.rows.extend(rows.clone());
                    }
                    Ok(())
                });
                match staged.await {
                    Ok(()) => return Ok(Token::from(token)),
                    Err(error) if error.is_retryable() => {}
                    Err(error) => return Err(error),
                }
            }
        }))
    }
}
