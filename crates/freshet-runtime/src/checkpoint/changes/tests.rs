//! Plans against checkpoints of others.

use std::sync::Arc;

use arrow::datatypes::Schema;
use async_trait::async_trait;
use freshet_core::source::Position;
use freshet_core::stream::{Epoch, EventTime, Generation, PendingCommit, Wake};
use freshet_core::{Error, Result};

use super::*;
use crate::checkpoint::{RunRef, SinkState};
use crate::exchange::Partitioning;
use crate::operator::{Operator, OperatorContext, OperatorSpec};
use crate::plan::{EdgePlan, JobSource, StagePlan};
use crate::source::Feed;
use crate::state::{KeyGroupRange, KeyGroups};

#[derive(Debug)]
struct NoSource;

#[async_trait]
impl JobSource for NoSource {
    async fn open(
        &self,
        _positions: &BTreeMap<String, Position>,
        _wakes: &[Arc<dyn Wake>],
    ) -> Result<Vec<Box<dyn Feed>>> {
        Err(Error::internal("nobody reads"))
    }
}

#[derive(Debug)]
struct Named(&'static str, bool);

impl OperatorSpec for Named {
    fn name(&self) -> String {
        self.0.to_owned()
    }

    fn has_state(&self) -> bool {
        self.1
    }

    fn create(&self, _context: &OperatorContext) -> Result<Box<dyn Operator>> {
        Err(Error::internal("nobody runs"))
    }
}

fn groups() -> KeyGroups {
    KeyGroups::new(8)
}

fn source(name: &str) -> StagePlan {
    StagePlan {
        id: format!("source {name}"),
        parallelism: 1,
        input: StageInput::Source { source: Arc::new(NoSource), watermark: None },
        operators: vec![(format!("filter {name}"), Arc::new(Named("filter", false)))],
        sink: None,
    }
}

fn stage(id: &str, name: &'static str, from: &[usize]) -> StagePlan {
    let edge = |(input, from): (usize, &usize)| EdgePlan {
        from: *from,
        operator: 0,
        port: crate::operator::Port::default(),
        input,
        partitioning: Partitioning::Forward,
        schema: Arc::new(Schema::empty()),
    };
    StagePlan {
        id: format!("stage {id}"),
        parallelism: 1,
        input: StageInput::Edges(from.iter().enumerate().map(edge).collect()),
        operators: vec![(id.to_owned(), Arc::new(Named(name, true)))],
        sink: None,
    }
}

fn plan(stages: Vec<StagePlan>) -> JobPlan {
    JobPlan { name: "job".into(), stages, groups: groups() }
}

fn run(len: u64) -> RunRef {
    RunRef {
        file: "file".into(),
        offset: 0,
        len,
        entries: 1,
        groups: KeyGroupRange { start: 0, end: 8 },
        expires: BTreeMap::new(),
    }
}

/// Of a job that counted the rows of `a`.
fn manifest() -> Manifest {
    let mut manifest = Manifest::empty("job", groups());
    manifest.generation = Generation(3);
    manifest.fit(&plan(vec![source("a"), stage("1", "count", &[0])]));
    for id in ["source a", "stage 1"] {
        manifest.watermarks.insert(id.into(), EventTime(7));
    }
    manifest.sources.entry("source a".into()).or_default().insert("0".into(), Position(5));
    manifest.operators.insert("1".into(), vec![run(100), run(20)]);
    manifest
}

fn fates(plan: &JobPlan, manifest: &Manifest) -> Vec<(String, Fate, u64)> {
    let all = changes(plan, manifest).into_iter();
    all.map(|change| (change.name, change.fate, change.bytes)).collect()
}

fn fate(name: &str, fate: Fate, bytes: u64) -> (String, Fate, u64) {
    (name.to_owned(), fate, bytes)
}

#[test]
fn the_same_plan_keeps_everything() {
    let same = plan(vec![source("a"), stage("1", "count", &[0])]);
    let expected = [fate("source a", Fate::Kept, 0), fate("count", Fate::Kept, 120)];
    assert_eq!(fates(&same, &manifest()), expected);
    let mut fitted = manifest();
    fitted.fit(&same);
    assert_eq!(fitted, manifest());
}

#[test]
fn another_operator_over_the_same_source_begins_empty_and_the_old_one_is_lost() {
    let other = plan(vec![source("a"), stage("2", "sum", &[0])]);
    let expected = [
        fate("source a", Fate::Kept, 0),
        fate("sum", Fate::Empty, 0),
        fate("count", Fate::Lost, 120),
    ];
    let manifest = manifest();
    assert_eq!(fates(&other, &manifest), expected);
    let all = changes(&other, &manifest);
    let losses: Vec<bool> = all.iter().map(|change| change.is_loss(&manifest)).collect();
    assert_eq!(losses, [false, false, true]);
    // What is left out stays away when the old plan comes back: it would be out of date.
    let mut fitted = manifest;
    fitted.fit(&other);
    let same = plan(vec![source("a"), stage("1", "count", &[0])]);
    let expected = [fate("source a", Fate::Kept, 0), fate("count", Fate::Empty, 0)];
    assert_eq!(fates(&same, &fitted), expected);
}

#[test]
fn what_is_read_from_the_beginning_is_rebuilt() {
    let more = plan(vec![
        source("a"),
        stage("1", "count", &[0]),
        source("b"),
        stage("3", "sum", &[2]),
        stage("4", "join", &[1, 3]),
    ]);
    let expected = [
        fate("source a", Fate::Kept, 0),
        fate("count", Fate::Kept, 120),
        fate("source b", Fate::Rebuilt, 0),
        fate("sum", Fate::Rebuilt, 0),
        fate("join", Fate::Empty, 0),
    ];
    assert_eq!(fates(&more, &manifest()), expected);
    let first = Manifest::empty("job", groups());
    assert!(changes(&more, &first).iter().all(|change| change.fate == Fate::Rebuilt));
}

#[test]
fn rows_that_are_staged_for_a_sink_that_is_gone_are_a_loss() {
    let mut manifest = manifest();
    let same = plan(vec![source("a"), stage("1", "count", &[0])]);
    manifest.sinks.insert("sink".into(), SinkState::default());
    let lost = |manifest: &Manifest| {
        changes(&same, manifest).into_iter().filter(|change| change.is_loss(manifest)).count()
    };
    assert_eq!(lost(&manifest), 0);
    let pending = vec![PendingCommit { epoch: Epoch(2), parts: Vec::new() }];
    manifest.sinks.insert("sink".into(), SinkState { pending });
    assert_eq!(lost(&manifest), 1);
}
