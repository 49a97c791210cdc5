//! What every sink of streams has to do that claims exactly once, whatever it writes to.
//!
//! A [`SinkUnderTest`] gives sinks and says what others see. [`conforms`] plays the part of a job:
//! it writes, cuts epochs, loses some before their manifest, commits, commits again, loses answers,
//! dies and comes back under the next generation; at the end the target has to hold what the manifests
//! say, once.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use freshet_core::error::code;
use freshet_core::rows::{RowKind, Rows};
use freshet_core::sink::Guarantee;
use freshet_core::stream::{
    Changes, Claim, Epoch, Generation, PendingCommit, SinkWriter, StreamSink, Wake,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::seeds;

/// Writers of each instance.
const WRITERS: usize = 2;
/// Keys that rows have where they replace each other.
const KEYS: i64 = 24;

/// A target, empty at its start, and how it is written and read.
#[async_trait]
pub trait SinkUnderTest: Send + Sync {
    /// A sink of the same job, as another process would have it. Its rows have [`schema`], and `id`
    /// is their key where it has one.
    fn sink(&self) -> Arc<dyn StreamSink>;

    /// What others see, each row as `id value`, in any order. About `expected` rows are there; where
    /// it takes a while until rows are seen, they are waited for.
    async fn rows(&self, expected: usize) -> Vec<String>;

    /// Whether commits of an earlier generation are refused by the target itself. Where they are not,
    /// the manifests' fence is what keeps them away.
    fn fences(&self) -> bool {
        true
    }
}

/// The columns of the rows that are written: `id` and `value`.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("value", DataType::Utf8View, true),
    ]))
}

#[derive(Debug)]
struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

/// A job: what its manifests say, and the instance that runs.
struct Job<'a> {
    target: &'a dyn SinkUnderTest,
    store: Arc<dyn ObjectStore>,
    generation: Generation,
    epoch: Epoch,
    pending: Vec<PendingCommit>,
    sink: Arc<dyn StreamSink>,
    writers: Vec<Box<dyn SinkWriter>>,
    upserts: bool,
    /// What the manifests hold: rows in their order, or the row of each key.
    durable: Held,
    /// The same, with what was written since.
    written: Held,
    next: i64,
}

#[derive(Debug, Clone, Default)]
struct Held {
    rows: Vec<String>,
    keys: BTreeMap<i64, String>,
}

impl Held {
    fn shown(&self) -> Vec<String> {
        let keyed = self.keys.iter().map(|(id, value)| format!("{id} {value}"));
        let mut all: Vec<String> = self.rows.iter().cloned().chain(keyed).collect();
        all.sort_unstable();
        all
    }
}

fn rows(changes: &[(i64, String, RowKind)]) -> Rows {
    let ids: Int64Array = changes.iter().map(|(id, ..)| Some(*id)).collect();
    let values = StringViewArray::from_iter_values(changes.iter().map(|(_, value, _)| value));
    let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(values)];
    let batch = RecordBatch::try_new(schema(), columns).expect("two columns");
    Rows::changes(batch, changes.iter().map(|(.., kind)| *kind).collect())
}

impl<'a> Job<'a> {
    async fn start(target: &'a dyn SinkUnderTest) -> Self {
        let sink = target.sink();
        let mut job = Self {
            target,
            store: Arc::new(InMemory::new()),
            generation: Generation(0),
            epoch: Epoch(0),
            pending: Vec::new(),
            upserts: matches!(sink.changes(), Changes::Upsert { .. }),
            sink,
            writers: Vec::new(),
            durable: Held::default(),
            written: Held::default(),
            next: 0,
        };
        job.take_over().await;
        job
    }

    fn process(&self) -> Arc<dyn StreamSink> {
        let sink = self.target.sink();
        sink.stage_in(Arc::clone(&self.store));
        sink
    }

