//! Settings of models and seeds: merged from the project file's folders, the YAML beside a model
//! and `config()`, the nearest last; then read into [`NodeConfig`].

use chrono::{NaiveDate, NaiveDateTime};
use freshet_core::config::nearest;
use freshet_core::error::code;
use freshet_core::{ColumnType, Error, Location};
use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::dbt;
use crate::model::{IncrementalStrategy, Materialized, NodeConfig, NodeKind};
use crate::render::Templates;
use crate::yaml::{Doc, Item, Key, Reader, Value};

/// Every setting that has an effect.
pub const NAMES: &[&str] = &[
    "alias",
    "batch_size",
    "begin",
    "column_types",
    "delimiter",
    "enabled",
    "event_time",
    "export",
    "full_refresh",
    "incremental_strategy",
    "load",
    "lookback",
    "materialized",
    "meta",
    "on_schema_change",
    "partition_by",
    "schema",
    "sinks",
    "state_ttl",
    "tags",
    "unique_key",
];

/// Settings with mappings as values, which are no folders where they stand without a `+`.
const MAPPINGS: &[&str] = &[
    "column_types",
    "contract",
    "docs",
    "export",
    "grants",
    "labels",
    "load",
    "meta",
    "partition_by",
    "persist_docs",
    "tblproperties",
];

/// Settings by name, each with its place.
pub type Layer = IndexMap<String, (Json, Location)>;

fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
        || dbt::IGNORED_CONFIG.contains(&name)
        || dbt::UNSUPPORTED_CONFIG.contains(&name)
}

/// The error of a setting that does not exist.
fn unknown(name: &str, location: Location) -> Error {
    let error = Error::new(code::YAML, format!("unknown setting \"{name}\"")).at(location);
    match nearest(name, NAMES.iter().copied()) {
        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
        None => error.hint(format!(
            "settings are {}; anything else belongs under `meta:`",
            NAMES.join(", ")
        )),
    }
}

/// The settings of the project file, by folder.
#[derive(Debug, Default)]
pub struct ConfigTree {
    settings: Layer,
    folders: IndexMap<String, (ConfigTree, Location)>,
}

impl ConfigTree {
    /// Reads `models:` or `seeds:` of a project file.
    pub fn read(reader: &Reader<'_>, item: Item, templates: &Templates) -> Self {
        let mut tree = Self::default();
        let doc = reader.doc;
        if !matches!(doc.value(item), Value::Map(_) | Value::Null) {
            reader.error_at(
                item,
                Error::new(
                    code::YAML,
                    format!("{} where folders and settings are expected", doc.value(item).kind()),
                ),
            );
        }
        for (key, value) in doc.entries(item) {
            match setting_name(doc, key, *value) {
                Some(name) if is_known(name) => {
                    if let Some(json) = render(reader, *value, templates) {
                        tree.settings.insert(name.to_owned(), (json, doc.location(*value)));
                    }
                }
                Some(name) => reader.error(unknown(name, doc.key_location(key))),
                None => {
                    let folder = Self::read(reader, *value, templates);
                    tree.folders.insert(key.name.clone(), (folder, doc.key_location(key)));
                }
            }
        }
        tree
    }

    /// Adds what the tree says of a node, from the whole project to the node itself.
    pub fn apply(&self, project: &str, fqn: &[&str], layers: &mut Vec<Layer>) {
        layers.push(self.settings.clone());
        // The project's own name is a level of dbt's trees; the folders may also stand without it.
        if let Some((tree, _)) = self.folders.get(project)
            && fqn.first() != Some(&project)
        {
            tree.apply("", fqn, layers);
        }
        if let Some((first, rest)) = fqn.split_first()
            && let Some((tree, _)) = self.folders.get(*first)
        {
            tree.apply("", rest, layers);
        }
    }

    /// Folders that no node is in, with their places.
    pub fn unused(&self, project: &str, fqns: &[Vec<&str>]) -> Vec<(String, Location)> {
        let mut unused = Vec::new();
        for (name, (tree, location)) in &self.folders {
            if name == project {
                unused.extend(tree.unused("", fqns));
                continue;
            }
            let inside: Vec<Vec<&str>> = fqns
                .iter()
                .filter(|fqn| fqn.first() == Some(&name.as_str()))
                .map(|fqn| fqn[1..].to_vec())
                .collect();
            if inside.is_empty() {
                unused.push((name.clone(), location.clone()));
            } else {
                unused.extend(tree.unused("", &inside));
            }
        }
        unused
    }
}

