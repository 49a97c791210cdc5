//! The traits of sinks: a result is staged, then committed under an id, and committing twice is
//! committing once.

use std::fmt::Debug;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::stream::BoxStream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::account::EdgeCounts;
use crate::error::Result;
use crate::source::Interval;

/// What a sink promises after crashes and retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// Each row once.
    ExactlyOnce,
    /// Each row at least once.
    AtLeastOnce,
}

/// How rows enter the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadMode {
    /// Rows are added.
    Append,
    /// The target holds exactly these rows afterwards.
    #[default]
    Replace,
    /// Rows replace those with the same key and are added where there is none.
    Merge,
    /// The rows of the interval are deleted, then these are added.
    ReplaceInterval,
}

/// Identifies a commit: a number per writer that only ascends.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CommitId {
    /// Who writes: stable over runs, e.g. `environment/model`.
    pub writer: String,
    /// Ascends with each commit of this writer.
    pub number: u64,
}

/// What is to be loaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadRequest {
    /// The commit's identity.
    pub id: CommitId,
    /// How rows enter the target.
    pub mode: LoadMode,
    /// Key columns, for `merge`.
    pub unique_key: Vec<String>,
    /// The column of event time and the spans that are replaced, for `replace_interval`.
    pub intervals: Option<(String, Vec<Interval>)>,
}

/// What was staged: enough to commit it after a crash, in another process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StagedLoad {
    /// The request.
    pub request: LoadRequest,
    /// Rows staged.
    pub rows: u64,
    /// Where, as the sink alone understands it.
    pub token: String,
}

/// A configured sink for bounded results.
#[async_trait]
pub trait Sink: Debug + Send + Sync {
    /// What it promises.
    fn guarantee(&self) -> Guarantee;

    /// The number of the last commit of `writer` that the target holds; 0 where there is none.
    async fn committed(&self, writer: &str) -> Result<u64>;

    /// Carries the rows to where a commit can make them visible at once.
    async fn stage(
        &self,
        request: LoadRequest,
        schema: SchemaRef,
        rows: BoxStream<'static, Result<RecordBatch>>,
    ) -> Result<StagedLoad>;

    /// Makes the staged rows visible in one step; changes nothing where the target holds this
    /// commit or a later one of the same writer already.
    async fn commit(&self, staged: &StagedLoad) -> Result<EdgeCounts>;

    /// Removes what was staged.
    async fn abort(&self, staged: &StagedLoad) -> Result<()>;
}