    /// The next instance: what was written since the last manifest is gone.
    async fn take_over(&mut self) {
        self.sink = self.process();
        self.generation = Generation(self.generation.0 + 1);
        self.epoch = self.epoch.next();
        self.written = self.durable.clone();
        let claim = Claim { generation: self.generation, epoch: self.epoch };
        self.writers = self.sink.open(claim, &wakes()).await.expect("opened");
        if !self.pending.is_empty() {
            self.sink.commit(self.generation, &self.pending).await.expect("made up for");
        }
    }

    /// Writes a few rows to one of the writers; a key is always written by the same one.
    fn write(&mut self, rng: &mut SmallRng) {
        let writer = rng.random_range(0..WRITERS);
        let mut changes = Vec::new();
        for _ in 0..rng.random_range(1..20) {
            self.next += 1;
            let value = format!("v{}", self.next);
            if !self.upserts {
                self.written.rows.push(format!("{} {value}", self.next));
                changes.push((self.next, value, RowKind::Insert));
                continue;
            }
            let id = rng.random_range(0..KEYS) / WRITERS as i64 * WRITERS as i64 + writer as i64;
            match self.written.keys.get(&id).cloned() {
                None => {
                    self.written.keys.insert(id, value.clone());
                    changes.push((id, value, RowKind::Insert));
                }
                Some(old) if rng.random_bool(0.3) => {
                    self.written.keys.remove(&id);
                    changes.push((id, old, RowKind::Delete));
                }
                Some(old) => {
                    self.written.keys.insert(id, value.clone());
                    changes.push((id, old, RowKind::UpdateBefore));
                    changes.push((id, value, RowKind::UpdateAfter));
                }
            }
        }
        self.writers[writer].write(rows(&changes)).expect("written");
    }

    /// Stages an epoch.
    async fn cut(&mut self) -> PendingCommit {
        let epoch = self.epoch.next();
        let mut parts = Vec::new();
        for writer in &mut self.writers {
            parts.push(writer.cut(epoch).expect("a cut").await.expect("staged"));
        }
        PendingCommit { epoch, parts }
    }

    /// Writes the manifest that names a staged epoch.
    fn keep(&mut self, staged: PendingCommit) {
        self.epoch = staged.epoch;
        self.pending.push(staged);
        self.durable = self.written.clone();
    }

    async fn epoch(&mut self, rng: &mut SmallRng) {
        self.write(rng);
        let staged = self.cut().await;
        self.keep(staged);
    }

    async fn commit(&mut self) {
        self.sink.commit(self.generation, &self.pending).await.expect("committed");
    }

    async fn sees(&self, expected: &Held) {
        let expected = expected.shown();
        let mut seen = self.target.rows(expected.len()).await;
        seen.sort_unstable();
        assert_eq!(seen, expected);
    }
}

fn wakes() -> Vec<Arc<dyn Wake>> {
    (0..WRITERS).map(|_| Arc::new(NoWake) as Arc<dyn Wake>).collect()
}

/// All that a sink has to do. Each case has a target of its own from `make`.
///
/// # Panics
/// Where it does not.
pub async fn conforms<T: SinkUnderTest>(make: impl AsyncFn(&str) -> T) {
    nothing_is_seen_before_its_commit(&make("before").await).await;
    commits_are_repeated_without_effect(&make("repeated").await).await;
    a_later_instance_makes_up_for_commits(&make("later").await).await;
    a_zombie_changes_nothing(&make("zombie").await).await;
    lost_checkpoints_are_noticed(&make("lost").await).await;
    for seed in 0..4 {
        let target = make(&format!("random{seed}")).await;
        random_lives_end_with_what_the_manifests_say(&target, seed).await;
    }
}

