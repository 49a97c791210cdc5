//! The project file: `freshet.yml`, `dbt_project.yml` or both, and the environment chosen from it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use freshet_core::config::{ByteSize, nearest};
use freshet_core::error::code;
use freshet_core::http::HttpOptions;
use freshet_core::{Error, Location, Result, SourceId};
use serde_json::Value as Json;

use super::files::{Paths, Text, read_text};
use super::{Findings, LoadOptions, secrets};
use crate::checks::CheckSettings;
use crate::config::ConfigTree;
use crate::model::{Connection, DemoData, DemoTarget, Environment};
use crate::props::{DbtProjectFile, DemoDataProps, EnvironmentProps, ProjectFile};
use crate::render::{Shared, Templates, literal_calls};
use crate::yaml::{Doc, Item, Located, Reader, Value};

type JsonMap = serde_json::Map<String, Json>;

const DEFAULT_MEMORY: ByteSize = ByteSize::mib(1024);

/// A project file, and its settings of models and of seeds.
type Trees = (Rc<Doc>, Option<Item>, Option<Item>);
/// A mapping of a project file.
type Place = (Rc<Doc>, Item);
/// A list of folders, where it is given, and where it goes.
type PathList = (Option<Vec<String>>, fn(&mut Paths) -> &mut Vec<String>);

/// What the project file says.
#[derive(Debug)]
pub struct Settings {
    /// The folder.
    pub dir: PathBuf,
    /// The project's name.
    pub name: String,
    /// The environment.
    pub environment: Environment,
    /// Its connections, those that cannot be used included.
    pub connections: Connections,
    /// Folders by kind.
    pub paths: Paths,
    /// Data that the project makes for itself.
    pub demo_data: Option<DemoData>,
    /// The project files' texts.
    pub texts: Vec<Text>,
    trees: Vec<Trees>,
    check_defaults: Vec<Place>,
}

impl Settings {
    /// Reads the project files of `dir`. `None` where they are so wrong that nothing else can be
    /// read; the findings say why.
    pub fn read(
        dir: &Path,
        options: &LoadOptions<'_>,
        findings: &Findings,
    ) -> Result<Option<Self>> {
        let (own, dbt) = (dir.join("freshet.yml").is_file(), dir.join("dbt_project.yml").is_file());
        if !own && !dbt {
            return Err(Error::new(
                code::PROJECT,
                format!("folder \"{}\" holds no project", dir.display()),
            )
            .hint(
                "it needs a `freshet.yml` or `dbt_project.yml`; `freshet init` makes a new project",
            ));
        }
        let mut texts = Vec::new();
        let mut read = |name: &str| -> Option<Doc> {
            let path = PathBuf::from(name);
            let text = findings.keep(read_text(dir, &path))?;
            let doc = findings.keep(Doc::parse(name, &text));
            texts.push(Text {
                root: PathBuf::new(),
                path,
                text,
                is_generic: false,
                digest: String::new(),
            });
            doc
        };
        let own_doc = if own { Some(read("freshet.yml")) } else { None };
        let dbt_doc = if dbt { Some(read("dbt_project.yml")) } else { None };
        if matches!(own_doc, Some(None)) || matches!(dbt_doc, Some(None)) {
            return Ok(None);
        }
        let mut builder = Builder {
            dir,
            options,
            findings,
            name: None,
            paths: Paths {
                models: vec!["models".into()],
                seeds: vec!["seeds".into()],
                macros: vec!["macros".into()],
                tests: vec!["tests".into()],
                sources: vec!["sources".into()],
            },
            vars: JsonMap::new(),
            trees: Vec::new(),
            connections: Vec::new(),
            environments: None,
            default: None,
            demo_data: None,
            check_defaults: Vec::new(),
        };
        for file in ["packages.yml", "dependencies.yml"] {
            if dir.join(file).is_file() {
                findings.warn(
                    &Location::file(file),
                    "packages are not there in Freshet; the file is left out",
                );
            }
        }
        if let Some(Some(doc)) = dbt_doc {
            builder.dbt(doc);
        }
        if let Some(Some(doc)) = own_doc {
            builder.own(doc);
        }
        Ok(builder.finish(texts))
    }

