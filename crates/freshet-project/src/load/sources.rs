//! Source tables: what a source says, then what its table says over it.

use std::sync::Arc;

use freshet_core::config::{HumanDuration, Share};
use freshet_core::error::code;
use freshet_core::{ColumnType, Constraint, Contract, ContractColumn, Error, SourceId};
use indexmap::IndexMap;
use serde_json::Value as Json;

use super::environment::Settings;
use super::properties::{Entry, Properties};
use super::{Findings, LoadOptions, duplicate, secrets};
use crate::checks::{self, CheckSettings, Subject};
use crate::model::{Check, CheckTarget, SourceTable, Watermark, WhenIdle};
use crate::props::{
    ConstraintKind, ConstraintProps, SourceColumnProps, SourceProps, TableProps, WatermarkProps,
};
use crate::render::Templates;
use crate::yaml::{Item, Located, Reader, Value};

const DEFAULT_MAX_BAD: Share = Share(0.05);
/// The connector of a table that names none and has a path.
const DEFAULT_CONNECTOR: &str = "files";

/// All source tables, by id, and their checks.
pub fn build(
    properties: &Properties,
    settings: &Settings,
    templates: &Templates,
    options: &LoadOptions<'_>,
    findings: &Findings,
    defaults: &CheckSettings,
) -> (IndexMap<SourceId, SourceTable>, Vec<Check>) {
    let mut tables: IndexMap<SourceId, SourceTable> = IndexMap::new();
    let mut checks = Vec::new();
    for entry in &properties.sources {
        let context = Context { entry, settings, templates, options, findings, defaults };
        for (item, table) in context.tables() {
            let Some(table) = context.table(item, table, &mut checks) else { continue };
            match tables.get(&table.id) {
                Some(first) => findings.error(
                    duplicate("source", table.id.as_str(), &first.location)
                        .at(table.location.clone()),
                ),
                None => {
                    tables.insert(table.id.clone(), table);
                }
            }
        }
    }
    tables.sort_keys();
    (tables, checks)
}

/// A name as an identifier of SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

struct Context<'a> {
    entry: &'a Entry<SourceProps>,
    settings: &'a Settings,
    templates: &'a Templates,
    options: &'a LoadOptions<'a>,
    findings: &'a Findings,
    defaults: &'a CheckSettings,
}

