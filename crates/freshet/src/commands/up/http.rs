//! What the listener of `freshet up` serves: the sources of the project.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use freshet_core::ingest::Ingest;
use freshet_core::{Error, Result, SourceId};
use freshet_engine::Engine;
use freshet_serve::Sources;
use parking_lot::Mutex;

/// The sources of a project. Each is opened when it is pushed to for the first time, and stays
/// open: until then other processes may push to it.
#[derive(Debug)]
pub struct ProjectSources {
    engine: Arc<Engine>,
    open: Mutex<HashMap<String, Arc<dyn Ingest>>>,
}

impl ProjectSources {
    /// Of the project of `engine`.
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine, open: Mutex::default() }
    }
}

#[async_trait]
impl Sources for ProjectSources {
    async fn ingest(&self, source: &str) -> Result<Arc<dyn Ingest>> {
        if let Some(open) = self.open.lock().get(source) {
            return Ok(Arc::clone(open));
        }
        let (engine, id) = (Arc::clone(&self.engine), SourceId::from(source));
        // Settles what an earlier process left. Two that open it at once come to the same log.
        let ingest = tokio::task::spawn_blocking(move || engine.ingest(&id))
            .await
            .map_err(|error| Error::internal("opening a source ended early").caused_by(error))??;
        self.open.lock().insert(source.to_owned(), Arc::clone(&ingest));
        Ok(ingest)
    }
}