    /// What the project files say of all checks.
    pub fn check_defaults(&self, templates: &Templates, findings: &Findings) -> CheckSettings {
        let mut settings = CheckSettings::default();
        for (doc, item) in &self.check_defaults {
            let reader = Reader::new(doc, &findings.errors);
            for (folder, at) in settings.set_defaults(*item, &self.name, &reader, templates) {
                let message =
                    format!("settings of tests in \"{folder}\" are not there and are left out");
                findings.warn(&at, &message);
            }
        }
        settings
    }

    /// The settings of models and of seeds by folder, the weakest first.
    pub fn trees(
        &self,
        templates: &Templates,
        findings: &Findings,
    ) -> (Vec<ConfigTree>, Vec<ConfigTree>) {
        let read = |pick: fn(&Trees) -> Option<Item>| {
            self.trees
                .iter()
                .filter_map(|tree| {
                    let reader = Reader::new(&tree.0, &findings.errors);
                    pick(tree).map(|item| ConfigTree::read(&reader, item, templates))
                })
                .collect()
        };
        (read(|tree| tree.1), read(|tree| tree.2))
    }
}

struct Builder<'a> {
    dir: &'a Path,
    options: &'a LoadOptions<'a>,
    findings: &'a Findings,
    name: Option<String>,
    paths: Paths,
    vars: JsonMap,
    trees: Vec<Trees>,
    connections: Vec<Place>,
    environments: Option<Place>,
    default: Option<(String, Location)>,
    demo_data: Option<DemoData>,
    check_defaults: Vec<Place>,
}

