//! What a job is made of: stages, the edges between them, sources and sinks.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use freshet_core::source::Position;
use freshet_core::stream::{StreamSink, Wait, Wake};
use freshet_core::{Error, Result};

use crate::exchange::Partitioning;
use crate::operator::{OperatorSpec, Port};
use crate::source::{Feed, WatermarkSpec};
use crate::state::KeyGroups;

/// A source of a job.
#[async_trait]
pub trait JobSource: Debug + Send + Sync {
    /// The feeds of as many tasks as there are in `wakes`, each of which is to be woken when its feed
    /// has something. Reading goes on at `positions`; splits that are not there begin where the
    /// source's configuration says.
    async fn open(
        &self,
        positions: &BTreeMap<String, Position>,
        wakes: &[Arc<dyn Wake>],
    ) -> Result<Vec<Box<dyn Feed>>>;

    /// A checkpoint at `positions` is durable: for the eyes of others alone, nothing rests on it.
    async fn publish(&self, _positions: &BTreeMap<String, Position>) -> Result<()> {
        Ok(())
    }

    /// What fetching waits for, new records apart.
    fn waits(&self) -> Vec<Wait> {
        Vec::new()
    }

    /// The positions behind the newest records, of the splits where they are known. Asks nobody.
    fn ends(&self) -> BTreeMap<String, Position> {
        BTreeMap::new()
    }
}

/// A job.
#[derive(Debug, Clone)]
pub struct JobPlan {
    /// Its name: a part of paths.
    pub name: String,
    /// Its stages; edges lead from earlier ones to later ones.
    pub stages: Vec<StagePlan>,
    /// How many key groups it has, unless a checkpoint says otherwise.
    pub groups: KeyGroups,
}

/// Operators that are chained in one task, as many times as the stage is parallel.
#[derive(Debug, Clone)]
pub struct StagePlan {
    /// Names it in checkpoints: the same as long as it does the same.
    pub id: String,
    /// How many tasks it has.
    pub parallelism: u16,
    /// What it reads.
    pub input: StageInput,
    /// Its operators, each with the id of its state.
    pub operators: Vec<(String, Arc<dyn OperatorSpec>)>,
    /// What takes the rows of the last operator.
    pub sink: Option<SinkPlan>,
}

/// What a stage reads.
#[derive(Debug, Clone)]
pub enum StageInput {
    /// A source.
    Source {
        /// The source.
        source: Arc<dyn JobSource>,
        /// How its rows say how far event time has come.
        watermark: Option<WatermarkSpec>,
    },
    /// Other stages.
    Edges(Vec<EdgePlan>),
}

/// An edge into a stage.
#[derive(Debug, Clone)]
pub struct EdgePlan {
    /// The stage that it comes from.
    pub from: usize,
    /// The operator of that stage.
    pub operator: usize,
    /// Which of its outputs.
    pub port: Port,
    /// Which input of the first operator it leads to.
    pub input: usize,
    /// How rows are divided.
    pub partitioning: Partitioning,
    /// The columns of the rows.
    pub schema: SchemaRef,
}

/// A sink at the end of a stage.
#[derive(Debug, Clone)]
pub struct SinkPlan {
    /// Names it in checkpoints.
    pub id: String,
    /// The sink.
    pub sink: Arc<dyn StreamSink>,
    /// Microseconds between two commits; 0 commits each epoch.
    pub commit_interval: i64,
}

impl JobPlan {
    /// Checks that the plan hangs together: what it does not say here it may rely on later.
    pub fn validate(&self) -> Result<()> {
        let wrong =
            |what: String| Error::internal(format!("plan of job \"{}\": {what}", self.name));
        let mut ids = std::collections::BTreeSet::new();
        for (place, stage) in self.stages.iter().enumerate() {
            let operators = stage.operators.iter().map(|(id, _)| id);
            let sink = stage.sink.as_ref().map(|sink| &sink.id);
            for id in std::iter::once(&stage.id).chain(operators).chain(sink) {
                if !ids.insert(id) {
                    return Err(wrong(format!("two parts are called \"{id}\"")));
                }
            }
            if stage.parallelism == 0 || stage.parallelism > self.groups.count() {
                return Err(wrong(format!(
                    "stage \"{}\" has {} tasks",
                    stage.id, stage.parallelism
                )));
            }
            let StageInput::Edges(edges) = &stage.input else { continue };
            if edges.is_empty() {
                return Err(wrong(format!("stage \"{}\" reads nothing", stage.id)));
            }
            for edge in edges {
                let from = self.stages.get(edge.from).filter(|_| edge.from < place);
                let from = from.ok_or_else(|| {
                    wrong(format!("stage \"{}\" reads one that is not before it", stage.id))
                })?;
                if edge.operator >= from.operators.len().max(1) {
                    return Err(wrong(format!("stage \"{}\" has no such operator", from.id)));
                }
                if edge.partitioning == Partitioning::Forward
                    && from.parallelism != stage.parallelism
                {
                    return Err(wrong(format!(
                        "stages \"{}\" and \"{}\" differ in their number of tasks",
                        from.id, stage.id
                    )));
                }
            }
        }
        Ok(())
    }
}
