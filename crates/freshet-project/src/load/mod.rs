//! From a folder to a [`Project`]: files are read, YAML and templates parsed, settings merged,
//! references resolved. Every fault found on the way is recorded with its place; all of them are
//! given back together.

mod environment;
mod files;
mod nodes;
mod properties;
mod secrets;
mod sinks;
mod sources;
mod units;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use freshet_core::error::code;
use freshet_core::{Error, Location, Result};

use crate::model::Project;
use crate::render::{BlockKind, MacroInfo, Shared, Templates, blocks, literal_calls, slashed};

use environment::Settings;
use files::{Files, Text};
use properties::Properties;

/// Validates the options of a connector: its name, then the options.
pub type ValidateConnector<'a> = &'a dyn Fn(&str, &serde_json::Value) -> Result<()>;

/// What a project is loaded for.
#[derive(Clone)]
pub struct LoadOptions<'a> {
    /// The environment; `None` for the project's default.
    pub environment: Option<String>,
    /// Variables that go before the project's.
    pub vars: serde_json::Map<String, serde_json::Value>,
    /// Where environment variables come from.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Validates the options of sources.
    pub validate_connector: Option<ValidateConnector<'a>>,
    /// Validates the options of sinks of streams.
    pub validate_sink: Option<ValidateConnector<'a>>,
    /// What `run_started_at` is in templates.
    pub now: Option<DateTime<Utc>>,
    /// What `invocation_id` is in templates.
    pub invocation_id: Option<String>,
}

impl std::fmt::Debug for LoadOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadOptions")
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

impl Default for LoadOptions<'_> {
    /// The default environment, no variables, and no environment variable set.
    fn default() -> Self {
        Self {
            environment: None,
            vars: serde_json::Map::new(),
            env: &|_| None,
            validate_connector: None,
            validate_sink: None,
            now: None,
            invocation_id: None,
        }
    }
}

/// What loading has found to be wrong or worth saying so far.
#[derive(Debug, Default)]
struct Findings {
    errors: RefCell<Vec<Error>>,
    warnings: RefCell<Vec<String>>,
}

impl Findings {
    fn error(&self, error: Error) {
        self.errors.borrow_mut().push(error);
    }

    fn errors(&self, errors: Vec<Error>) {
        self.errors.borrow_mut().extend(errors);
    }

    fn warn(&self, location: &Location, message: &str) {
        self.warnings.borrow_mut().push(format!("{location}: {message}"));
    }

    fn keep<T>(&self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.error(error)).ok()
    }

    /// All errors as one, by file and line.
    fn finish(self) -> Result<Vec<String>> {
        let mut errors = self.errors.into_inner();
        errors.sort_by(|a, b| {
            let key = |error: &Error| {
                error.location().map(|at| (at.file.clone(), at.line, at.column)).unwrap_or_default()
            };
            key(a).cmp(&key(b))
        });
        match Error::join(errors) {
            Some(error) => Err(error),
            None => Ok(self.warnings.into_inner()),
        }
    }
}

impl Project {
    /// Reads the project in `dir`, which must hold `freshet.yml` or `dbt_project.yml`.
    ///
    /// Nothing but the folder is read (and files that `${file:…}` names). All errors come joined:
    /// see [`Error::all`].
    pub fn load(dir: &Path, options: &LoadOptions<'_>) -> Result<Project> {
        let dir = std::path::absolute(dir).map_err(|error| {
            Error::new(code::PROJECT, format!("could not find folder \"{}\"", dir.display()))
                .caused_by(error)
        })?;
        let findings = Findings::default();
        let Some(settings) = Settings::read(&dir, options, &findings)? else {
            findings.finish()?;
            return Err(Error::internal("a project file was left out without an error"));
        };
        let files = Files::read(&dir, &settings.paths, &findings);
        let mut templates = make_templates(&settings, &files, options, &findings);
        findings.errors(templates.compile_macros());
        for text in files.macros.iter().filter(|text| blocks(&text.text).is_empty()) {
            // A tag that is not closed hides the macros behind it.
            let error = templates.syntax_error(&slashed(&text.path), &text.text);
            findings.errors(error.into_iter().collect());
        }

        let properties = Properties::read(&files, &findings);
        let defaults = settings.check_defaults(&templates, &findings);
        let (sources, source_checks) =
            sources::build(&properties, &settings, &templates, options, &findings, &defaults);
        let built = nodes::Loader {
            files: &files,
            properties: &properties,
            settings: &settings,
            templates: &templates,
            sources: &sources,
            findings: &findings,
            defaults: &defaults,
            validate_sink: options.validate_sink,
        }
        .build(source_checks);
        let units = units::Loader {
            files: &files,
            properties: &properties,
            templates: &templates,
            index: &built.index,
            findings: &findings,
        };
        let unit_tests = units.unit_tests();
        let sql_macros = units.sql_macros();
        let warnings = findings.finish()?;
        templates.index.get_or_init(|| Arc::new(built.index));
        Ok(Project {
            dir,
            name: settings.name,
            environment: settings.environment,
            nodes: built.nodes,
            sources,
            checks: built.checks,
            unit_tests,
            sql_macros,
            demo_data: settings.demo_data,
            warnings,
            templates: Arc::new(templates),
        })
    }
}