/// The setting that a key of a tree means; `None` for a folder.
fn setting_name<'k>(doc: &Doc, key: &'k Key, value: Item) -> Option<&'k str> {
    if let Some(name) = key.name.strip_prefix('+') {
        return Some(name);
    }
    let is_mapping = matches!(doc.value(value), Value::Map(_));
    if is_mapping && !MAPPINGS.contains(&key.name.as_str()) {
        return None;
    }
    // `staging:` with nothing behind it is an empty folder.
    if matches!(doc.value(value), Value::Null) && !is_known(&key.name) {
        return None;
    }
    Some(&key.name)
}

/// An item as JSON, its templates rendered; faults are recorded.
pub fn render(reader: &Reader<'_>, item: Item, templates: &Templates) -> Option<Json> {
    let doc = reader.doc;
    doc.to_json(item, &mut |at, text| templates.yaml(&doc.location(at), text))
        .map_err(|error| reader.error(error))
        .ok()
}

/// The settings of a `config:` block.
pub fn read_layer(reader: &Reader<'_>, item: Item, templates: &Templates) -> Layer {
    let doc = reader.doc;
    let mut layer = Layer::new();
    if !matches!(doc.value(item), Value::Map(_) | Value::Null) {
        reader.error_at(
            item,
            Error::new(
                code::YAML,
                format!("{} where settings are expected", doc.value(item).kind()),
            ),
        );
    }
    for (key, value) in doc.entries(item) {
        let name = key.name.strip_prefix('+').unwrap_or(&key.name);
        if !is_known(name) {
            reader.error(unknown(name, doc.key_location(key)));
        } else if let Some(json) = render(reader, *value, templates) {
            layer.insert(name.to_owned(), (json, doc.location(*value)));
        }
    }
    layer
}

/// The settings that `config()` was called with.
pub fn captured_layer(
    settings: &[(String, Json)],
    location: &Location,
    errors: &mut Vec<Error>,
) -> Layer {
    let mut layer = Layer::new();
    for (name, value) in settings {
        if is_known(name) {
            layer.insert(name.clone(), (value.clone(), location.clone()));
        } else {
            errors.push(unknown(name, location.clone()));
        }
    }
    layer
}

/// Puts layers over each other: `tags` and `meta` add up, anything else is replaced.
pub fn merge(layers: Vec<Layer>) -> Layer {
    let mut merged = Layer::new();
    for layer in layers {
        for (name, (value, location)) in layer {
            let value = match (name.as_str(), merged.get(&name), value) {
                ("tags", Some((below, _)), value) => {
                    let mut tags = texts(below);
                    for tag in texts(&value) {
                        if !tags.contains(&tag) {
                            tags.push(tag);
                        }
                    }
                    Json::from(tags)
                }
                ("meta", Some((Json::Object(below), _)), Json::Object(above)) => {
                    let mut meta = below.clone();
                    meta.extend(above);
                    Json::Object(meta)
                }
                (_, _, value) => value,
            };
            merged.insert(name, (value, location));
        }
    }
    merged
}

/// A text or a list of texts.
fn texts(value: &Json) -> Vec<String> {
    match value {
        Json::String(text) => vec![text.clone()],
        Json::Array(items) => items.iter().flat_map(texts).collect(),
        Json::Number(number) => vec![number.to_string()],
        _ => Vec::new(),
    }
}

struct Settings<'a> {
    layer: &'a Layer,
    what: &'a str,
    errors: &'a mut Vec<Error>,
}

impl Settings<'_> {
    fn wrong(&mut self, name: &str, expected: &str) {
        let Some((value, location)) = self.layer.get(name) else { return };
        self.errors.push(
            Error::new(
                code::CONFIG,
                format!("setting \"{name}\" of {} is {value}, which is not {expected}", self.what),
            )
            .at(location.clone()),
        );
    }

    fn value(&self, name: &str) -> Option<&Json> {
        self.layer.get(name).map(|(value, _)| value).filter(|value| !value.is_null())
    }

    fn bool(&mut self, name: &str) -> Option<bool> {
        match self.value(name)? {
            Json::Bool(value) => Some(*value),
            Json::String(text) if crate::yaml::boolean(text).is_some() => {
                crate::yaml::boolean(text)
            }
            _ => {
                self.wrong(name, "true or false");
                None
            }
        }
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match self.value(name)? {
            Json::String(text) if !text.is_empty() => Some(text.clone()),
            _ => {
                self.wrong(name, "text");
                None
            }
        }
    }

    fn number(&mut self, name: &str) -> Option<u32> {
        let value = self.value(name)?.as_u64().and_then(|value| u32::try_from(value).ok());
        if value.is_none() {
            self.wrong(name, "a whole number");
        }
        value
    }

    fn texts(&mut self, name: &str) -> Vec<String> {
        let Some(value) = self.value(name).cloned() else { return Vec::new() };
        match &value {
            Json::String(_) => texts(&value),
            Json::Array(items) if items.iter().all(|item| item.is_string() || item.is_number()) => {
                texts(&value)
            }
            _ => {
                self.wrong(name, "text or a list of texts");
                Vec::new()
            }
        }
    }

    /// A word of a fixed set, or a mapping of fixed fields.
    fn typed<T: DeserializeOwned>(&mut self, name: &str, words: &[&str]) -> Option<T> {
        let value = self.value(name)?.clone();
        match serde_json::from_value(value.clone()) {
            Ok(value) => Some(value),
            Err(error) => {
                let location = self.layer.get(name).map(|(_, location)| location.clone());
                let message = if words.is_empty() {
                    format!("setting \"{name}\" of {} is wrong: {error}", self.what)
                } else {
                    format!(
                        "setting \"{name}\" of {} is {value}, which is none of {}",
                        self.what,
                        words.join(", ")
                    )
                };
                let mut wrong = Error::new(code::CONFIG, message);
                if let Some(location) = location {
                    wrong = wrong.at(location);
                }
                if let Some(near) =
                    value.as_str().and_then(|text| nearest(text, words.iter().copied()))
                {
                    wrong = wrong.hint(format!("did you mean \"{near}\"?"));
                }
                self.errors.push(wrong);
                None
            }
        }
    }
}

