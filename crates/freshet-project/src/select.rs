//! `--select` and `--exclude`: dbt's methods and graph operators.
//!
//! Several arguments, and words within one, are a union; parts joined by commas an intersection.

use std::collections::{BTreeMap, BTreeSet};

use freshet_core::config::nearest;
use freshet_core::error::code;
use freshet_core::{Error, ModelId, Result};
use globset::{GlobBuilder, GlobMatcher};

use crate::model::{Materialized, Node, NodeKind, Project};
use crate::render::slashed;
use crate::state::ProjectState;

/// What to build: parsed, not yet applied.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    select: Vec<Intersection>,
    exclude: Vec<Intersection>,
}

/// Parts of which all must hold.
#[derive(Debug, Clone)]
struct Intersection {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    /// Levels upwards; `None` is none, `Some(usize::MAX)` all.
    up: Option<usize>,
    down: Option<usize>,
    /// `@`: users, and all that they need.
    at: bool,
    method: Method,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Name,
    Tag,
    Path,
    File,
    Source,
    ConfigKey(ConfigKey),
    State,
    ResourceType,
    Package,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConfigKey {
    Materialized,
    Schema,
    Tags,
    Strategy,
}

const METHODS: &[&str] = &[
    "config.incremental_strategy",
    "config.materialized",
    "config.schema",
    "config.tags",
    "file",
    "fqn",
    "package",
    "path",
    "resource_type",
    "source",
    "state",
    "tag",
];

const STATES: &[&str] = &["modified", "new", "old", "unmodified"];

impl Selection {
    /// Reads the arguments of `--select` and `--exclude`. Nothing selects everything.
    pub fn parse(select: &[String], exclude: &[String]) -> Result<Self> {
        let read = |texts: &[String]| {
            texts
                .iter()
                .flat_map(|text| text.split_whitespace())
                .map(Intersection::parse)
                .collect::<Result<Vec<_>>>()
        };
        Ok(Self { select: read(select)?, exclude: read(exclude)? })
    }

    /// Whether it selects everything.
    pub fn is_all(&self) -> bool {
        self.select.is_empty() && self.exclude.is_empty()
    }

    /// Whether it needs to know what the project was before.
    pub fn needs_state(&self) -> bool {
        self.select
            .iter()
            .chain(&self.exclude)
            .flat_map(|intersection| &intersection.parts)
            .any(|part| part.method == Method::State)
    }
}

impl Intersection {
    fn parse(text: &str) -> Result<Self> {
        let parts = text.split(',').map(|part| Part::parse(part, text)).collect::<Result<_>>()?;
        Ok(Self { text: text.to_owned(), parts })
    }
}

fn wrong(text: &str, why: &str) -> Error {
    Error::new(code::SELECTOR, format!("selector \"{text}\" {why}"))
}

impl Part {
    fn parse(text: &str, whole: &str) -> Result<Self> {
        let mut rest = text;
        let at = rest.starts_with('@');
        rest = rest.strip_prefix('@').unwrap_or(rest);
        let (mut up, mut down) = (None, None);
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if rest[digits..].starts_with('+') {
            up = Some(levels(&rest[..digits], whole)?);
            rest = &rest[digits + 1..];
        }
        if let Some(plus) = rest.rfind('+') {
            let after = &rest[plus + 1..];
            if after.chars().all(|c| c.is_ascii_digit()) {
                down = Some(levels(after, whole)?);
                rest = &rest[..plus];
            }
        }
        if at && (up.is_some() || down.is_some()) {
            return Err(wrong(whole, "has both `@` and `+`")
                .hint("`@model` already means its users and all that they need"));
        }
        if rest.is_empty() {
            return Err(wrong(whole, "names nothing").hint("write `model`, `+model` or `tag:name`"));
        }
        let (method, value) = match rest.split_once(':') {
            Some((method, value)) => (method_of(method, whole)?, value),
            None => (Method::Name, rest),
        };
        if value.is_empty() {
            return Err(wrong(whole, "has nothing after the colon"));
        }
        if method == Method::State && !STATES.contains(&value) {
            let error = wrong(whole, &format!("asks for state \"{value}\", which is not there"));
            return Err(match nearest(value, STATES.iter().copied()) {
                Some(near) => error.hint(format!("did you mean \"state:{near}\"?")),
                None => error.hint(format!("states are {}", STATES.join(", "))),
            });
        }
        if method == Method::ResourceType && !["model", "seed"].contains(&value) {
            return Err(wrong(whole, &format!("asks for resource type \"{value}\""))
                .hint("resource types are model and seed"));
        }
        Ok(Self { up, down, at, method, value: value.to_owned() })
    }
}

fn levels(digits: &str, whole: &str) -> Result<usize> {
    if digits.is_empty() {
        return Ok(usize::MAX);
    }
    digits.parse().map_err(|_| wrong(whole, "has a number of levels that is too large"))
}

fn method_of(name: &str, whole: &str) -> Result<Method> {
    Ok(match name {
        "fqn" => Method::Name,
        "tag" => Method::Tag,
        "path" => Method::Path,
        "file" => Method::File,
        "source" => Method::Source,
        "state" => Method::State,
        "resource_type" => Method::ResourceType,
        "package" => Method::Package,
        "config.materialized" => Method::ConfigKey(ConfigKey::Materialized),
        "config.schema" => Method::ConfigKey(ConfigKey::Schema),
        "config.tags" => Method::ConfigKey(ConfigKey::Tags),
        "config.incremental_strategy" => Method::ConfigKey(ConfigKey::Strategy),
        _ => {
            let error = wrong(whole, &format!("has an unknown method \"{name}\""));
            return Err(match nearest(name, METHODS.iter().copied()) {
                Some(near) => error.hint(format!("did you mean \"{near}:\"?")),
                None => error.hint(format!("methods are {}", METHODS.join(", "))),
            });
        }
    })
}

fn glob(text: &str, whole: &str) -> Result<GlobMatcher> {
    GlobBuilder::new(text)
        .literal_separator(false)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| wrong(whole, "has a pattern that cannot be read").caused_by(error))
}