/// The environment of all templates: macros, docs, variables, and the environment variables that
/// any text names.
fn make_templates(
    settings: &Settings,
    files: &Files,
    options: &LoadOptions<'_>,
    findings: &Findings,
) -> Templates {
    let mut env_vars = BTreeMap::new();
    let all = [&files.models, &files.macros, &files.tests, &files.yaml, &files.docs];
    for text in all.into_iter().flatten().chain(&settings.texts) {
        for (name, _) in literal_calls(&text.text, "env_var") {
            env_vars.entry(name.to_owned()).or_insert_with(|| (options.env)(name));
        }
    }

    let mut macros: BTreeMap<String, MacroInfo> = BTreeMap::new();
    let with_macros = files.macros.iter().chain(files.tests.iter().filter(|text| text.is_generic));
    for text in with_macros {
        let file = slashed(&text.path);
        for block in blocks(&text.text) {
            let location = Location::line(&file, block.line);
            let (name, is_test) = match block.kind {
                BlockKind::Macro => (block.name.clone(), false),
                BlockKind::Test => (format!("test_{}", block.name), true),
                BlockKind::Docs => continue,
                BlockKind::Unsupported => {
                    findings.warn(&location, "snapshots and materializations are not there in Freshet; the block is left out");
                    continue;
                }
            };
            if block.name.is_empty() {
                findings.error(
                    Error::new(code::TEMPLATE, "a macro without a name")
                        .at(location)
                        .hint("write `{% macro name(argument) %}`"),
                );
                continue;
            }
            if let Some(first) = macros.get(&name) {
                findings.error(duplicate("macro", &name, &first.location).at(location));
                continue;
            }
            macros.insert(name, MacroInfo { location, text: block.text.into(), is_test });
        }
    }

    let mut docs: BTreeMap<String, String> = BTreeMap::new();
    let mut seen: BTreeMap<String, Location> = BTreeMap::new();
    for text in &files.docs {
        for block in blocks(&text.text) {
            if block.kind != BlockKind::Docs {
                continue;
            }
            let location = Location::line(slashed(&text.path), block.line);
            match seen.get(&block.name) {
                Some(first) => {
                    findings.error(duplicate("docs block", &block.name, first).at(location));
                }
                None => {
                    seen.insert(block.name.clone(), location);
                    docs.insert(block.name, block.text);
                }
            }
        }
    }

    let mut target = serde_json::Map::new();
    target.insert("name".into(), settings.environment.name.clone().into());
    target.insert("target_name".into(), settings.environment.name.clone().into());
    target.insert("profile_name".into(), settings.name.clone().into());
    target.insert("schema".into(), settings.environment.schema.clone().into());
    target.insert("type".into(), "freshet".into());
    target.insert("threads".into(), settings.environment.threads.into());
    let names: BTreeSet<String> = macros.keys().cloned().collect();
    let shared = Shared {
        project: settings.name.clone(),
        schema: settings.environment.schema.clone(),
        vars: settings.environment.vars.clone(),
        target,
        env_vars,
        docs,
        macros: names,
        now: options.now,
        invocation_id: options.invocation_id.clone(),
    };
    Templates::new(shared, macros)
}

/// The error of two things that have one name.
fn duplicate(kind: &str, name: &str, first: &Location) -> Error {
    Error::new(code::DUPLICATE, format!("{kind} \"{name}\" is declared twice"))
        .hint(format!("the other one is at {first}: rename or remove one"))
}

/// A text's name without folders and extension.
fn stem(text: &Text) -> String {
    text.path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}