/// The settings of a node and, for seeds, the types of columns.
pub fn build(
    kind: NodeKind,
    name: &str,
    layer: &Layer,
    file: &Location,
    errors: &mut Vec<Error>,
) -> (NodeConfig, IndexMap<String, ColumnType>) {
    let what = match kind {
        NodeKind::Model => format!("model \"{name}\""),
        NodeKind::Seed => format!("seed \"{name}\""),
    };
    for name in dbt::UNSUPPORTED_CONFIG {
        if let Some((value, location)) = layer.get(*name)
            && !value.is_null()
            && value != &Json::Array(Vec::new())
        {
            errors.push(
                Error::new(
                    code::CONFIG,
                    format!("setting \"{name}\" of {what} is not there in Freshet"),
                )
                .at(location.clone())
                .hint("leave it out: without it the result would be another"),
            );
        }
    }
    let mut settings = Settings { layer, what: &what, errors };
    let materialized = match kind {
        NodeKind::Seed => Materialized::Seed,
        NodeKind::Model => settings
            .typed("materialized", &["view", "table", "incremental", "ephemeral", "stream"])
            .unwrap_or_default(),
    };
    let mut config = NodeConfig {
        materialized,
        enabled: settings.bool("enabled").unwrap_or(true),
        alias: settings.text("alias"),
        schema: settings.text("schema"),
        tags: settings.texts("tags"),
        unique_key: settings.texts("unique_key"),
        incremental_strategy: settings.typed(
            "incremental_strategy",
            &["append", "merge", "delete+insert", "insert_overwrite", "microbatch"],
        ),
        on_schema_change: settings
            .typed(
                "on_schema_change",
                &["ignore", "fail", "append_new_columns", "sync_all_columns"],
            )
            .unwrap_or_default(),
        partition_by: partition_by(&mut settings),
        event_time: settings.text("event_time"),
        batch_size: settings.typed("batch_size", &["hour", "day", "month", "year"]),
        begin: begin(&mut settings),
        lookback: settings.number("lookback").unwrap_or(1),
        full_refresh: settings.bool("full_refresh"),
        load: load(&mut settings),
        export: settings.typed("export", &[]),
        sinks: sinks(&mut settings),
        state_ttl: settings.typed("state_ttl", &[]),
        delimiter: delimiter(&mut settings),
        meta: match settings.value("meta") {
            Some(Json::Object(meta)) => meta.clone(),
            Some(_) => {
                settings.wrong("meta", "a mapping");
                serde_json::Map::new()
            }
            None => serde_json::Map::new(),
        },
    };
    if kind == NodeKind::Model && config.materialized == Materialized::Seed {
        config.materialized = Materialized::Table;
        settings.wrong("materialized", "how a model is kept");
    }
    let types = column_types(&mut settings);
    if config.enabled {
        consistent(&config, &what, layer, file, errors);
    }
    (config, types)
}

