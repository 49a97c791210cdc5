//! Models and seeds: each template is rendered once to learn what it uses and how it is kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use freshet_core::config::nearest;
use freshet_core::error::code;
use freshet_core::{ColumnType, Error, Location, ModelId, SourceId};
use indexmap::IndexMap;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::environment::Settings;
use super::files::{Files, Text};
use super::properties::{Entry, Properties};
use super::{Findings, ValidateConnector, duplicate, stem};
use crate::checks::{self, CheckSettings, Subject};
use crate::config::{self, ConfigTree, Layer};
use crate::graph;
use crate::model::{Check, CheckTarget, Node, NodeColumn, NodeConfig, NodeKind, SourceTable};
use crate::props::{ColumnProps, ModelProps};
use crate::render::{
    Captured, Index, Mode, ModelEntry, ModelScope, Scope, Templates, line_of_call, slashed,
};
use crate::yaml::{Located, Reader};

type JsonMap = serde_json::Map<String, Json>;

/// What loading nodes needs.
pub struct Loader<'a> {
    pub files: &'a Files,
    pub properties: &'a Properties,
    pub settings: &'a Settings,
    pub templates: &'a Templates,
    pub sources: &'a IndexMap<SourceId, SourceTable>,
    pub findings: &'a Findings,
    pub defaults: &'a CheckSettings,
    pub validate_sink: Option<ValidateConnector<'a>>,
}

/// What came of it.
#[derive(Debug)]
pub struct Built {
    /// Nodes in dependency order.
    pub nodes: IndexMap<ModelId, Node>,
    /// All checks.
    pub checks: Vec<Check>,
    /// Every name that a template may refer to.
    pub index: Index,
}

/// A node before its references are resolved.
struct Draft<'a> {
    id: ModelId,
    kind: NodeKind,
    text: &'a Text,
    file: String,
    entry: Option<&'a Entry<ModelProps>>,
    config: NodeConfig,
    types: IndexMap<String, ColumnType>,
    merged: JsonMap,
    captured: Captured,
}