impl Context<'_> {
    fn reader(&self) -> Reader<'_> {
        Reader::new(&self.entry.doc, &self.findings.errors)
    }

    fn tables(&self) -> Vec<(Item, TableProps)> {
        let doc = &self.entry.doc;
        let source = &self.entry.props;
        if source.tables.is_none() {
            self.findings.error(
                Error::new(code::YAML, format!("source \"{}\" has no tables", source.name.value))
                    .at(doc.location(source.name.item))
                    .hint("list them under `tables:`, each with a `name`"),
            );
        }
        let reader = self.reader();
        let path = format!("sources.{}.tables", source.name.value);
        source.tables.map_or_else(Vec::new, |list| {
            reader
                .list(list, &path)
                .iter()
                .filter_map(|item| {
                    let path = self.entry.doc.entry_path(*item, &path);
                    Some((*item, reader.read(*item, &path)?))
                })
                .collect()
        })
    }

    fn table(&self, item: Item, table: TableProps, checks: &mut Vec<Check>) -> Option<SourceTable> {
        let reader = self.reader();
        let doc = &self.entry.doc;
        let source = &self.entry.props;
        let (source_config, config) = (source.config, table.config);
        if !self.enabled(source_config) || !self.enabled(config) {
            return None;
        }
        let id = SourceId::of(&source.name.value, &table.name.value);
        let location = doc.location(table.name.item);
        for name in [&source.name, &table.name] {
            if name.value.is_empty() || name.value.contains(['.', '"', '/']) {
                self.findings.error(
                    Error::new(
                        code::CONFIG,
                        format!("\"{}\" is no name of a source or table", name.value),
                    )
                    .at(doc.location(name.item))
                    .hint("leave out dots, slashes and quotes"),
                );
                return None;
            }
        }

        let mut options = Json::Object(serde_json::Map::new());
        let mut complete = true;
        for with in [source.with, table.with].into_iter().flatten() {
            if !matches!(doc.value(with), Value::Map(_)) {
                reader.error_at(
                    with,
                    Error::new(
                        code::YAML,
                        format!("field \"with\" of source \"{id}\" is no mapping"),
                    ),
                );
                complete = false;
                continue;
            }
            match self.options(with) {
                Some(json) => overlay(&mut options, json),
                None => complete = false,
            }
        }
        let connection = table.connection.as_ref().or(source.connection.as_ref());
        let connection = connection.and_then(|name| {
            let at = doc.location(name.item);
            self.settings.connections.find(&name.value, at, self.findings)
        });
        let connector = table.connector.as_ref().or(source.connector.as_ref());
        let connector = match connector {
            Some(connector) => Some(connector.value.clone()),
            None if options.get("path").is_some() => Some(DEFAULT_CONNECTOR.to_owned()),
            // What the connection is may depend on the environment.
            None if connection.is_some() => {
                connection.map(|connection| connection.connector.clone())
            }
            None if complete && (table.with.is_some() || source.with.is_some()) => {
                self.findings.error(
                    Error::new(
                        code::CONFIG,
                        format!("source \"{id}\" has options and no connector"),
                    )
                    .at(location.clone())
                    .hint("add `connector:`; files need a `path:` alone"),
                );
                None
            }
            None => None,
        };
        let connection = connection.map(|connection| connection.name.clone());
        if let (Some(connector), Some(validate), true) =
            (&connector, self.options.validate_connector, complete)
        {
            let place = table.with.or(source.with).unwrap_or(item);
            if let Err(error) = validate(connector, &options) {
                let place = table
                    .connector
                    .as_ref()
                    .or(source.connector.as_ref())
                    .filter(|_| !error.message().contains("option"))
                    .map_or(place, |connector| connector.item);
                self.findings.error(named(error, id.as_str()).at(doc.location(place)));
            }
        }

        let mut tags = self.tags(source.tags, source_config);
        for tag in self.tags(table.tags, config) {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        let contract_props = table.contract.unwrap_or_default();
        let contract = Contract {
            columns: self.columns(&id, table.columns, checks),
            modes: contract_props.over(source.contract.unwrap_or_default()),
            found: Vec::new(),
        };
        self.checks(&id, None, [table.tests, table.data_tests], checks);
        let event_time = table
            .event_time
            .as_ref()
            .map(|name| name.value.clone())
            .or_else(|| self.config_text(config, "event_time"))
            .or_else(|| source.event_time.as_ref().map(|name| name.value.clone()))
            .or_else(|| self.config_text(source_config, "event_time"));
        let description = self.text(table.description.as_ref().or(source.description.as_ref()));
        let max_bad = table.max_bad.or(source.max_bad);
        Some(SourceTable {
            source: source.name.value.clone(),
            table: table.name.value,
            description,
            connector,
            options,
            connection,
            contract: Arc::new(contract),
            max_bad: max_bad.map_or(DEFAULT_MAX_BAD, |max_bad| max_bad.share),
            stated_max_bad: max_bad,
            on_max_bad: table.on_max_bad.or(source.on_max_bad).unwrap_or_default(),
            settle: table
                .settle
                .or(source.settle)
                .unwrap_or(HumanDuration(std::time::Duration::ZERO)),
            on_changed: table.on_changed.or(source.on_changed).unwrap_or_default(),
            empty_files: table.empty_files.or(source.empty_files).unwrap_or_default(),
            expect_every: table.expect_every.or(source.expect_every),
            event_time,
            watermark: self.watermark(&id, table.watermark),
            primary_key: table.primary_key.unwrap_or_default(),
            tags,
            location,
            id,
        })
    }

    fn watermark(&self, id: &SourceId, item: Option<Item>) -> Option<Watermark> {
        let item = item?;
        let location = self.entry.doc.location(item);
        let props: WatermarkProps = self.reader().read(item, &format!("{id}.watermark"))?;
        if props.expr.is_some() && props.delay.is_some() {
            self.findings.error(
                Error::new(
                    code::CONFIG,
                    format!("the watermark of source \"{id}\" has both `as` and `delay`"),
                )
                .at(location)
                .hint("`delay: 5s` says the same as `as: column - interval '5' second`"),
            );
            return None;
        }
        let column = props.column.value;
        let expr = match (props.expr, props.delay) {
            (Some(expr), _) => expr.value,
            (None, None) => quoted(&column),
            (None, Some(delay)) => {
                format!("{} - interval '{} microseconds'", quoted(&column), delay.0.as_micros())
            }
        };
        let when_idle = props.when_idle.unwrap_or_default();
        if when_idle == WhenIdle::Advance && props.idle_after.is_none() {
            self.findings.error(
                Error::new(
                    code::CONFIG,
                    format!(
                        "the watermark of source \"{id}\" advances when idle, and is never idle"
                    ),
                )
                .at(location)
                .hint("say when with `idle_after: 30s`"),
            );
            return None;
        }
        Some(Watermark { column, expr, idle_after: props.idle_after, when_idle, location })
    }

    fn enabled(&self, config: Option<Item>) -> bool {
        let reader = self.reader();
        config
            .and_then(|config| self.entry.doc.get(config, "enabled"))
            .and_then(|item| crate::config::render(&reader, item, self.templates))
            .and_then(|value| {
                value.as_bool().or_else(|| value.as_str().and_then(crate::yaml::boolean))
            })
            .unwrap_or(true)
    }

    fn config_text(&self, config: Option<Item>, key: &str) -> Option<String> {
        let doc = &self.entry.doc;
        config.and_then(|config| doc.get(config, key)).and_then(|item| doc.scalar_text(item))
    }

    fn tags(&self, tags: Option<Item>, config: Option<Item>) -> Vec<String> {
        let doc = &self.entry.doc;
        let in_config = config.and_then(|config| doc.get(config, "tags"));
        [tags, in_config]
            .into_iter()
            .flatten()
            .flat_map(|item| match doc.value(item) {
                Value::Seq(items) => {
                    items.iter().filter_map(|item| doc.scalar_text(*item)).collect()
                }
                _ => doc.scalar_text(item).into_iter().collect::<Vec<_>>(),
            })
            .collect()
    }

    fn text(&self, text: Option<&Located<String>>) -> String {
        text.and_then(|text| {
            let location = self.entry.doc.location(text.item);
            self.findings.keep(self.templates.yaml(&location, &text.value))
        })
        .map_or_else(String::new, |value| match value {
            Json::String(text) => text,
            other => other.to_string(),
        })
    }

    /// Options with templates rendered and secrets resolved.
    fn options(&self, item: Item) -> Option<Json> {
        let doc = &self.entry.doc;
        let dir = &self.settings.dir;
        let result = doc.to_json(item, &mut |at, text| {
            let location = doc.location(at);
            match self.templates.yaml(&location, text)? {
                Json::String(text) => {
                    secrets::resolve(&text, dir, self.options.env, &location).map(Json::String)
                }
                other => Ok(other),
            }
        });
        self.findings.keep(result)
    }

    fn checks(
        &self,
        id: &SourceId,
        column: Option<&str>,
        lists: [Option<Item>; 2],
        checks: &mut Vec<Check>,
    ) {
        let reader = self.reader();
        let (source, table) = id.as_str().split_once('.').unwrap_or((id.as_str(), ""));
        let target = CheckTarget::Source(id.clone());
        let name = format!("{source}_{table}");
        let expression = format!("source('{source}', '{table}')");
        let subject = Subject {
            target: &target,
            name: &name,
            expression: &expression,
            column,
            defaults: self.defaults,
        };
        let path = match column {
            Some(column) => format!("sources.{id}.columns.{column}.data_tests"),
            None => format!("sources.{id}.data_tests"),
        };
        for list in lists.into_iter().flatten() {
            checks.extend(checks::read(&reader, list, &path, subject, self.templates));
        }
    }

    fn columns(
        &self,
        id: &SourceId,
        list: Option<Item>,
        checks: &mut Vec<Check>,
    ) -> Vec<ContractColumn> {
        let Some(list) = list else { return Vec::new() };
        let reader = self.reader();
        let path = format!("sources.{id}.columns");
        let mut columns: Vec<ContractColumn> = Vec::new();
        for item in reader.list(list, &path) {
            let path = self.entry.doc.entry_path(*item, &path);
            let Some(props) = reader.read::<SourceColumnProps>(*item, &path) else { continue };
            let name = props.name.value.clone();
            if columns.iter().any(|column| column.name.eq_ignore_ascii_case(&name)) {
                reader.error_at(
                    props.name.item,
                    Error::new(
                        code::DUPLICATE,
                        format!("source \"{id}\" has two columns \"{name}\""),
                    ),
                );
                continue;
            }
            self.checks(id, Some(&name), [props.tests, props.data_tests], checks);
            let data_type = match &props.data_type {
                None => ColumnType::Text,
                Some(text) => match text.value.parse::<ColumnType>() {
                    Ok(data_type) => data_type,
                    Err(message) => {
                        reader.error_at(
                            text.item,
                            Error::new(
                                code::CONFIG,
                                format!("column \"{name}\" of source \"{id}\": {message}"),
                            ),
                        );
                        continue;
                    }
                },
            };
            let mut column = ContractColumn::new(name, data_type);
            column.source_name = props.source_name;
            if let Some(format) = props.format {
                let is_time = matches!(
                    column.data_type,
                    ColumnType::Date
                        | ColumnType::Time
                        | ColumnType::Timestamp
                        | ColumnType::TimestampTz
                );
                let is_valid = chrono::format::StrftimeItems::new(&format.value)
                    .all(|item| !matches!(item, chrono::format::Item::Error));
                if !is_time {
                    reader.error_at(
                        format.item,
                        Error::new(
                            code::CONFIG,
                            format!(
                                "column \"{}\" of source \"{id}\" is {} and takes no format",
                                column.name, column.data_type
                            ),
                        )
                        .hint("only dates and times have one"),
                    );
                } else if !is_valid {
                    reader.error_at(
                        format.item,
                        Error::new(
                            code::CONFIG,
                            format!(
                                "format \"{}\" of column \"{}\" is no strftime pattern",
                                format.value, column.name
                            ),
                        )
                        .hint("for example `%d.%m.%Y`"),
                    );
                }
                column.format = Some(format.value);
            }
            if let Some(list) = props.constraints {
                self.constraints(id, &mut column, list, &path);
            }
            columns.push(column);
        }
        columns
    }

    fn constraints(&self, id: &SourceId, column: &mut ContractColumn, list: Item, path: &str) {
        let reader = self.reader();
        let doc = &self.entry.doc;
        let path = format!("{path}.constraints");
        for item in reader.list(list, &path) {
            let props = match doc.value(*item) {
                Value::Text(_) => reader.read(*item, &path).map(|kind| ConstraintProps {
                    kind,
                    value: None,
                    values: None,
                }),
                _ => reader.read::<ConstraintProps>(*item, &path),
            };
            let Some(props) = props else { continue };
            let wrong = |expected: &str| {
                reader.error_at(
                    props.value.or(props.values).unwrap_or(*item),
                    Error::new(
                        code::CONFIG,
                        format!(
                            "a constraint of column \"{}\" of source \"{id}\" needs {expected}",
                            column.name
                        ),
                    ),
                );
            };
            let is_text = column.data_type == ColumnType::Text;
            let scalar = || props.value.and_then(|value| doc.scalar_text(value));
            let length = || scalar().and_then(|text| text.parse::<u32>().ok());
            let constraint = match props.kind {
                ConstraintKind::NotNull => {
                    column.nullable = false;
                    continue;
                }
                ConstraintKind::Min | ConstraintKind::Max => match scalar() {
                    Some(bound) if is_bound(&column.data_type, &bound) => {
                        if props.kind == ConstraintKind::Min {
                            Constraint::Min(bound)
                        } else {
                            Constraint::Max(bound)
                        }
                    }
                    _ => {
                        wrong(&format!("a `value` of type {}", column.data_type));
                        continue;
                    }
                },
                ConstraintKind::AcceptedValues => {
                    let values: Vec<String> =
                        props.values.or(props.value).map_or_else(Vec::new, |list| {
                            doc.items(list)
                                .iter()
                                .filter_map(|item| doc.scalar_text(*item))
                                .collect()
                        });
                    if values.is_empty() {
                        wrong("a list of `values`");
                        continue;
                    }
                    Constraint::AcceptedValues(values)
                }
                ConstraintKind::Regex => match scalar() {
                    Some(pattern) if is_text => match regex::Regex::new(&pattern) {
                        Ok(_) => Constraint::Regex(pattern),
                        Err(_) => {
                            wrong("a regular expression that can be read");
                            continue;
                        }
                    },
                    Some(_) => {
                        wrong("a column of type text");
                        continue;
                    }
                    None => {
                        wrong("a regular expression as `value`");
                        continue;
                    }
                },
                ConstraintKind::MinLength | ConstraintKind::MaxLength => match length() {
                    Some(length) if is_text => {
                        if props.kind == ConstraintKind::MinLength {
                            Constraint::MinLength(length)
                        } else {
                            Constraint::MaxLength(length)
                        }
                    }
                    Some(_) => {
                        wrong("a column of type text");
                        continue;
                    }
                    None => {
                        wrong("a number of characters as `value`");
                        continue;
                    }
                },
            };
            column.constraints.push(constraint);
        }
    }
}

