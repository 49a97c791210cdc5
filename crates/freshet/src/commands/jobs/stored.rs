//! What the checkpoints of a job say of it while it does not run here.

use std::collections::BTreeSet;
use std::sync::Arc;

use freshet_core::clock::{Clock, SystemClock};
use freshet_core::error::code;
use freshet_core::stream::Epoch;
use freshet_core::{Error, Result, ResultExt};
use freshet_runtime::checkpoint::{Manifest, Repository};
use freshet_serve::is_called;
use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use serde::Serialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::commands::up::JOBS;

/// A job as its newest checkpoint has it.
#[derive(Debug, Serialize)]
pub struct Stored {
    /// Its name: the environment's and the model's.
    pub job: String,
    /// The newest checkpoint.
    pub epoch: Epoch,
    /// The instance that wrote it.
    pub generation: u64,
    /// When, in microseconds since 1970.
    pub created: i64,
    /// Bytes of its state.
    pub bytes: u64,
    /// Whether all of its input was read.
    pub finished: bool,
    /// Its savepoints.
    pub savepoints: Vec<String>,
}

fn store(app: &App) -> Arc<dyn ObjectStore> {
    Arc::new(PrefixStore::new(Arc::clone(app.engine.lake().store()), JOBS))
}

/// The newest checkpoint of a job.
pub async fn newest(app: &App, job: &str) -> Result<Option<Manifest>> {
    Repository::new(store(app), job).newest().await
}

impl Stored {
    /// The jobs of the environment that have a checkpoint, by their names.
    pub async fn all(app: &App) -> Result<Vec<Self>> {
        let store = store(app);
        let environment = Path::from(app.project.environment.name.as_str());
        let found = store
            .list_with_delimiter(Some(&environment))
            .await
            .or_code(code::STATE, || "could not list the checkpoints of jobs".to_owned())?;
        let names: BTreeSet<String> =
            found.common_prefixes.iter().map(ToString::to_string).collect();
        let mut all = Vec::new();
        for name in names {
            let repository = Repository::new(Arc::clone(&store), &name);
            if let Some(newest) = repository.newest().await? {
                let savepoints = repository.savepoints().await?;
                all.push(Self::of(newest, savepoints));
            }
        }
        Ok(all)
    }

    /// The job of a model.
    pub async fn find(app: &App, model: &str) -> Result<Self> {
        let all = Self::all(app).await?;
        let names: Vec<String> = all.iter().map(|stored| stored.job.clone()).collect();
        all.into_iter().find(|stored| is_called(&stored.job, model)).ok_or_else(|| {
            let error =
                Error::new(code::CONTROL, format!("no job \"{model}\" runs or has a checkpoint"));
            match names.as_slice() {
                [] => error.hint("`freshet up` starts the streaming models of the project"),
                names => error.hint(format!("there are: {}", names.join(", "))),
            }
        })
    }

    /// The savepoints of a job.
    pub async fn savepoints(app: &App, job: &str) -> Result<Vec<String>> {
        Repository::new(store(app), job).savepoints().await
    }

    fn of(newest: Manifest, savepoints: Vec<String>) -> Self {
        Self {
            bytes: newest.operators.values().flatten().map(|run| run.len).sum(),
            job: newest.job,
            epoch: newest.epoch,
            generation: newest.generation.0,
            created: newest.created,
            finished: newest.finished,
            savepoints,
        }
    }

    fn repository(&self, app: &App) -> Repository {
        Repository::new(store(app), &self.job)
    }

    /// Keeps the newest checkpoint under a name.
    pub async fn save(&self, app: &App, name: &str) -> Result<Value> {
        let repository = self.repository(app);
        let newest = repository.newest().await?;
        let newest = newest.ok_or_else(|| Error::internal("a checkpoint went meanwhile"))?;
        repository.save(name, &newest).await?;
        Ok(json!({ "name": name, "epoch": newest.epoch }))
    }

    /// Sets the job to a savepoint.
    pub async fn restore(&self, app: &App, from: &str, allow_duplicates: bool) -> Result<Value> {
        let now = SystemClock.now_micros();
        let restored = self.repository(app).restore(from, allow_duplicates, now).await?;
        Ok(json!({ "from": from, "epoch": restored.epoch, "is_newest": restored.is_newest }))
    }

    /// Deletes a savepoint.
    pub async fn forget(&self, app: &App, name: &str) -> Result<()> {
        if !self.savepoints.iter().any(|known| known == name) {
            return Err(Error::new(
                code::CONTROL,
                format!("job \"{}\" has no savepoint \"{name}\"", self.job),
            ));
        }
        self.repository(app).forget(name).await
    }
}
