//! The engine of one project in one environment: its lake, its memory, its sources and sinks.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use freshet_core::clock::Clock;
use freshet_core::config::MaxBad;
use freshet_core::contract::{Contract, Evolution, SchemaDiff};
use freshet_core::error::code;
use freshet_core::files::FileSystem;
use freshet_core::registry::{ConnectorContext, SourceSpec};
use freshet_core::sink::Sink;
use freshet_core::source::{Overlay, Source};
use freshet_core::{Error, ModelId, Registry, Result, ResultExt, SourceId};
use freshet_project::{Node, Project, SourceTable};
use futures::future::BoxFuture;
use object_store::ObjectStore;
use serde_json::{Map, Value};
use tracing::debug;

use crate::lake::{Lake, LakeOptions};
use crate::session::Sessions;
use crate::store::OsFileSystem;
use crate::{contracts, functions, overlay, store};

/// What an engine is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Builds and queries.
    Build,
    /// Compiling.
    Look,
}

/// Everything that builds and queries share.
#[derive(Debug)]
pub struct Engine {
    project: Arc<Project>,
    registry: Registry,
    clock: Arc<dyn Clock>,
    lake: Lake,
    /// What exports to folders are written on.
    files: Arc<dyn FileSystem>,
    sessions: Sessions,
    /// Commits of dead letters by models that are built at once take turns.
    pub(crate) dead_letter_lock: tokio::sync::Mutex<()>,
    /// Sources whose contracts were compared with earlier ones.
    noted: tokio::sync::Mutex<BTreeSet<SourceId>>,
}

impl Engine {
    /// Opens the environment's lake, whose folder is made where there is none; reads no table.
    pub fn open(project: Arc<Project>, registry: Registry, clock: Arc<dyn Clock>) -> Result<Self> {
        let (store, url) = Self::store(&project)?;
        Self::open_on(project, registry, clock, store, url)
    }

    /// Opens the environment to look at it: makes no folder and no file.
    pub fn open_to_look(
        project: Arc<Project>,
        registry: Registry,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let lake = std::path::Path::new(&project.environment.lake);
        let is_missing = project.environment.lake_connection.is_none()
            && url::Url::parse(&project.environment.lake).is_err()
            && !lake.exists();
        let (store, url) = if is_missing {
            let url = url::Url::parse("memory:///").or_code(code::INTERNAL, || "no URL".into())?;
            (Arc::new(object_store::memory::InMemory::new()) as Arc<dyn ObjectStore>, url)
        } else {
            Self::store(&project)?
        };
        Self::open_for(Access::Look, project, registry, clock, store, url)
    }

    fn store(project: &Project) -> Result<(Arc<dyn ObjectStore>, url::Url)> {
        let nothing = Map::new();
        let environment = &project.environment;
        let options = match &environment.lake_connection {
            Some(name) => &connection(project, name)?.options,
            None => &nothing,
        };
        store::open(&environment.lake, options)
    }

    /// As [`Engine::open`], with the lake in a store that the caller gives.
    pub fn open_on(
        project: Arc<Project>,
        registry: Registry,
        clock: Arc<dyn Clock>,
        object_store: Arc<dyn ObjectStore>,
        url: url::Url,
    ) -> Result<Self> {
        Self::open_for(Access::Build, project, registry, clock, object_store, url)
    }

    /// The same, whose exports to folders are written on `files`.
    #[must_use]
    pub fn with_files(mut self, files: Arc<dyn FileSystem>) -> Self {
        self.files = files;
        self
    }

    /// What exports to folders are written on.
    pub(crate) fn files(&self) -> Arc<dyn FileSystem> {
        Arc::clone(&self.files)
    }

    fn open_for(
        access: Access,
        project: Arc<Project>,
        registry: Registry,
        clock: Arc<dyn Clock>,
        object_store: Arc<dyn ObjectStore>,
        url: url::Url,
    ) -> Result<Self> {
        let environment = &project.environment;
        let threads = environment
            .threads
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let temp_dir = environment.state_dir.join("tmp");
        let lake = Lake::open(
            object_store,
            url,
            LakeOptions {
                clock: Arc::clone(&clock),
                threads,
                spill_dir: temp_dir.clone(),
                ..LakeOptions::default()
            },
        )?;
        let sessions = |temp_dir| {
            Sessions::new(environment.memory_limit, temp_dir, threads, &environment.schema)
        };
        let sessions = match access {
            Access::Look => sessions(None)?,
            // Who may only read the environment can query it all the same; a run says what it
            // may not write.
            Access::Build => match std::fs::create_dir_all(&temp_dir) {
                Ok(()) => sessions(Some(&temp_dir)).or_else(|_| sessions(None))?,
                Err(error) => {
                    debug!(folder = %temp_dir.display(), %error, "no folder for temporary files");
                    sessions(None)?
                }
            },
        };
        Ok(Self {
            project,
            registry,
            clock,
            lake,
            files: Arc::new(OsFileSystem),
            sessions,
            dead_letter_lock: tokio::sync::Mutex::new(()),
            noted: tokio::sync::Mutex::default(),
        })
    }

    /// The project.
    pub fn project(&self) -> &Arc<Project> {
        &self.project
    }

    /// The lake.
    pub fn lake(&self) -> &Lake {
        &self.lake
    }