type Ids<'a> = BTreeSet<&'a ModelId>;

impl Project {
    /// The nodes that a selection means, in dependency order. `previous` is what the project was at
    /// its last run, for `state:`.
    ///
    /// # Errors
    /// A part that matches nothing, unless it asks for a state.
    pub fn select(
        &self,
        selection: &Selection,
        previous: Option<&ProjectState>,
    ) -> Result<Vec<ModelId>> {
        let graph = Graph::new(self, previous);
        let mut selected: Ids<'_> = BTreeSet::new();
        if selection.select.is_empty() {
            selected.extend(self.nodes.keys());
        }
        for intersection in &selection.select {
            selected.extend(graph.intersection(intersection)?);
        }
        for intersection in &selection.exclude {
            for id in graph.intersection(intersection)? {
                selected.remove(id);
            }
        }
        Ok(self.nodes.keys().filter(|id| selected.contains(id)).cloned().collect())
    }
}

struct Graph<'a> {
    project: &'a Project,
    previous: Option<&'a ProjectState>,
    users: BTreeMap<&'a ModelId, Vec<&'a ModelId>>,
}

impl<'a> Graph<'a> {
    fn new(project: &'a Project, previous: Option<&'a ProjectState>) -> Self {
        let mut users: BTreeMap<&ModelId, Vec<&ModelId>> = BTreeMap::new();
        for (id, node) in &project.nodes {
            for dependency in &node.refs {
                users.entry(dependency).or_default().push(id);
            }
        }
        Self { project, previous, users }
    }

