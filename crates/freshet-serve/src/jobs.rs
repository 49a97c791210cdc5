//! `/v1/jobs`: the jobs that run, as JSON, and what people ask of them.
//!
//! A job is asked for by its model's name, or by its own, which also names the environment.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode};
use freshet_core::error::code;
use freshet_core::stream::Epoch;
use freshet_core::{Error, Result};
use freshet_runtime::figures::JobFigures;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::answer::{self, Problem};
use crate::body;
use crate::server::Shared;

/// A savepoint that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Its name.
    pub name: String,
    /// The epoch that it ends at.
    pub epoch: Epoch,
}

/// A job that goes on from a savepoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The savepoint.
    pub from: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whether the job stood exactly there already.
    pub is_newest: bool,
}

/// The jobs of this process. An error of code [`code::REFERENCE`] says that there is none of that
/// name, one of [`code::CONTROL`] that what was asked is refused and nothing was changed.
#[async_trait]
pub trait Jobs: Debug + Send + Sync {
    /// What they say of themselves now.
    fn figures(&self) -> Vec<JobFigures>;

    /// Makes a checkpoint that lasts, under a name.
    async fn savepoint(&self, job: &str, name: &str) -> Result<Saved>;

    /// Lets a job go on from a savepoint.
    async fn restore(&self, job: &str, from: &str, allow_duplicates: bool) -> Result<Restored>;

    /// Lets a job go on with another number of tasks in each stage.
    async fn rescale(&self, job: &str, parallelism: u16) -> Result<()>;
}

/// What is asked of a job: the bodies of requests.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavepointBody {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoreBody {
    from: String,
    #[serde(default)]
    allow_duplicates: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RescaleBody {
    parallelism: u16,
}

#[derive(Debug, Serialize)]
struct List {
    jobs: Vec<JobFigures>,
}

pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Response<Body> {
    answer::json(StatusCode::OK, &List { jobs: shared.services.jobs.figures() })
}

pub(crate) async fn show(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Response<Body> {
    let jobs = shared.services.jobs.figures();
    match jobs.iter().find(|job| is_called(&job.job, &name)) {
        Some(job) => answer::json(StatusCode::OK, job),
        None => {
            let error = Error::new(code::REFERENCE, format!("no job \"{name}\" runs here"));
            let names: Vec<_> = jobs.iter().map(|job| job.job.as_str()).collect();
            let error = error.hint(format!("there are: {}", names.join(", ")));
            Problem::from(error).into()
        }
    }
}

/// Whether `name` means the job `job`, whose own name is `environment/model`.
pub fn is_called(job: &str, name: &str) -> bool {
    job == name || job.split_once('/').is_some_and(|(_, model)| model == name)
}

pub(crate) async fn savepoint(
    State(shared): State<Arc<Shared>>,
    Path(job): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response<Body> {
    let asked = async {
        let SavepointBody { name } = parse(&shared, &headers, body).await?;
        Ok(shared.services.jobs.savepoint(&job, &name).await?)
    };
    answered(asked.await)
}

pub(crate) async fn restore(
    State(shared): State<Arc<Shared>>,
    Path(job): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response<Body> {
    let asked = async {
        let RestoreBody { from, allow_duplicates } = parse(&shared, &headers, body).await?;
        Ok(shared.services.jobs.restore(&job, &from, allow_duplicates).await?)
    };
    answered(asked.await)
}

pub(crate) async fn rescale(
    State(shared): State<Arc<Shared>>,
    Path(job): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Response<Body> {
    let asked = async {
        let RescaleBody { parallelism } = parse(&shared, &headers, body).await?;
        shared.services.jobs.rescale(&job, parallelism).await?;
        Ok(serde_json::json!({ "parallelism": parallelism }))
    };
    answered(asked.await)
}

fn answered(result: Result<impl Serialize, Problem>) -> Response<Body> {
    match result {
        Ok(value) => answer::json(StatusCode::OK, &value),
        Err(problem) => problem.into(),
    }
}

/// A body of JSON. That it must say so keeps forms of foreign pages out.
async fn parse<T: DeserializeOwned>(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Problem> {
    crate::records::Framing::of(headers, "ndjson").and_then(|framing| match framing {
        crate::records::Framing::One => Ok(()),
        _ => Err(Problem::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is to be JSON")),
    })?;
    let (bytes, _held) = body::read(headers, body, &shared.options, &shared.budget).await?;
    serde_json::from_slice(&bytes).map_err(|error| Problem {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        error: Error::new(code::REQUEST, "the body is not what this address takes")
            .caused_by(error),
    })
}