    /// Memory, disk and threads of queries.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// A context with Freshet's functions and without tables.
    pub fn query_context(&self) -> Result<SessionContext> {
        let context = self.sessions.context();
        functions::register(&context)?;
        Ok(context)
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The connectors.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A node of the project.
    pub fn node(&self, id: &ModelId) -> Result<&Node> {
        self.project.nodes.get(id).ok_or_else(|| {
            let names = self.project.nodes.keys().map(ModelId::as_str);
            let error = Error::new(code::REFERENCE, format!("there is no model \"{id}\""));
            match freshet_core::config::nearest(id.as_str(), names) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint("`freshet ls` lists all"),
            }
        })
    }

    /// A source of the project.
    pub fn source_table(&self, id: &SourceId) -> Result<&SourceTable> {
        self.project.sources.get(id).ok_or_else(|| {
            let names = self.project.sources.keys().map(SourceId::as_str);
            let error = Error::new(code::REFERENCE, format!("there is no source \"{id}\""));
            match freshet_core::config::nearest(id.as_str(), names) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint("`freshet ls --select source:*` lists all"),
            }
        })
    }

    /// Makes a source ready to be listed and read, with its contract as data has widened it before and
    /// as `more` widens it.
    pub(crate) async fn source(
        &self,
        table: &SourceTable,
        more: Option<&Evolution>,
    ) -> Result<Arc<dyn Source>> {
        let known = contracts::evolution(self.lake.store(), &table.id, &table.contract).await?;
        let mut contract = Arc::clone(&table.contract);
        for evolution in [Some(&known), more].into_iter().flatten() {
            if !evolution.is_empty() {
                contract = Arc::new(contract.evolved(evolution));
            }
        }
        self.source_with(table, contract)
    }

    fn source_with(&self, table: &SourceTable, contract: Arc<Contract>) -> Result<Arc<dyn Source>> {
        let name = table.connector.as_deref().ok_or_else(|| {
            Error::new(code::SOURCE, format!("source \"{}\" has no connector", table.id))
                .at(table.location.clone())
        })?;
        if let Some(MaxBad { per: Some(_), share }) = &table.stated_max_bad {
            return Err(Error::new(
                code::CONFIG,
                format!(
                    "`max_bad` of source \"{}\" has a span of time, which files have not",
                    table.id
                ),
            )
            .hint(format!("write `max_bad: {share}`: it is of the records of each file"))
            .at(table.location.clone()));
        }
        let spec = SourceSpec {
            name: table.id.to_string(),
            contract,
            max_bad: table.max_bad,
            settle: table.settle,
        };
        let context = self.connector_context(table.connection.as_deref())?;
        self.registry
            .get(name)
            .and_then(|connector| connector.source(&table.options, spec, &context))
            .map_err(|error| error.at(table.location.clone()))
    }

    /// How a source's contract differs from the one that the last build of any model met; told once.
    pub(crate) async fn contract_changes(&self, table: &SourceTable) -> Result<Option<SchemaDiff>> {
        // Held all the time, so that of two models that start at once one tells it.
        let mut noted = self.noted.lock().await;
        if noted.contains(&table.id) {
            return Ok(None);
        }
        let changes = contracts::note(self.lake.store(), &table.id, &table.contract).await?;
        noted.insert(table.id.clone());
        let file = Some(format!("contract of {}", table.id));
        Ok((!changes.is_empty()).then_some(SchemaDiff { file, changes }))
    }

    /// Keeps what the data of a source was found to need.
    pub(crate) async fn keep_evolution(&self, id: &SourceId, found: &Evolution) -> Result<()> {
        let contract = &self.source_table(id)?.contract;
        contracts::widen(self.lake.store(), id, contract, found).await
    }

    /// Makes a sink that writes `table` over a named connection.
    pub fn sink(&self, connection_name: &str, table: &str) -> Result<Arc<dyn Sink>> {
        let connection = connection(&self.project, connection_name)?;
        let context = self.connector_context(Some(connection_name))?;
        let options = Value::Object(Map::new());
        self.registry.get(&connection.connector)?.sink(&options, table, &context)
    }

    /// What a connector is given.
    pub fn connector_context(&self, connection_name: Option<&str>) -> Result<ConnectorContext> {
        let connection = match connection_name {
            Some(name) => connection(&self.project, name)?.options.clone(),
            None => Map::new(),
        };
        let project_dir = std::path::absolute(&self.project.dir)
            .unwrap_or_else(|_| PathBuf::from(&self.project.dir));
        Ok(ConnectorContext { project_dir, connection, clock: Arc::clone(&self.clock) })
    }

    /// All corrections of a source.
    pub fn overlay<'a>(&'a self, source: &'a SourceId) -> BoxFuture<'a, Result<Overlay>> {
        Box::pin(async move { overlay::load(self.lake.store(), source).await })
    }
}

fn connection<'a>(project: &'a Project, name: &str) -> Result<&'a freshet_project::Connection> {
    let connections = &project.environment.connections;
    connections.get(name).ok_or_else(|| {
        let error = Error::new(code::CONFIG, format!("there is no connection \"{name}\""));
        match freshet_core::config::nearest(name, connections.keys().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error.hint("declare it under `connections:` in freshet.yml"),
        }
    })
}
