//! Wiring: a project with its connectors, engine and record of runs. Commands take what they need
//! from here and open nothing themselves.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use freshet_core::clock::{Clock, SystemClock};
use freshet_core::error::code;
use freshet_core::{Error, Location, ModelId, Registry, Result, ResultExt};
use freshet_engine::Engine;
use freshet_orchestrator::MetaStore;
use freshet_project::{LoadOptions, Project, ProjectState, Selection};
use tokio::runtime::Runtime;

use crate::cli::{GlobalArgs, SelectArgs};
use crate::ui::{Ui, printable};

/// Where a command works: the folder and what the command line says of it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The project folder, as it was given.
    pub dir: PathBuf,
    /// The environment, where one was named.
    pub environment: Option<String>,
    /// Variables of the command line.
    pub vars: serde_json::Map<String, serde_json::Value>,
    /// Threads of a query, where the command line says.
    pub threads: Option<usize>,
}

impl Place {
    /// Where the command line says.
    pub fn new(dir: PathBuf, global: &GlobalArgs) -> Self {
        let variable = std::env::var("FRESHET_ENV").ok().filter(|name| !name.is_empty());
        Self {
            dir,
            environment: global.env.clone().or(variable),
            vars: global.vars.iter().cloned().collect(),
            threads: None,
        }
    }

    /// Loads the project; reads its folder only.
    pub fn project(&self, registry: &Registry) -> Result<Project> {
        let validate = |connector: &str, options: &serde_json::Value| {
            registry.get(connector)?.validate(options)
        };
        let validate_sink = |connector: &str, options: &serde_json::Value| {
            registry.get(connector)?.validate_stream_sink(options)
        };
        let env = |name: &str| std::env::var(name).ok();
        let mut project = Project::load(
            &self.dir,
            &LoadOptions {
                environment: self.environment.clone(),
                vars: self.vars.clone(),
                env: &env,
                validate_connector: Some(&validate),
                validate_sink: Some(&validate_sink),
                now: Some(SystemClock.now()),
                invocation_id: None,
            },
        )?;
        for connection in project.environment.connections.values() {
            if connection.connector == "s3" {
                freshet_connectors::files::s3::validate(&connection.options).map_err(|error| {
                    let place = format!("freshet.yml, connection \"{}\"", connection.name);
                    error.at(Location::file(place))
                })?;
            }
        }
        if let Some(threads) = self.threads {
            project.environment.threads = Some(threads);
        }
        Ok(project)
    }

    /// Loads the project and opens its environment.
    pub fn open(&self) -> Result<App> {
        self.open_with(Engine::open)
    }

    /// Loads the project and opens its environment in a way that touches nothing.
    pub fn open_to_look(&self) -> Result<App> {
        self.open_with(Engine::open_to_look)
    }

    fn open_with(
        &self,
        open: impl FnOnce(Arc<Project>, Registry, Arc<dyn Clock>) -> Result<Engine>,
    ) -> Result<App> {
        let registry = freshet_connectors::registry();
        let project = Arc::new(self.project(&registry)?);
        let engine = open(Arc::clone(&project), registry, Arc::new(SystemClock))?;
        Ok(App { project, engine: Arc::new(engine) })
    }
}

/// An opened project.
#[derive(Debug, Clone)]
pub struct App {
    /// The project.
    pub project: Arc<Project>,
    /// Its engine.
    pub engine: Arc<Engine>,
}

impl App {
    /// Says what loading the project found worth saying.
    pub fn warn(&self, ui: &Ui) {
        if ui.json || ui.quiet {
            return;
        }
        for warning in &self.project.warnings {
            // Who cannot read warnings is not kept from running.
            let _ = writeln!(
                std::io::stderr(),
                "{} {}",
                ui.err.yellow("warning:"),
                printable(warning, false)
            );
        }
    }

    /// The record of runs.
    pub async fn meta(&self) -> Result<MetaStore> {
        open_meta(&self.project).await
    }

    /// The nodes that `--select` and `--exclude` mean.
    pub fn select(&self, args: &SelectArgs, before: Option<&ProjectState>) -> Result<Vec<ModelId>> {
        select(&self.project, args, before)
    }

    /// The streaming models among those, in dependency order; an error where there is none.
    pub fn streams(&self, args: &SelectArgs) -> Result<Vec<ModelId>> {
        let selected = self.select(args, None)?;
        let models: Vec<ModelId> =
            self.engine.streams(&selected).map(|node| node.id.clone()).collect();
        if models.is_empty() {
            return Err(Error::new(code::SELECTOR, "no streaming model is selected")
                .hint("a model is a stream where its config says `materialized='stream'`"));
        }
        Ok(models)
    }
}

/// The record of runs of a project's environment.
pub async fn open_meta(project: &Project) -> Result<MetaStore> {
    MetaStore::open(&project.environment.state_dir).await
}

/// The nodes that `--select` and `--exclude` mean.
pub fn select(
    project: &Project,
    args: &SelectArgs,
    before: Option<&ProjectState>,
) -> Result<Vec<ModelId>> {
    project.select(&Selection::parse(&args.select, &args.exclude)?, before)
}

/// Whether a selection compares with the last run.
pub fn needs_state(args: &SelectArgs) -> bool {
    args.select.iter().chain(&args.exclude).any(|selector| selector.contains("state:"))
}

/// The threads that everything asynchronous runs on.
pub fn runtime(threads: Option<usize>) -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder
        .enable_all()
        .thread_name("freshet")
        // Deep plans are walked by recursion.
        .thread_stack_size(8 << 20)
        .build()
        .or_code(code::IO, || "could not start threads".to_owned())
}