/// Settings that need each other.
fn consistent(
    config: &NodeConfig,
    what: &str,
    layer: &Layer,
    file: &Location,
    errors: &mut Vec<Error>,
) {
    let place =
        |name: &str| layer.get(name).map_or_else(|| file.clone(), |(_, location)| location.clone());
    if config.materialized != Materialized::Stream && !config.sinks.is_empty() {
        errors.push(
            Error::new(code::CONFIG, format!("{what} has sinks and is no stream"))
                .at(place("sinks"))
                .hint("add `materialized='stream'`; other models have `load` and `export`"),
        );
    }
    if config.materialized != Materialized::Stream && config.state_ttl.is_some() {
        errors.push(
            Error::new(code::CONFIG, format!("{what} has a state_ttl and is no stream"))
                .at(place("state_ttl"))
                .hint("add `materialized='stream'`, or leave it out"),
        );
    }
    if config.materialized != Materialized::Incremental {
        return;
    }
    let mut needs = |name: &str, given: bool, why: &str, example: &str| {
        if !given {
            errors.push(
                Error::new(code::CONFIG, format!("{what} needs a setting \"{name}\": {why}"))
                    .at(place("incremental_strategy"))
                    .hint(format!("for example `{example}`")),
            );
        }
    };
    match config.strategy() {
        IncrementalStrategy::Append => {}
        IncrementalStrategy::Merge | IncrementalStrategy::DeleteInsert => needs(
            "unique_key",
            !config.unique_key.is_empty(),
            "rows replace those with the same key",
            "unique_key='id'",
        ),
        IncrementalStrategy::InsertOverwrite => needs(
            "partition_by",
            !config.partition_by.is_empty(),
            "whole partitions are replaced",
            "partition_by=['sale_date']",
        ),
        IncrementalStrategy::Microbatch => {
            let why = "a batch is a span of event time";
            needs("event_time", config.event_time.is_some(), why, "event_time='sale_date'");
            needs("batch_size", config.batch_size.is_some(), why, "batch_size='day'");
            needs("begin", config.begin.is_some(), why, "begin='2026-01-01'");
        }
    }
}

fn partition_by(settings: &mut Settings<'_>) -> Vec<String> {
    match settings.value("partition_by") {
        // dbt's BigQuery shape: `{field: day, data_type: date}`.
        Some(Json::Object(map)) => match map.get("field") {
            Some(Json::String(field)) => vec![field.clone()],
            _ => {
                settings.wrong("partition_by", "a column or a list of columns");
                Vec::new()
            }
        },
        _ => settings.texts("partition_by"),
    }
}

fn begin(settings: &mut Settings<'_>) -> Option<NaiveDateTime> {
    let text = settings.text("begin")?;
    let begin = parse_moment(&text);
    if begin.is_none() {
        settings.wrong("begin", "a date or timestamp such as 2026-01-01");
    }
    begin
}

/// A date or timestamp in ISO 8601, in UTC.
pub fn parse_moment(text: &str) -> Option<NaiveDateTime> {
    let text = text.trim().trim_end_matches('Z');
    if let Ok(date) = text.parse::<NaiveDate>() {
        return date.and_hms_opt(0, 0, 0);
    }
    let text = text.replacen(' ', "T", 1);
    text.parse::<NaiveDateTime>()
        .or_else(|_| NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M"))
        .ok()
}

fn load(settings: &mut Settings<'_>) -> Option<crate::model::LoadConfig> {
    match settings.value("load")? {
        Json::Bool(false) => None,
        Json::Bool(true) => {
            Some(crate::model::LoadConfig { connection: None, table: None, mode: None })
        }
        _ => settings.typed("load", &[]),
    }
}

fn sinks(settings: &mut Settings<'_>) -> Vec<crate::model::SinkConfig> {
    match settings.layer.get("sinks") {
        Some((value, location)) if !value.is_null() => {
            crate::sinks::read(value, settings.what, location, settings.errors)
        }
        _ => Vec::new(),
    }
}

fn delimiter(settings: &mut Settings<'_>) -> Option<char> {
    let text = settings.text("delimiter")?;
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(delimiter), None) => Some(delimiter),
        _ => {
            settings.wrong("delimiter", "one character");
            None
        }
    }
}

fn column_types(settings: &mut Settings<'_>) -> IndexMap<String, ColumnType> {
    let mut types = IndexMap::new();
    match settings.value("column_types").cloned() {
        Some(Json::Object(map)) => {
            for (column, value) in map {
                match value.as_str().map(str::parse::<ColumnType>) {
                    Some(Ok(data_type)) => {
                        types.insert(column, data_type);
                    }
                    Some(Err(message)) => {
                        let location = settings.layer.get("column_types").map(|(_, at)| at.clone());
                        let mut error = Error::new(
                            code::CONFIG,
                            format!("column \"{column}\" of {}: {message}", settings.what),
                        );
                        if let Some(location) = location {
                            error = error.at(location);
                        }
                        settings.errors.push(error);
                    }
                    None => settings.wrong("column_types", "a mapping of columns to types"),
                }
            }
        }
        Some(_) => settings.wrong("column_types", "a mapping of columns to types"),
        None => {}
    }
    types
}