    fn intersection(&self, intersection: &Intersection) -> Result<Ids<'a>> {
        let mut ids: Option<Ids<'a>> = None;
        for part in &intersection.parts {
            let found = self.part(part, &intersection.text)?;
            ids = Some(match ids {
                Some(ids) => ids.intersection(&found).copied().collect(),
                None => found,
            });
        }
        Ok(ids.unwrap_or_default())
    }

    fn part(&self, part: &Part, whole: &str) -> Result<Ids<'a>> {
        let base = self.matches(part, whole)?;
        if base.is_empty() && part.method != Method::State {
            return Err(self.nothing(part, whole));
        }
        if part.at {
            let users = self.walk(&base, usize::MAX, |id| self.users_of(id));
            return Ok(self.walk(&users, usize::MAX, |id| self.needs_of(id)));
        }
        let mut found = base.clone();
        if let Some(levels) = part.up {
            found.extend(self.walk(&base, levels, |id| self.needs_of(id)));
        }
        if let Some(levels) = part.down {
            found.extend(self.walk(&base, levels, |id| self.users_of(id)));
        }
        // A source itself is no node: `source:x+` is what is built from it.
        if part.method == Method::Source && part.down.is_none() && part.up.is_none() {
            return Ok(base);
        }
        Ok(found)
    }

    fn users_of(&self, id: &'a ModelId) -> Vec<&'a ModelId> {
        self.users.get(id).cloned().unwrap_or_default()
    }

    fn needs_of(&self, id: &'a ModelId) -> Vec<&'a ModelId> {
        let known = |dep: &'a ModelId| self.project.nodes.get_key_value(dep).map(|(id, _)| id);
        self.project
            .nodes
            .get(id)
            .map_or_else(Vec::new, |node| node.refs.iter().filter_map(known).collect())
    }

    /// `from` and everything at most `levels` steps away.
    fn walk(
        &self,
        from: &Ids<'a>,
        levels: usize,
        next: impl Fn(&'a ModelId) -> Vec<&'a ModelId>,
    ) -> Ids<'a> {
        let mut seen = from.clone();
        let mut edge: Vec<&ModelId> = from.iter().copied().collect();
        let mut level = 0;
        while !edge.is_empty() && level < levels {
            let mut further = Vec::new();
            for id in edge {
                for neighbour in next(id) {
                    if seen.insert(neighbour) {
                        further.push(neighbour);
                    }
                }
            }
            edge = further;
            level += 1;
        }
        seen
    }

    fn matches(&self, part: &Part, whole: &str) -> Result<Ids<'a>> {
        let value = part.value.as_str();
        let nodes = &self.project.nodes;
        let filter = |keep: &dyn Fn(&Node) -> bool| -> Ids<'a> {
            nodes.iter().filter(|(_, node)| keep(node)).map(|(id, _)| id).collect()
        };
        Ok(match part.method {
            Method::Name => self.by_name(value, whole)?,
            Method::Tag | Method::ConfigKey(ConfigKey::Tags) => {
                let glob = glob(value, whole)?;
                filter(&|node| node.config.tags.iter().any(|tag| glob.is_match(tag)))
            }
            Method::Path => self.by_path(value, whole)?,
            Method::File => filter(&|node| {
                let name = node.path.file_name().map(|name| name.to_string_lossy());
                let stem = node.path.file_stem().map(|name| name.to_string_lossy());
                name.as_deref() == Some(value) || stem.as_deref() == Some(value)
            }),
            Method::Source => {
                let pattern =
                    if value.contains('.') { value.to_owned() } else { format!("{value}.*") };
                let glob = glob(&pattern, whole)?;
                let sources: BTreeSet<_> =
                    self.project.sources.keys().filter(|id| glob.is_match(id.as_str())).collect();
                if sources.is_empty() {
                    let error = wrong(whole, "matches no source");
                    let names = self.project.sources.values();
                    let names = names.flat_map(|s| [s.source.as_str(), s.id.as_str()]);
                    return Err(match nearest(value, names) {
                        Some(near) => error.hint(format!("did you mean \"source:{near}\"?")),
                        None => error.hint("`freshet ls` lists all sources"),
                    });
                }
                filter(&|node| node.sources.iter().any(|id| sources.contains(id)))
            }
            Method::ConfigKey(ConfigKey::Materialized) => {
                filter(&|node| materialized(node.config.materialized) == value)
            }
            Method::ConfigKey(ConfigKey::Schema) => {
                filter(&|node| self.project.schema_of(node) == value)
            }
            Method::ConfigKey(ConfigKey::Strategy) => filter(&|node| {
                node.config.materialized == Materialized::Incremental
                    && serde_json::to_value(node.config.strategy()).is_ok_and(|name| name == value)
            }),
            Method::ResourceType => filter(&|node| {
                node.kind == if value == "seed" { NodeKind::Seed } else { NodeKind::Model }
            }),
            Method::Package => {
                if value == self.project.name || value == "this" {
                    filter(&|_| true)
                } else {
                    Ids::new()
                }
            }
            Method::State => self.by_state(value),
        })
    }

    /// A model's name, a pattern of names, or folders joined by dots as dbt has them.
    fn by_name(&self, value: &str, whole: &str) -> Result<Ids<'a>> {
        let nodes = &self.project.nodes;
        if let Some((id, _)) = nodes.get_key_value(&ModelId::from(value)) {
            return Ok([id].into_iter().collect());
        }
        if value.contains('/') || value.ends_with(".sql") || value.ends_with(".csv") {
            return self.by_path(value, whole);
        }
        let glob = glob(value, whole)?;
        let own = format!("{}.", self.project.name);
        let value = value.strip_prefix(&own).unwrap_or(value);
        let wanted: Vec<&str> = value.split('.').collect();
        Ok(nodes
            .iter()
            .filter(|(id, node)| {
                if glob.is_match(id.as_str()) {
                    return true;
                }
                let path = slashed(&node.path.with_extension(""));
                // Folders below the root of models: `staging` is all in `models/staging`.
                let fqn: Vec<&str> = path.split('/').skip(1).collect();
                wanted.len() <= fqn.len()
                    && wanted.iter().zip(&fqn).all(|(wanted, name)| {
                        wanted == name
                            || GlobBuilder::new(wanted)
                                .build()
                                .is_ok_and(|g| g.compile_matcher().is_match(name))
                    })
                    && !(wanted.len() == 1 && fqn.len() == 1)
            })
            .map(|(id, _)| id)
            .collect())
    }

    /// A file, a folder, or a pattern of either.
    fn by_path(&self, value: &str, whole: &str) -> Result<Ids<'a>> {
        let value = value.trim_start_matches("./").trim_end_matches('/');
        let glob = glob(value, whole)?;
        Ok(self
            .project
            .nodes
            .iter()
            .filter(|(_, node)| {
                let path = slashed(&node.path);
                let inside = path.strip_prefix(value).is_some_and(|rest| rest.starts_with('/'));
                path == value || inside || glob.is_match(&path)
            })
            .map(|(id, _)| id)
            .collect())
    }

    fn by_state(&self, value: &str) -> Ids<'a> {
        let empty = ProjectState::default();
        let diff = self.previous.unwrap_or(&empty).diff(&self.project.state());
        self.project
            .nodes
            .iter()
            .filter(|(id, node)| {
                let is_new = diff.added.contains(id);
                // A source that is declared otherwise gives other rows.
                let is_modified = is_new
                    || diff.modified.contains(id)
                    || node.sources.iter().any(|source| diff.sources.contains(source));
                match value {
                    "new" => is_new,
                    "old" => !is_new,
                    "unmodified" => !is_modified,
                    _ => is_modified,
                }
            })
            .map(|(id, _)| id)
            .collect()
    }

    fn nothing(&self, part: &Part, whole: &str) -> Error {
        let error = wrong(whole, "matches nothing");
        let nodes = &self.project.nodes;
        let near = match part.method {
            Method::Name => {
                nearest(&part.value, nodes.keys().map(ModelId::as_str)).map(str::to_owned)
            }
            Method::Tag => nearest(
                &part.value,
                nodes.values().flat_map(|node| &node.config.tags).map(String::as_str),
            )
            .map(|tag| format!("tag:{tag}")),
            Method::Path => {
                let paths: Vec<String> = nodes.values().map(|node| slashed(&node.path)).collect();
                nearest(&part.value, paths.iter().map(String::as_str))
                    .map(|path| format!("path:{path}"))
            }
            _ => None,
        };
        match near {
            Some(near) => error.hint(format!("did you mean \"{near}\"?")),
            None => error.hint("`freshet ls` lists all models and seeds"),
        }
    }
}

fn materialized(materialized: Materialized) -> &'static str {
    match materialized {
        Materialized::View => "view",
        Materialized::Table => "table",
        Materialized::Incremental => "incremental",
        Materialized::Ephemeral => "ephemeral",
        Materialized::Seed => "seed",
        Materialized::Stream => "stream",
    }
}