/// Whether `text` can bound values of the type.
fn is_bound(data_type: &ColumnType, text: &str) -> bool {
    let text = text.trim();
    match data_type {
        ColumnType::Boolean | ColumnType::Binary => false,
        ColumnType::Int8 | ColumnType::Int16 | ColumnType::Int32 | ColumnType::Int64 => {
            text.parse::<i64>().is_ok()
        }
        ColumnType::Float32 | ColumnType::Float64 | ColumnType::Decimal { .. } => {
            text.parse::<f64>().is_ok_and(f64::is_finite)
        }
        ColumnType::Text => true,
        ColumnType::Date | ColumnType::Timestamp | ColumnType::TimestampTz => {
            crate::config::parse_moment(text).is_some()
                || chrono::DateTime::parse_from_rfc3339(text).is_ok()
        }
        ColumnType::Time => text.parse::<chrono::NaiveTime>().is_ok(),
    }
}

/// `above` put over `below`, mapping by mapping.
fn overlay(below: &mut Json, above: Json) {
    match (below, above) {
        (Json::Object(below), Json::Object(above)) => {
            for (key, value) in above {
                overlay(below.entry(key).or_insert(Json::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

/// A connector's error with the source named.
fn named(error: Error, id: &str) -> Error {
    let mut named = Error::new(error.code(), format!("source \"{id}\": {}", error.chain()));
    if let Some(hint) = error.hint_text() {
        named = named.hint(hint);
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_table_go_over_those_of_its_source() {
        let mut below = serde_json::json!({"path": "a", "format": {"type": "csv", "header": true}});
        overlay(&mut below, serde_json::json!({"format": {"header": false}, "more": 1}));
        assert_eq!(
            below,
            serde_json::json!({"path": "a", "format": {"type": "csv", "header": false}, "more": 1})
        );
    }

    #[test]
    fn bounds_are_of_the_columns_type() {
        for (data_type, text, expect) in [
            (ColumnType::Int32, "0", true),
            (ColumnType::Int32, "x", false),
            (ColumnType::Date, "2026-01-31", true),
            (ColumnType::Date, "2026-02-31", false),
            (ColumnType::Decimal { precision: 12, scale: 2 }, "-1.50", true),
            (ColumnType::Boolean, "true", false),
        ] {
            assert_eq!(is_bound(&data_type, text), expect, "{data_type} {text}");
        }
    }

    #[test]
    fn contract_modes_fall_back_to_the_source() {
        use crate::props::ContractProps;
        use freshet_core::ContractMode::{DiscardRow, Evolve, Freeze};
        let source = ContractProps { new_columns: Some(Freeze), ..ContractProps::default() };
        let table = ContractProps { missing_columns: Some(DiscardRow), ..ContractProps::default() };
        let modes = table.over(source);
        assert_eq!((modes.new_columns, modes.missing_columns), (Freeze, DiscardRow));
        assert_eq!(ContractProps::default().over(ContractProps::default()).new_columns, Evolve);
    }
}