impl Builder<'_> {
    fn set_paths(&mut self, lists: [PathList; 5]) {
        for (list, pick) in lists {
            if let Some(list) = list {
                *pick(&mut self.paths) = list;
            }
        }
    }

    fn set_name(&mut self, name: Option<Located<String>>, doc: &Doc) {
        let Some(name) = name else { return };
        let location = doc.location(name.item);
        let valid = name.value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if !valid {
            self.findings.error(
                Error::new(code::CONFIG, format!("\"{}\" is no name of a project", name.value))
                    .at(location.clone())
                    .hint("use letters, digits and `_`, with a letter first"),
            );
        }
        self.name = Some(name.value);
    }

    fn set_vars(&mut self, doc: &Doc, vars: Option<Item>) {
        let Some(vars) = vars else { return };
        if let Json::Object(vars) = doc.to_plain_json(vars) {
            self.vars.extend(vars);
        } else {
            self.findings.error(
                Error::new(code::YAML, "field \"vars\" is no mapping").at(doc.location(vars)),
            );
        }
    }

    fn dbt(&mut self, doc: Doc) {
        let doc = Rc::new(doc);
        let reader = Reader::new(&doc, &self.findings.errors);
        let Some(file) = reader.read::<DbtProjectFile>(doc.root(), "") else { return };
        self.set_name(file.name, &doc);
        self.set_vars(&doc, file.vars);
        self.set_paths([
            (file.model_paths, |paths| &mut paths.models),
            (file.seed_paths, |paths| &mut paths.seeds),
            (file.macro_paths, |paths| &mut paths.macros),
            (file.test_paths, |paths| &mut paths.tests),
            (None, |paths| &mut paths.sources),
        ]);
        for hook in ["on-run-start", "on-run-end"] {
            if let Some(item) = doc.get(doc.root(), hook)
                && !matches!(doc.value(item), Value::Null)
            {
                self.findings.warn(
                    &doc.location(item),
                    &format!("`{hook}` is not there in Freshet and is left out"),
                );
            }
        }
        for item in [file.tests, file.data_tests].into_iter().flatten() {
            self.check_defaults.push((Rc::clone(&doc), item));
        }
        self.trees.push((doc, file.models, file.seeds));
    }

    fn own(&mut self, doc: Doc) {
        let doc = Rc::new(doc);
        let reader = Reader::new(&doc, &self.findings.errors);
        let Some(file) = reader.read::<ProjectFile>(doc.root(), "") else { return };
        self.set_name(file.name, &doc);
        self.set_vars(&doc, file.vars);
        self.set_paths([
            (file.model_paths, |paths| &mut paths.models),
            (file.seed_paths, |paths| &mut paths.seeds),
            (file.macro_paths, |paths| &mut paths.macros),
            (file.test_paths, |paths| &mut paths.tests),
            (file.source_paths, |paths| &mut paths.sources),
        ]);
        self.demo_data = file.demo_data.and_then(|props| self.demo_data(&doc, props));
        if let Some(default) = file.default_environment {
            let location = doc.location(default.item);
            self.default = Some((default.value, location));
        }
        if let Some(connections) = file.connections {
            self.connections.push((Rc::clone(&doc), connections));
        }
        if let Some(environments) = file.environments {
            self.environments = Some((Rc::clone(&doc), environments));
        }
        self.trees.push((doc, file.models, file.seeds));
    }

    fn demo_data(&self, doc: &Doc, props: Located<DemoDataProps>) -> Option<DemoData> {
        let Located { value: props, item: at } = props;
        let into = match (props.into, props.streams) {
            (Some(into), None) => self.demo_folder(doc, &into)?,
            (None, Some(streams)) => {
                let named =
                    |(stream, source): (String, String)| (stream, SourceId::from(source.as_str()));
                DemoTarget::Streams {
                    sources: streams.value.into_iter().map(named).collect(),
                    show: props.show,
                }
            }
            (_, streams) => {
                let place = streams.map_or(at, |streams| streams.item);
                self.findings.error(
                    Error::new(code::YAML, "demo_data has either `into` or `streams`")
                        .at(doc.location(place))
                        .hint("`into: data` names a folder for files, `streams: {orders: food.orders}` sources"),
                );
                return None;
            }
        };
        let options = match props.options.map(|item| (item, doc.to_plain_json(item))) {
            None => JsonMap::new(),
            Some((_, Json::Object(options))) => options,
            Some((item, _)) => {
                self.findings.error(
                    Error::new(code::YAML, "field \"options\" in demo_data is no mapping")
                        .at(doc.location(item)),
                );
                return None;
            }
        };
        Some(DemoData { generator: props.generator, into, options })
    }

    fn demo_folder(&self, doc: &Doc, into: &Located<String>) -> Option<DemoTarget> {
        let folder = Path::new(&into.value);
        let stays_inside = folder
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if stays_inside && folder.components().next().is_some() {
            return Some(DemoTarget::Folder(self.dir.join(folder)));
        }
        self.findings.error(
            Error::new(code::CONFIG, format!("demo data cannot go to \"{}\"", into.value))
                .at(doc.location(into.item))
                .hint("name a folder inside the project"),
        );
        None
    }

    /// The chosen environment's name and what is said of it.
    fn choose(&self) -> Option<(String, Option<Place>)> {
        let entries = self.environments.as_ref().map(|(doc, item)| (doc, doc.entries(*item)));
        if let Some((doc, item)) = &self.environments
            && !matches!(doc.value(*item), Value::Map(_))
        {
            self.findings.error(
                Error::new(code::YAML, "field \"environments\" is no mapping")
                    .at(doc.location(*item))
                    .hint("write `environments: {dev: {}}`"),
            );
        }
        let names: Vec<&str> = entries
            .iter()
            .flat_map(|(_, entries)| *entries)
            .map(|(key, _)| key.name.as_str())
            .collect();
        let (name, location) = match (&self.options.environment, &self.default) {
            (Some(name), _) => (name.clone(), None),
            (None, Some((name, location))) => (name.clone(), Some(location.clone())),
            (None, None) => match names.as_slice() {
                [only] => ((*only).to_owned(), None),
                _ if names.is_empty() || names.contains(&"dev") => ("dev".to_owned(), None),
                _ => {
                    self.findings.error(
                        Error::new(code::CONFIG, "no environment was chosen")
                            .at(Location::file("freshet.yml"))
                            .hint(format!(
                                "name one with `--env`, or set `default_environment`: {}",
                                names.join(", ")
                            )),
                    );
                    return None;
                }
            },
        };
        let found = entries.and_then(|(doc, entries)| {
            let (_, item) = entries.iter().find(|(key, _)| key.name == name)?;
            Some((Rc::clone(doc), *item))
        });
        if found.is_none() && !(names.is_empty() && name == "dev") {
            let mut error = Error::new(code::CONFIG, format!("there is no environment \"{name}\""));
            if let Some(location) = location {
                error = error.at(location);
            }
            self.findings.error(match nearest(&name, names.iter().copied()) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None if names.is_empty() => {
                    error.hint("declare it under `environments:` in `freshet.yml`")
                }
                None => error.hint(format!("environments are {}", names.join(", "))),
            });
            return None;
        }
        Some((name, found))
    }

    fn finish(mut self, texts: Vec<Text>) -> Option<Settings> {
        let (env_name, found) = self.choose()?;
        if let Some((doc, all)) = &self.environments {
            // The others are read too, so that `check` names their faults.
            let reader = Reader::new(doc, &self.findings.errors);
            for (key, item) in doc.entries(*all) {
                if found.as_ref().is_none_or(|(_, chosen)| chosen != item)
                    && !matches!(doc.value(*item), Value::Null)
                {
                    let path = format!("environments.{}", key.name);
                    reader.read::<EnvironmentProps>(*item, &path);
                }
            }
        }
        let mut props = EnvironmentProps::default();
        let env_doc = found.as_ref().map(|(doc, _)| Rc::clone(doc));
        if let Some((doc, item)) = &found {
            let reader = Reader::new(doc, &self.findings.errors);
            if !matches!(doc.value(*item), Value::Null) {
                props = reader.read(*item, &format!("environments.{env_name}"))?;
            }
        }
        if let Some(doc) = &env_doc {
            self.set_vars(doc, props.vars);
        }
        let name = self.name.take().unwrap_or_else(|| {
            let folder = self.dir.file_name().map(|name| name.to_string_lossy().into_owned());
            folder.unwrap_or_else(|| "project".into())
        });
        // dbt's variables of one project stand below its name.
        if let Some(Json::Object(own)) = self.vars.get(&name).cloned() {
            self.vars.remove(&name);
            for (key, value) in own {
                self.vars.insert(key, value);
            }
        }
        self.vars.extend(self.options.vars.clone());

        let templates = self.early_templates(&name, &texts);
        let text = |field: &Option<Located<String>>| -> Option<String> {
            let (field, doc) = (field.as_ref()?, env_doc.as_ref()?);
            self.text(doc, field.item, &field.value, &templates)
        };
        let state = text(&props.state).unwrap_or_else(|| format!(".freshet/{env_name}"));
        let lake = text(&props.lake).unwrap_or_else(|| format!("{state}/lake"));
        let schema = text(&props.schema).unwrap_or_else(|| "main".into());
        let lake = if lake.contains("://") {
            lake
        } else {
            self.dir.join(&lake).to_string_lossy().into_owned()
        };
        let threads = props.threads.as_ref().and_then(|threads| {
            if threads.value == 0
                && let Some(doc) = &env_doc
            {
                self.findings.error(
                    Error::new(code::CONFIG, "field \"threads\" is 0")
                        .at(doc.location(threads.item))
                        .hint("leave it out for one a core"),
                );
            }
            usize::try_from(threads.value).ok().filter(|threads| *threads > 0)
        });
        let mut connections = Connections::default();
        for (doc, item) in &self.connections {
            self.read_connections(doc, *item, &templates, &mut connections);
        }
        if let (Some(doc), Some(item)) = (&env_doc, props.connections) {
            self.read_connections(doc, item, &templates, &mut connections);
        }
        let known = |field: &Option<Located<String>>| -> Option<String> {
            let name = text(field)?;
            if let (Some(field), Some(doc)) = (field, &env_doc) {
                connections.find(&name, doc.location(field.item), self.findings)?;
            }
            Some(name)
        };
        let environment = Environment {
            lake_connection: known(&props.connection),
            warehouse: known(&props.warehouse),
            lake,
            state_dir: self.dir.join(state),
            memory_limit: props.memory_limit.unwrap_or(DEFAULT_MEMORY),
            keep_runs: props.keep_runs,
            http: http_options(props.http, env_doc.as_deref(), self.findings),
            threads,
            schema,
            connections: connections.usable.clone(),
            vars: self.vars,
            name: env_name,
        };
        Some(Settings {
            dir: self.dir.to_owned(),
            name,
            environment,
            connections,
            demo_data: self.demo_data,
            paths: self.paths,
            texts,
            trees: self.trees,
            check_defaults: self.check_defaults,
        })
    }

    /// Templates of the project file itself: variables and environment variables, no macros.
    fn early_templates(&self, name: &str, texts: &[Text]) -> Templates {
        let env_vars = texts
            .iter()
            .flat_map(|text| literal_calls(&text.text, "env_var"))
            .map(|(name, _)| (name.to_owned(), (self.options.env)(name)))
            .collect();
        let shared = Shared {
            project: name.to_owned(),
            vars: self.vars.clone(),
            env_vars,
            ..Shared::default()
        };
        Templates::new(shared, BTreeMap::new())
    }

    fn text(&self, doc: &Doc, item: Item, text: &str, templates: &Templates) -> Option<String> {
        let location = doc.location(item);
        self.findings.keep(self.resolved(&location, text, templates))
    }

    fn resolved(&self, location: &Location, text: &str, templates: &Templates) -> Result<String> {
        let rendered = match templates.yaml(location, text)? {
            Json::String(text) => text,
            other => other.to_string(),
        };
        secrets::resolve(&rendered, self.dir, self.options.env, location)
    }

    fn read_connections(
        &self,
        doc: &Doc,
        item: Item,
        templates: &Templates,
        connections: &mut Connections,
    ) {
        for (key, item) in doc.entries(item) {
            let mut options = JsonMap::new();
            let mut faults = Vec::new();
            for (option, value) in doc.entries(*item) {
                let json = doc.to_json(*value, &mut |at, text| {
                    self.resolved(&doc.location(at), text, templates).map(Json::String)
                });
                match json {
                    Ok(json) => drop(options.insert(option.name.clone(), json)),
                    Err(error) => faults.push(error),
                }
            }
            // What an environment says of a connection replaces what the project says.
            connections.usable.remove(&key.name);
            connections.broken.borrow_mut().remove(&key.name);
            if !faults.is_empty() {
                connections.broken.borrow_mut().insert(key.name.clone(), faults);
                continue;
            }
            match options.shift_remove("connector") {
                Some(Json::String(connector)) => {
                    let connection = Connection { name: key.name.clone(), connector, options };
                    connections.usable.insert(key.name.clone(), connection);
                }
                _ => self.findings.error(
                    Error::new(
                        code::CONFIG,
                        format!("connection \"{}\" has no connector", key.name),
                    )
                    .at(doc.key_location(key))
                    .hint("add `connector:`; `freshet connectors` lists all"),
                ),
            }
        }
    }
}