impl Loader<'_> {
    /// Builds nodes and checks; `source_checks` are those found already.
    pub fn build(&self, source_checks: Vec<Check>) -> Built {
        let (model_trees, seed_trees) = self.settings.trees(self.templates, self.findings);
        let mut drafts: BTreeMap<ModelId, Draft<'_>> = BTreeMap::new();
        let mut disabled = Vec::new();
        let mut seen: HashMap<String, Location> = HashMap::new();
        let kinds = [
            (NodeKind::Model, &self.files.models, &self.properties.models, &model_trees),
            (NodeKind::Seed, &self.files.seeds, &self.properties.seeds, &seed_trees),
        ];
        for (kind, texts, entries, trees) in kinds {
            let entries = self.entries(kind, entries, texts);
            self.warn_of_unused(trees, texts);
            for text in texts {
                let draft =
                    self.draft(kind, text, entries.get(stem(text).as_str()).copied(), trees);
                if !draft.config.enabled {
                    disabled.push(draft.id);
                    continue;
                }
                let location = Location::file(&draft.file);
                if let Some(first) = seen.get(draft.id.as_str()) {
                    let what = "model or seed";
                    self.findings.error(duplicate(what, draft.id.as_str(), first).at(location));
                    continue;
                }
                seen.insert(draft.id.to_string(), location);
                drafts.insert(draft.id.clone(), draft);
            }
        }
        disabled.retain(|id| !drafts.contains_key(id));
        self.check_relations(&drafts);
        let index = self.index(&drafts, disabled);
        let checks = self.checks(&drafts, &index, source_checks);
        let nodes = self.resolve(drafts, &index);
        Built { nodes, checks, index }
    }

    /// Entries of YAML files by name; those of no node are faults.
    fn entries<'e>(
        &self,
        kind: NodeKind,
        entries: &'e [Entry<ModelProps>],
        texts: &[Text],
    ) -> HashMap<&'e str, &'e Entry<ModelProps>> {
        let names: HashSet<String> = texts.iter().map(stem).collect();
        let word = match kind {
            NodeKind::Model => "model",
            NodeKind::Seed => "seed",
        };
        let mut by_name: HashMap<&str, &Entry<ModelProps>> = HashMap::new();
        for entry in entries {
            let name = entry.props.name.value.as_str();
            let location = entry.doc.location(entry.props.name.item);
            if !names.contains(name) {
                let error = Error::new(
                    code::REFERENCE,
                    format!("there is no {word} \"{name}\" for what is said of it"),
                )
                .at(location);
                let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
                sorted.sort_unstable();
                self.findings.error(match nearest(name, sorted) {
                    Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                    None => {
                        error.hint(format!("a {word}'s name is its file's, without the ending"))
                    }
                });
            } else if let Some(first) = by_name.get(name) {
                let first = first.doc.location(first.props.name.item);
                self.findings
                    .error(duplicate(&format!("entry for {word}"), name, &first).at(location));
            } else {
                by_name.insert(name, entry);
            }
        }
        by_name
    }

    fn warn_of_unused(&self, trees: &[ConfigTree], texts: &[Text]) {
        let fqns: Vec<Vec<String>> = texts.iter().map(fqn).collect();
        let fqns: Vec<Vec<&str>> =
            fqns.iter().map(|fqn| fqn.iter().map(String::as_str).collect()).collect();
        for tree in trees {
            for (folder, location) in tree.unused(&self.settings.name, &fqns) {
                self.findings
                    .warn(&location, &format!("settings of \"{folder}\" apply to nothing"));
            }
        }
    }

    fn draft<'t>(
        &self,
        kind: NodeKind,
        text: &'t Text,
        entry: Option<&'t Entry<ModelProps>>,
        trees: &[ConfigTree],
    ) -> Draft<'t> {
        let name = stem(text);
        let id = ModelId::new(name.clone());
        let file = slashed(&text.path);
        let location = Location::file(&file);
        let fqn = fqn(text);
        let fqn: Vec<&str> = fqn.iter().map(String::as_str).collect();
        let mut layers: Vec<Layer> = Vec::new();
        for tree in trees {
            tree.apply(&self.settings.name, &fqn, &mut layers);
        }
        if let Some(entry) = entry {
            layers.extend(self.entry_layers(entry));
        }
        let outside = config::merge(layers.clone());
        let mut captured = Captured::default();
        let off = outside.get("enabled").is_some_and(|(value, _)| {
            value.as_bool().or_else(|| value.as_str().and_then(crate::yaml::boolean)) == Some(false)
        });
        if kind == NodeKind::Model && !off {
            captured = self.parse(&id, text, &file, plain(&outside));
        }
        if !captured.config.is_empty() {
            let line = line_of_call(&text.text, "config", &[]);
            let at = Location::line(&file, line);
            let mut errors = Vec::new();
            layers.push(config::captured_layer(&captured.config, &at, &mut errors));
            self.findings.errors(errors);
        }
        let merged = config::merge(layers);
        let mut errors = Vec::new();
        let (mut config, types) = config::build(kind, &name, &merged, &location, &mut errors);
        self.findings.errors(errors);
        for (setting, connection) in [
            ("load", config.load.as_ref().and_then(|load| load.connection.as_ref())),
            ("export", config.export.as_ref().and_then(|export| export.connection.as_ref())),
        ] {
            if let Some(connection) = connection {
                let at = merged.get(setting).map_or_else(|| location.clone(), |(_, at)| at.clone());
                self.settings.connections.find(connection, at, self.findings);
            }
        }
        config.sinks.iter_mut().for_each(|sink| self.check_sink(&name, sink));
        let merged = plain(&merged);
        self.generate_names(&id, &file, &merged, &mut config);
        Draft { id, kind, text, file, entry, config, types, merged, captured }
    }

    /// The layers of a YAML entry: what stands beside `config:`, then what stands in it.
    fn entry_layers(&self, entry: &Entry<ModelProps>) -> Vec<Layer> {
        let reader = Reader::new(&entry.doc, &self.findings.errors);
        let mut beside = Layer::new();
        for (name, item) in [("tags", entry.props.tags), ("meta", entry.props.meta)] {
            if let Some(item) = item
                && let Some(json) = config::render(&reader, item, self.templates)
            {
                beside.insert(name.to_owned(), (json, entry.doc.location(item)));
            }
        }
        let mut layers = vec![beside];
        if let Some(item) = entry.props.config {
            layers.push(config::read_layer(&reader, item, self.templates));
        }
        layers
    }

    /// Renders a model to learn what it uses: as a first build, and once more as a later one, or
    /// without a batch, where that may differ.
    fn parse(&self, id: &ModelId, text: &Text, file: &str, config: JsonMap) -> Captured {
        let model = ModelScope {
            id: Some(id.clone()),
            name: id.to_string(),
            path: file.to_owned(),
            schema: self.settings.environment.schema.clone(),
            alias: id.to_string(),
            config,
        };
        let run = |incremental: bool, batch: bool| {
            let scope = Scope::new(
                Arc::clone(&self.templates.shared),
                Mode::Parse { incremental, batch },
                Some(model.clone()),
            );
            let rendered = self.templates.render(file, &text.text, &scope);
            rendered.map(|_| scope.captured())
        };
        let Some(mut captured) = self.findings.keep(run(false, true)) else {
            return Captured::default();
        };
        let mentions = |word: &str| {
            let in_macros = captured.macros.iter().any(|name| {
                self.templates.macros.get(name).is_some_and(|info| info.text.contains(word))
            });
            in_macros || text.text.contains(word)
        };
        let mut others = Vec::new();
        if mentions("is_incremental") {
            others.extend(self.findings.keep(run(true, true)));
        }
        if mentions("batch") {
            // A template that cannot do without a batch fails here, as it may.
            others.extend(run(false, false).ok());
        }
        for other in others {
            for call in other.refs {
                if !captured.refs.contains(&call) {
                    captured.refs.push(call);
                }
            }
            for call in other.sources {
                if !captured.sources.contains(&call) {
                    captured.sources.push(call);
                }
            }
            captured.macros.extend(other.macros);
            captured.vars.extend(other.vars);
            captured.env_vars.extend(other.env_vars);
        }
        captured
    }

    /// dbt's `generate_schema_name` and `generate_alias_name`, where the project has them.
    fn generate_names(&self, id: &ModelId, file: &str, merged: &JsonMap, config: &mut NodeConfig) {
        for (macro_name, field) in
            [("generate_schema_name", "schema"), ("generate_alias_name", "alias")]
        {
            if !self.templates.macros.contains_key(macro_name) {
                continue;
            }
            let model = ModelScope {
                id: Some(id.clone()),
                name: id.to_string(),
                path: file.to_owned(),
                schema: self.settings.environment.schema.clone(),
                alias: id.to_string(),
                config: merged.clone(),
            };
            let scope = Scope::new(
                Arc::clone(&self.templates.shared),
                Mode::Parse { incremental: false, batch: false },
                Some(model),
            );
            let text = format!("{{{{ {macro_name}(config.get('{field}'), model) }}}}");
            let Some(name) = self.findings.keep(self.templates.render(file, &text, &scope)) else {
                continue;
            };
            let name = name.trim();
            if !name.is_empty() {
                let target = if field == "schema" { &mut config.schema } else { &mut config.alias };
                *target = Some(name.to_owned());
            }
        }
    }

    /// Two nodes, or a node and a source, must not stand for one name in SQL.
    fn check_relations(&self, drafts: &BTreeMap<ModelId, Draft<'_>>) {
        let mut taken: HashMap<(String, String), Location> = HashMap::new();
        for source in self.sources.values() {
            taken.insert((source.source.clone(), source.table.clone()), source.location.clone());
        }
        for draft in drafts.values() {
            let location = Location::file(&draft.file);
            let (schema, alias) = self.relation(draft);
            for name in [&schema, &alias] {
                if !is_table_name(name) {
                    self.findings.error(
                        Error::new(
                            code::CONFIG,
                            format!("\"{name}\" is no name of a schema or table"),
                        )
                        .at(location.clone())
                        .hint("leave out slashes, control characters, a dot in front, and the names `_freshet` and `_delta_log`"),
                    );
                }
            }
            let key = (schema.clone(), alias.clone());
            if let Some(first) = taken.get(&key) {
                let name = format!("{schema}.{alias}");
                self.findings.error(duplicate("table", &name, first).at(location));
            } else {
                taken.insert(key, location);
            }
        }
    }

    fn relation(&self, draft: &Draft<'_>) -> (String, String) {
        let schema = draft.config.schema.clone();
        let alias = draft.config.alias.clone();
        (
            schema.unwrap_or_else(|| self.settings.environment.schema.clone()),
            alias.unwrap_or_else(|| draft.id.to_string()),
        )
    }

    fn index(&self, drafts: &BTreeMap<ModelId, Draft<'_>>, disabled: Vec<ModelId>) -> Index {
        let mut index = Index { disabled, ..Index::default() };
        for (id, draft) in drafts {
            let (schema, alias) = self.relation(draft);
            let event_time = draft.config.event_time.clone();
            index.models.insert(id.clone(), ModelEntry { schema, alias, event_time });
            let mut config = draft.merged.clone();
            if let Json::Object(built) = serde_json::to_value(&draft.config).unwrap_or_default() {
                for (key, value) in built {
                    if !value.is_null() {
                        config.entry(key).or_insert(value);
                    }
                }
            }
            index.configs.insert(id.clone(), config);
        }
        for (id, source) in self.sources {
            index.sources.insert(id.clone(), source.event_time.clone());
        }
        index
    }

    /// The checks of all nodes, and the tests that are files.
    fn checks(
        &self,
        drafts: &BTreeMap<ModelId, Draft<'_>>,
        index: &Index,
        mut all: Vec<Check>,
    ) -> Vec<Check> {
        for draft in drafts.values() {
            if let Some(entry) = draft.entry {
                self.node_checks(draft, entry, &mut all);
            }
        }
        self.singular_tests(index, &mut all);
        let mut names: HashMap<String, Location> = HashMap::new();
        for check in &all {
            match names.get(&check.name) {
                Some(first) => self.findings.error(
                    duplicate("check", &check.name, first).at(check.location.clone()).hint(
                        format!("the other one is at {first}: remove one, or give it a `name:`"),
                    ),
                ),
                None => drop(names.insert(check.name.clone(), check.location.clone())),
            }
            self.check_of_check(check, index);
        }
        all
    }

    fn node_checks(&self, draft: &Draft<'_>, entry: &Entry<ModelProps>, all: &mut Vec<Check>) {
        let reader = Reader::new(&entry.doc, &self.findings.errors);
        let target = CheckTarget::Node(draft.id.clone());
        let name = draft.id.as_str();
        let expression = format!("ref('{name}')");
        let kind = if draft.kind == NodeKind::Seed { "seeds" } else { "models" };
        let subject = Subject {
            target: &target,
            name,
            expression: &expression,
            column: None,
            defaults: self.defaults,
        };
        let path = format!("{kind}.{name}");
        let mut constraints = Vec::new();
        for list in [entry.props.tests, entry.props.data_tests].into_iter().flatten() {
            let path = format!("{path}.data_tests");
            all.extend(checks::read(&reader, list, &path, subject, self.templates));
        }
        if let Some(list) = entry.props.constraints {
            let path = format!("{path}.constraints");
            constraints.extend(checks::read_constraints(&reader, list, &path, subject));
        }
        for item in entry.props.columns.map_or(&[][..], |list| entry.doc.items(list)) {
            // Faults of the columns themselves are recorded where they are read as columns.
            let silent = Findings::default();
            let quiet = Reader::new(&entry.doc, &silent.errors);
            let Some(column) = quiet.read::<ColumnProps>(*item, "") else { continue };
            let subject = Subject { column: Some(&column.name.value), ..subject };
            let path = format!("{path}.columns.{}", column.name.value);
            for list in [column.tests, column.data_tests].into_iter().flatten() {
                let path = format!("{path}.data_tests");
                all.extend(checks::read(&reader, list, &path, subject, self.templates));
            }
            if let Some(list) = column.constraints {
                let path = format!("{path}.constraints");
                constraints.extend(checks::read_constraints(&reader, list, &path, subject));
            }
        }
        // A constraint may say again what a test or another constraint says.
        for constraint in constraints {
            if all.iter().all(|check| check.name != constraint.name) {
                all.push(constraint);
            }
        }
    }

    fn singular_tests(&self, index: &Index, all: &mut Vec<Check>) {
        let mut entries: HashMap<&str, _> = HashMap::new();
        for entry in &self.properties.singular_tests {
            entries.insert(entry.props.name.value.as_str(), entry);
        }
        for text in self.files.tests.iter().filter(|text| !text.is_generic) {
            let name = stem(text);
            let file = slashed(&text.path);
            let model = ModelScope {
                id: None,
                name: name.clone(),
                path: file.clone(),
                schema: self.settings.environment.schema.clone(),
                alias: name.clone(),
                config: JsonMap::new(),
            };
            let scope = Scope::new(
                Arc::clone(&self.templates.shared),
                Mode::Parse { incremental: false, batch: false },
                Some(model),
            );
            let rendered = self.templates.render(&file, &text.text, &scope);
            if self.findings.keep(rendered).is_none() {
                continue;
            }
            let captured = scope.captured();
            let mut settings = self.defaults.clone();
            if let Some(entry) = entries.remove(name.as_str())
                && let Some(item) = entry.props.config
            {
                let reader = Reader::new(&entry.doc, &self.findings.errors);
                let path = format!("data_tests.{name}.config");
                settings.set_all(item, &path, &reader, self.templates);
            }
            let at = Location::line(&file, line_of_call(&text.text, "config", &[]));
            let mut errors = Vec::new();
            settings.set_captured(&captured.config, &at, &mut errors);
            self.findings.errors(errors);
            if !settings.is_enabled() {
                continue;
            }
            let (nodes, sources) = self.references(&captured, index, &file, &text.text);
            let target = CheckTarget::Query { nodes, sources };
            let location = Location::line(&file, 1);
            all.push(settings.check(name, target, "sql", Some(text.text.clone()), location));
        }
        for (name, entry) in entries {
            self.findings.error(
                Error::new(
                    code::REFERENCE,
                    format!("there is no test \"{name}\" for what is said of it"),
                )
                .at(entry.doc.location(entry.props.name.item))
                .hint("a test's name is its file's, without `.sql`"),
            );
        }
    }

    /// References in a check's arguments must lead somewhere, and a project's own rule must render.
    fn check_of_check(&self, check: &Check, index: &Index) {
        if let Some(Json::String(to)) = check.arguments.get("to") {
            let result = match super::units::parse_reference(to) {
                Some((None, name)) => index.model(None, &name, &self.settings.name).map(drop),
                Some((Some(source), table)) => index.source(&source, &table).map(drop),
                None => Ok(()),
            };
            if let Err(error) = result {
                self.findings.error(error.at(check.location.clone()));
            }
        }
        if matches!(check.target, CheckTarget::Query { .. }) {
            return;
        }
        if let Some(raw) = &check.raw_sql {
            let model = ModelScope {
                id: None,
                name: check.name.clone(),
                path: check.location.file.clone(),
                schema: self.settings.environment.schema.clone(),
                alias: check.name.clone(),
                config: JsonMap::new(),
            };
            let scope = Scope::new(
                Arc::clone(&self.templates.shared),
                Mode::Parse { incremental: false, batch: false },
                Some(model),
            );
            if let Err(error) = self.templates.render("<check>", raw, &scope) {
                let in_check = error.location().is_none_or(|at| at.file == "<check>");
                if in_check {
                    let mut moved = Error::new(error.code(), error.chain());
                    if let Some(hint) = error.hint_text() {
                        moved = moved.hint(hint);
                    }
                    self.findings.error(moved.at(check.location.clone()));
                } else {
                    self.findings.error(error);
                }
            }
        }
    }

    /// What the calls of a template mean; calls that lead nowhere are recorded at their line.
    fn references(
        &self,
        captured: &Captured,
        index: &Index,
        file: &str,
        text: &str,
    ) -> (Vec<ModelId>, Vec<SourceId>) {
        let mut refs: Vec<ModelId> = Vec::new();
        for (package, name) in &captured.refs {
            match index.model(package.as_deref(), name, &self.settings.name) {
                Ok(id) if refs.contains(id) => {}
                Ok(id) => refs.push(id.clone()),
                Err(error) => {
                    let line = line_of_call(text, "ref", &[name]);
                    self.findings.error(error.at(Location::line(file, line)));
                }
            }
        }
        let mut sources: Vec<SourceId> = Vec::new();
        for (source, table) in &captured.sources {
            match index.source(source, table) {
                Ok(_) => sources.push(SourceId::of(source, table)),
                Err(error) => {
                    let line = line_of_call(text, "source", &[source, table]);
                    self.findings.error(error.at(Location::line(file, line)));
                }
            }
        }
        (refs, sources)
    }

    fn resolve(
        &self,
        drafts: BTreeMap<ModelId, Draft<'_>>,
        index: &Index,
    ) -> IndexMap<ModelId, Node> {
        let mut nodes: BTreeMap<ModelId, Node> = BTreeMap::new();
        for (id, draft) in drafts {
            let (refs, sources) =
                self.references(&draft.captured, index, &draft.file, &draft.text.text);
            let (description, columns) = self.described(&draft);
            let checksum = self.checksum(&draft, &columns);
            let node = Node {
                id: id.clone(),
                kind: draft.kind,
                path: draft.text.path.clone(),
                raw: draft.text.text.clone(),
                description,
                config: draft.config,
                columns,
                refs,
                sources,
                checksum,
            };
            nodes.insert(id, node);
        }
        let edges: BTreeMap<&ModelId, Vec<&ModelId>> =
            nodes.iter().map(|(id, node)| (id, node.refs.iter().collect())).collect();
        match graph::order(&edges) {
            Ok(order) => order
                .into_iter()
                .filter_map(|id| nodes.remove(&id).map(|node| (id, node)))
                .collect(),
            Err(circle) => {
                let names: Vec<&str> = circle.iter().map(ModelId::as_str).collect();
                let first = circle.first().and_then(|id| nodes.get(id));
                let at = first.map(|node| {
                    let line = circle
                        .get(1)
                        .map_or(0, |next| line_of_call(&node.raw, "ref", &[next.as_str()]));
                    Location::line(slashed(&node.path), line)
                });
                let mut error = Error::new(
                    code::CYCLE,
                    format!("models depend on each other in a circle: {}", names.join(" → ")),
                )
                .hint("a model's own table is `this`; otherwise take what both need into a third model");
                if let Some(at) = at {
                    error = error.at(at);
                }
                self.findings.error(error);
                nodes.into_iter().collect()
            }
        }
    }

    fn described(&self, draft: &Draft<'_>) -> (String, Vec<NodeColumn>) {
        let mut columns: Vec<NodeColumn> = Vec::new();
        let mut description = String::new();
        if let Some(entry) = draft.entry {
            let reader = Reader::new(&entry.doc, &self.findings.errors);
            let text = |text: &Option<Located<String>>| {
                text.as_ref()
                    .and_then(|text| {
                        let at = entry.doc.location(text.item);
                        self.findings.keep(self.templates.yaml(&at, &text.value))
                    })
                    .map_or_else(String::new, |value| match value {
                        Json::String(text) => text,
                        other => other.to_string(),
                    })
            };
            description = text(&entry.props.description);
            let word = if draft.kind == NodeKind::Seed { "seeds" } else { "models" };
            let path = format!("{word}.{}.columns", draft.id);
            for item in entry.props.columns.map_or(&[][..], |list| reader.list(list, &path)) {
                let path = entry.doc.entry_path(*item, &path);
                let Some(props) = reader.read::<ColumnProps>(*item, &path) else { continue };
                let mut data_type = None;
                if let Some(text) = &props.data_type {
                    match text.value.parse::<ColumnType>() {
                        Ok(found) => data_type = Some(found),
                        Err(message) => reader.error_at(
                            text.item,
                            Error::new(
                                code::CONFIG,
                                format!(
                                    "column \"{}\" of \"{}\": {message}",
                                    props.name.value, draft.id
                                ),
                            ),
                        ),
                    }
                }
                if columns.iter().any(|column| column.name == props.name.value) {
                    reader.error_at(
                        props.name.item,
                        Error::new(
                            code::DUPLICATE,
                            format!("\"{}\" has two columns \"{}\"", draft.id, props.name.value),
                        ),
                    );
                    continue;
                }
                columns.push(NodeColumn {
                    name: props.name.value,
                    description: text(&props.description),
                    data_type,
                });
            }
        }
        for (name, data_type) in &draft.types {
            match columns.iter_mut().find(|column| &column.name == name) {
                Some(column) => column.data_type = Some(data_type.clone()),
                None => columns.push(NodeColumn {
                    name: name.clone(),
                    description: String::new(),
                    data_type: Some(data_type.clone()),
                }),
            }
        }
        (description, columns)
    }

    /// Hash of everything that decides a node's result.
    fn checksum(&self, draft: &Draft<'_>, columns: &[NodeColumn]) -> String {
        let mut hasher = Sha256::new();
        let mut part = |label: &str, content: &str| {
            hasher.update(label.as_bytes());
            hasher.update((content.len() as u64).to_le_bytes());
            hasher.update(content.as_bytes());
        };
        part("raw", &draft.text.text);
        part("file", &draft.text.digest);
        part("config", &serde_json::to_string(&draft.config).unwrap_or_default());
        for column in columns.iter().filter(|column| column.data_type.is_some()) {
            part("column", &column.name);
            part("type", &column.data_type.as_ref().map(ToString::to_string).unwrap_or_default());
        }
        for name in &draft.captured.macros {
            part("macro", self.templates.macros.get(name).map_or("", |info| &info.text));
        }
        for (name, value) in &draft.captured.vars {
            part("var", name);
            part("value", &value.to_string());
        }
        for (name, value) in &draft.captured.env_vars {
            part("env_var", name);
            part("value", value);
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whether a folder of the lake can have this name: it is no path, and not one of the lake's own.
fn is_table_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !name.contains(char::is_control)
        && !["_freshet", "_delta_log"].iter().any(|own| name.eq_ignore_ascii_case(own))
}

fn plain(layer: &Layer) -> JsonMap {
    layer.iter().map(|(name, (value, _))| (name.clone(), value.clone())).collect()
}

/// The folders of a node below its root, then its name.
fn fqn(text: &Text) -> Vec<String> {
    let inside = text.path.strip_prefix(&text.root).unwrap_or(&text.path);
    inside
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect()
}