async fn nothing_is_seen_before_its_commit(target: &dyn SinkUnderTest) {
    let rng = &mut seeds::rng(1);
    let mut job = Job::start(target).await;
    assert_eq!(job.sink.guarantee(), Guarantee::ExactlyOnce);
    job.epoch(rng).await;
    job.sees(&Held::default()).await;
    job.commit().await;
    job.sees(&job.durable).await;
    // An epoch in which nothing was written.
    job.pending.clear();
    let empty = job.cut().await;
    job.keep(empty);
    job.commit().await;
    job.sees(&job.durable).await;
}

async fn commits_are_repeated_without_effect(target: &dyn SinkUnderTest) {
    let rng = &mut seeds::rng(2);
    let mut job = Job::start(target).await;
    job.epoch(rng).await;
    job.commit().await;
    job.commit().await;
    // Its answer was lost: the next commit has the epoch once more.
    job.epoch(rng).await;
    job.commit().await;
    job.sees(&job.durable).await;
    job.take_over().await;
    job.sees(&job.durable).await;
}

async fn a_later_instance_makes_up_for_commits(target: &dyn SinkUnderTest) {
    let rng = &mut seeds::rng(3);
    let mut job = Job::start(target).await;
    for _ in 0..3 {
        job.epoch(rng).await;
    }
    // Staged, and no manifest names it.
    job.write(rng);
    job.cut().await;
    job.take_over().await;
    job.sees(&job.durable).await;
    job.pending.clear();
    job.epoch(rng).await;
    job.commit().await;
    job.sees(&job.durable).await;
}

async fn a_zombie_changes_nothing(target: &dyn SinkUnderTest) {
    let rng = &mut seeds::rng(4);
    let mut job = Job::start(target).await;
    job.epoch(rng).await;
    job.commit().await;
    let (zombie, generation, old) = (Arc::clone(&job.sink), job.generation, job.pending.clone());
    let claim = Claim { generation, epoch: job.epoch };
    job.write(rng);
    let unnamed = job.cut().await;
    job.pending.clear();
    job.take_over().await;
    // What it has committed before it may commit again.
    if let Err(error) = zombie.commit(generation, &old).await {
        assert_eq!(error.code(), code::FENCED, "{error:?}");
    }
    if target.fences() {
        let error = zombie.commit(generation, &[unnamed]).await.expect_err("a later one is there");
        assert_eq!(error.code(), code::FENCED, "{error:?}");
        let opened = job.process().open(claim, &wakes()).await;
        assert_eq!(opened.expect_err("a later one is there").code(), code::FENCED);
    }
    job.sees(&job.durable).await;
    job.epoch(rng).await;
    job.commit().await;
    job.sees(&job.durable).await;
}

async fn lost_checkpoints_are_noticed(target: &dyn SinkUnderTest) {
    let rng = &mut seeds::rng(5);
    let mut job = Job::start(target).await;
    for _ in 0..3 {
        job.epoch(rng).await;
    }
    job.commit().await;
    // The job's folder was deleted: it begins anew.
    let claim = Claim { generation: Generation(1), epoch: Epoch(1) };
    let error = job.process().open(claim, &wakes()).await.expect_err("the target holds more");
    assert!([code::STATE, code::FENCED].contains(&error.code()), "{error:?}");
    assert!(error.hint_text().is_some(), "{error:?}");
}

async fn random_lives_end_with_what_the_manifests_say(target: &dyn SinkUnderTest, seed: u64) {
    let rng = &mut seeds::rng(100 + seed);
    let mut job = Job::start(target).await;
    for _ in 0..40 {
        match rng.random_range(0..10) {
            0..4 => job.write(rng),
            4..6 => {
                let staged = job.cut().await;
                match rng.random_bool(0.9) {
                    true => job.keep(staged),
                    false => job.take_over().await,
                }
            }
            6..8 => {
                job.commit().await;
                // Else its answer is lost.
                if rng.random_bool(0.7) {
                    job.pending.clear();
                }
            }
            8 => job.commit().await,
            _ => job.take_over().await,
        }
    }
    let staged = job.cut().await;
    job.keep(staged);
    job.commit().await;
    job.sees(&job.durable).await;
}