/// Connections by name. One whose secrets are missing is a fault only where it is used: the
/// password of production need not be on every desk.
#[derive(Debug, Default)]
pub struct Connections {
    usable: BTreeMap<String, Connection>,
    broken: RefCell<BTreeMap<String, Vec<Error>>>,
}

impl Connections {
    /// The connection `name`; where it is missing or cannot be used, that is recorded.
    pub fn find(&self, name: &str, location: Location, findings: &Findings) -> Option<&Connection> {
        if let Some(connection) = self.usable.get(name) {
            return Some(connection);
        }
        if let Some(errors) = self.broken.borrow_mut().get_mut(name) {
            // Each is told once, at the first use.
            findings.errors(std::mem::take(errors));
            return None;
        }
        let error =
            Error::new(code::CONFIG, format!("there is no connection \"{name}\"")).at(location);
        findings.error(match nearest(name, self.usable.keys().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error.hint("declare it under `connections:` in `freshet.yml`"),
        });
        None
    }
}

/// The options of the listener, as long as they make sense.
fn http_options(
    given: Option<Located<HttpOptions>>,
    doc: Option<&Doc>,
    findings: &Findings,
) -> HttpOptions {
    let (Some(given), Some(doc)) = (given, doc) else { return HttpOptions::default() };
    if let Err(error) = given.value.validate() {
        findings.error(error.at(doc.location(given.item)));
    }
    given.value
}
