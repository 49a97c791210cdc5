//! Declared checks: dbt's shapes and dbt's names.

use freshet_core::config::{Share, nearest};
use freshet_core::error::code;
use freshet_core::{Error, Location};
use serde_json::Value as Json;

use crate::config::render;
use crate::model::{Check, CheckTarget, OnFail, Threshold};
use crate::render::Templates;
use crate::yaml::{Item, Located, Reader, Value};

type JsonMap = serde_json::Map<String, Json>;

/// Failing rows that are shown where nothing is said.
const DEFAULT_LIMIT: usize = 10;

/// Settings of a check, as far as they are given.
#[derive(Debug, Clone, Default)]
pub struct CheckSettings {
    where_sql: Option<String>,
    mostly: Option<Share>,
    warns: Option<bool>,
    error_if: Option<Threshold>,
    warn_if: Option<Threshold>,
    on_fail: Option<OnFail>,
    limit: Option<u32>,
    enabled: Option<bool>,
}

const SETTINGS: &[&str] = &[
    "enabled", "error_if", "limit", "meta", "mostly", "on_fail", "severity", "tags", "warn_if",
    "where",
];

/// dbt's settings of tests that change nothing here.
const IGNORED: &[&str] =
    &["alias", "database", "fail_calc", "group", "schema", "store_failures", "store_failures_as"];

impl CheckSettings {
    /// Takes over a setting; `false` where `key` is none.
    fn set(&mut self, key: &str, item: Item, reader: &Reader<'_>, templates: &Templates) -> bool {
        let text = |reader: &Reader<'_>| {
            let found = reader.doc.scalar_text(item)?;
            match templates.yaml(&reader.doc.location(item), &found) {
                Ok(Json::String(text)) => Some(text),
                Ok(other) => Some(other.to_string()),
                Err(error) => {
                    reader.error(error);
                    None
                }
            }
        };
        let threshold = |reader: &Reader<'_>| {
            let text = text(reader)?;
            match parse_threshold(&text) {
                Some(threshold) => Some(threshold),
                None => {
                    reader.error_at(
                        item,
                        Error::new(code::CONFIG, format!("\"{text}\" is no bound for \"{key}\""))
                            .hint("write it as \">10\" or \"!= 0\""),
                    );
                    None
                }
            }
        };
        match key {
            "where" => self.where_sql = text(reader).filter(|text| !text.trim().is_empty()),
            "mostly" => self.mostly = reader.read(item, key),
            "severity" => match text(reader).unwrap_or_default().to_ascii_lowercase().as_str() {
                "warn" => self.warns = Some(true),
                "error" => self.warns = Some(false),
                other => reader.error_at(
                    item,
                    Error::new(
                        code::CONFIG,
                        format!("severity \"{other}\" is neither error nor warn"),
                    ),
                ),
            },
            "error_if" => self.error_if = threshold(reader),
            "warn_if" => self.warn_if = threshold(reader),
            "on_fail" => self.on_fail = reader.read(item, key),
            "limit" => self.limit = reader.read(item, key),
            "enabled" => {
                self.enabled = match render(reader, item, templates) {
                    Some(Json::Bool(enabled)) => Some(enabled),
                    Some(Json::String(text)) if crate::yaml::boolean(&text).is_some() => {
                        crate::yaml::boolean(&text)
                    }
                    Some(_) => reader.read(item, key),
                    None => None,
                }
            }
            "tags" | "meta" => {}
            _ => return IGNORED.contains(&key),
        }
        true
    }

    /// Takes over what a `config:` block says.
    pub fn set_all(&mut self, item: Item, path: &str, reader: &Reader<'_>, templates: &Templates) {
        if !matches!(reader.doc.value(item), Value::Map(_) | Value::Null) {
            reader.error_at(
                item,
                Error::new(
                    code::YAML,
                    format!("{} where settings are expected", reader.doc.value(item).kind()),
                ),
            );
        }
        for (key, value) in reader.doc.entries(item) {
            if !self.set(&key.name, *value, reader, templates) {
                reader.unknown_field(key, path, SETTINGS.iter().copied());
            }
        }
    }

    /// Takes over what a project file says of all checks: settings with a `+`, those below the
    /// project's name last. Folders of tests have no settings of their own.
    pub fn set_defaults(
        &mut self,
        item: Item,
        project: &str,
        reader: &Reader<'_>,
        templates: &Templates,
    ) -> Vec<(String, Location)> {
        let mut left_out = Vec::new();
        let mut own = None;
        for (key, value) in reader.doc.entries(item) {
            let is_mapping = matches!(reader.doc.value(*value), Value::Map(_));
            let name = key.name.strip_prefix('+').unwrap_or(&key.name);
            if key.name == project && is_mapping {
                own = Some(*value);
            } else if is_mapping && !matches!(name, "meta") {
                left_out.push((key.name.clone(), reader.doc.key_location(key)));
            } else if !self.set(name, *value, reader, templates) {
                reader.unknown_field(key, "data-tests", SETTINGS.iter().copied());
            }
        }
        if let Some(own) = own {
            left_out.extend(self.set_defaults(own, "", reader, templates));
        }
        left_out
    }

    /// Takes over what `config()` of a singular test says.
    pub fn set_captured(
        &mut self,
        settings: &[(String, Json)],
        location: &Location,
        errors: &mut Vec<Error>,
    ) {
        for (key, value) in settings {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let mut wrong = || {
                errors.push(
                    Error::new(code::CONFIG, format!("setting \"{key}\" of the test is {value}"))
                        .at(location.clone())
                        .hint("see the reference of checks for what it may be"),
                );
            };
            match key.as_str() {
                "severity" => match text.to_ascii_lowercase().as_str() {
                    "warn" => self.warns = Some(true),
                    "error" => self.warns = Some(false),
                    _ => wrong(),
                },
                "error_if" => match parse_threshold(&text) {
                    Some(threshold) => self.error_if = Some(threshold),
                    None => wrong(),
                },
                "warn_if" => match parse_threshold(&text) {
                    Some(threshold) => self.warn_if = Some(threshold),
                    None => wrong(),
                },
                "limit" => match text.parse() {
                    Ok(limit) => self.limit = Some(limit),
                    Err(_) => wrong(),
                },
                "enabled" => match value.as_bool() {
                    Some(enabled) => self.enabled = Some(enabled),
                    None => wrong(),
                },
                "on_fail" => match serde_json::from_value(value.clone()) {
                    Ok(on_fail) => self.on_fail = Some(on_fail),
                    Err(_) => wrong(),
                },
                "tags" | "meta" => {}
                _ if IGNORED.contains(&key.as_str()) => {}
                _ => {
                    let error =
                        Error::new(code::YAML, format!("unknown setting \"{key}\" of a test"))
                            .at(location.clone());
                    errors.push(match nearest(key, SETTINGS.iter().copied()) {
                        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                        None => error.hint(format!("settings are {}", SETTINGS.join(", "))),
                    });
                }
            }
        }
    }

    /// Whether the check is run at all.
    pub fn is_enabled(&self) -> bool {
        self.enabled.unwrap_or(true)
    }

    /// The check with these settings.
    pub fn check(
        self,
        name: String,
        target: CheckTarget,
        rule: &str,
        raw_sql: Option<String>,
        location: Location,
    ) -> Check {
        let on_fail = self.on_fail.unwrap_or(match self.warns {
            Some(true) => OnFail::Warn,
            Some(false) | None => OnFail::Fail,
        });
        Check {
            name,
            target,
            column: None,
            rule: rule.to_owned(),
            arguments: JsonMap::new(),
            where_sql: self.where_sql,
            mostly: self.mostly,
            error_if: self.error_if,
            warn_if: self.warn_if,
            on_fail,
            limit: self.limit.map_or(DEFAULT_LIMIT, |limit| limit as usize),
            raw_sql,
            location,
        }
    }
}

/// A bound such as `>10` or `!= 0`.
pub fn parse_threshold(text: &str) -> Option<Threshold> {
    let text = text.trim();
    let (operator, rest) = [">=", "<=", "!=", "<>", "==", ">", "<", "="]
        .iter()
        .find_map(|operator| text.strip_prefix(operator).map(|rest| (*operator, rest)))?;
    let operator = match operator {
        "<>" => "!=",
        "==" => "=",
        other => other,
    };
    let value: f64 = rest.trim().parse().ok()?;
    value.is_finite().then(|| Threshold { operator: operator.to_owned(), value })
}

/// What the checks of a list are about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The node or table.
    pub target: &'a CheckTarget,
    /// Its name in the names of checks.
    pub name: &'a str,
    /// The template that refers to it.
    pub expression: &'a str,
    /// The column, for checks of one.
    pub column: Option<&'a str>,
    /// What the project file says of all checks.
    pub defaults: &'a CheckSettings,
}

/// The checks of `tests:` or `data_tests:`.
pub fn read(
    reader: &Reader<'_>,
    list: Item,
    path: &str,
    subject: Subject<'_>,
    templates: &Templates,
) -> Vec<Check> {
    reader
        .list(list, path)
        .iter()
        .filter_map(|item| read_one(reader, *item, path, subject, templates))
        .collect()
}

fn read_one(
    reader: &Reader<'_>,
    item: Item,
    path: &str,
    subject: Subject<'_>,
    templates: &Templates,
) -> Option<Check> {
    let doc = reader.doc;
    let wrong = |found: &str| {
        reader.error_at(
            item,
            Error::new(code::YAML, format!("{found} where a check is expected in {path}"))
                .hint("write `- not_null`, or `- accepted_values: {values: [a, b]}`"),
        );
        None
    };
    let (rule, body) = match doc.value(item) {
        Value::Text(rule) => (rule.as_str(), None),
        Value::Map(entries) => match entries.as_slice() {
            [(rule, body)] => (rule.name.as_str(), Some(*body)),
            // dbt's other shape: `{name: …, test_name: …, …}`.
            _ => match doc.get(item, "test_name").map(|name| doc.value(name)) {
                Some(Value::Text(rule)) => (rule.as_str(), Some(item)),
                _ => return wrong("a mapping with several rules"),
            },
        },
        other => return wrong(other.kind()),
    };
    let mut settings = subject.defaults.clone();
    let mut arguments = JsonMap::new();
    let mut name = None;
    let mut column = subject.column.map(str::to_owned);
    if let Some(body) = body {
        if !matches!(doc.value(body), Value::Map(_) | Value::Null) {
            return wrong(doc.value(body).kind());
        }
        for (key, value) in doc.entries(body) {
            match key.name.as_str() {
                "test_name" | "description" => {}
                "name" => name = reader.read::<Located<String>>(*value, "name"),
                "config" => {
                    settings.set_all(*value, &format!("{path}.config"), reader, templates);
                }
                "arguments" => {
                    for (key, value) in doc.entries(*value) {
                        if let Some(json) = render(reader, *value, templates) {
                            arguments.insert(key.name.clone(), json);
                        }
                    }
                }
                "column_name" => column = doc.scalar_text(*value).or(column),
                other if settings.set(other, *value, reader, templates) => {}
                other => {
                    if let Some(json) = render(reader, *value, templates) {
                        arguments.insert(other.to_owned(), json);
                    }
                }
            }
        }
    }
    if let Some(Json::String(given)) = arguments.get("column_name") {
        column = Some(given.clone());
        arguments.shift_remove("column_name");
    }
    if !settings.is_enabled() {
        return None;
    }
    let is_source = matches!(subject.target, CheckTarget::Source(_));
    let name = match name {
        Some(name) => name.value,
        None => synthesized_name(rule, subject.name, is_source, column.as_deref(), &arguments),
    };
    let location = doc.location(item);
    let own = format!("test_{rule}");
    if templates.macros.get(&own).is_some_and(|info| info.is_test) {
        let raw = call_of(
            &own,
            subject.expression,
            column.as_deref(),
            &arguments,
            settings.where_sql.take(),
        );
        let mut check = settings.check(name, subject.target.clone(), "sql", Some(raw), location);
        check.column = column;
        check.arguments = arguments;
        return Some(check);
    }
    let mut check = settings.check(name, subject.target.clone(), rule, None, location);
    check.column = column;
    check.arguments = arguments;
    Some(check)
}

/// The template that calls a project's own rule.
fn call_of(
    name: &str,
    relation: &str,
    column: Option<&str>,
    arguments: &JsonMap,
    where_sql: Option<String>,
) -> String {
    let mut call = match where_sql {
        Some(condition) => format!(
            "{{% set model %}}(select * from {{{{ {relation} }}}} where {condition}) as dbt_subquery{{% endset %}}{{{{ {name}(model=model"
        ),
        None => format!("{{{{ {name}(model={relation}"),
    };
    if let Some(column) = column {
        call.push_str(", column_name=");
        push_literal(&mut call, &Json::from(column));
    }
    for (argument, value) in arguments {
        call.push_str(", ");
        call.push_str(argument);
        call.push('=');
        push_literal(&mut call, value);
    }
    call.push_str(") }}");
    call
}

/// A value as a template writes it; texts such as `ref('orders')` are calls, as in dbt.
fn push_literal(out: &mut String, value: &Json) {
    match value {
        Json::Null => out.push_str("none"),
        Json::String(text) if is_call(text) => out.push_str(text.trim()),
        Json::String(_) | Json::Bool(_) | Json::Number(_) => out.push_str(&value.to_string()),
        Json::Array(items) => {
            out.push('[');
            for item in items {
                push_literal(out, item);
                out.push_str(", ");
            }
            out.push(']');
        }
        Json::Object(map) => {
            out.push('{');
            for (key, item) in map {
                out.push_str(&Json::from(key.as_str()).to_string());
                out.push_str(": ");
                push_literal(out, item);
                out.push_str(", ");
            }
            out.push('}');
        }
    }
}

fn is_call(text: &str) -> bool {
    let text = text.trim();
    ["ref", "source", "var", "env_var"].iter().any(|function| {
        text.strip_prefix(function).is_some_and(|rest| rest.trim_start().starts_with('('))
    }) && text.ends_with(')')
}

/// The name that dbt gives a check: rule, table, then the values of its arguments in the order of
/// the arguments' names.
pub fn synthesized_name(
    rule: &str,
    table: &str,
    is_source: bool,
    column: Option<&str>,
    arguments: &JsonMap,
) -> String {
    let (namespace, rule) = match rule.rsplit_once('.') {
        Some((namespace, rule)) => (Some(namespace), rule),
        None => (None, rule),
    };
    let mut name = String::new();
    if let Some(namespace) = namespace {
        name.push_str(namespace);
        name.push('_');
    }
    if is_source {
        name.push_str("source_");
    }
    name.push_str(rule);
    name.push('_');
    name.push_str(table);
    name.push('_');
    let mut sorted: Vec<(&str, Json)> =
        arguments.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    if let Some(column) = column {
        sorted.push(("column_name", Json::from(column)));
    }
    sorted.sort_by(|a, b| a.0.cmp(b.0));
    let mut parts = Vec::new();
    for (_, value) in sorted {
        match value {
            Json::Array(items) => parts.extend(items.iter().map(python_text)),
            Json::Object(map) => parts.extend(map.values().map(python_text)),
            other => parts.push(python_text(&other)),
        }
    }
    let cleaned: Vec<String> = parts.iter().map(|part| clean(part)).collect();
    // dbt keeps the underscore before no arguments at all.
    name.push_str(&cleaned.join("__"));
    name
}

/// A value as Python's `str()` prints it.
fn python_text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Bool(true) => "True".to_owned(),
        Json::Bool(false) => "False".to_owned(),
        Json::Null => "None".to_owned(),
        other => other.to_string(),
    }
}

/// Runs of anything but ASCII letters, digits and `_` become one `_`.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_run = false;
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || c == '_' {
            out.push(c);
            in_run = false;
        } else if !in_run {
            out.push('_');
            in_run = true;
        }
    }
    out
}

/// dbt's `constraints:` of a model or of one of its columns, as checks.
pub fn read_constraints(
    reader: &Reader<'_>,
    list: Item,
    path: &str,
    subject: Subject<'_>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    for item in reader.list(list, path) {
        let doc = reader.doc;
        let kind = match doc.value(*item) {
            Value::Text(kind) => Some(kind.clone()),
            _ => doc.get(*item, "type").and_then(|kind| doc.scalar_text(kind)),
        };
        let columns: Vec<String> = match (subject.column, doc.get(*item, "columns")) {
            (Some(column), _) => vec![column.to_owned()],
            (None, Some(columns)) => {
                doc.items(columns).iter().filter_map(|column| doc.scalar_text(*column)).collect()
            }
            (None, None) => Vec::new(),
        };
        let mut add = |rule: &str, columns: &[String]| {
            let mut arguments = JsonMap::new();
            let column = match columns {
                [column] => Some(column.clone()),
                several => {
                    arguments.insert("columns".into(), several.into());
                    None
                }
            };
            let name = synthesized_name(rule, subject.name, false, column.as_deref(), &arguments);
            let mut check = subject.defaults.clone().check(
                name,
                subject.target.clone(),
                rule,
                None,
                doc.location(*item),
            );
            check.column = column;
            check.arguments = arguments;
            checks.push(check);
        };
        match kind.as_deref() {
            Some("not_null") => {
                for column in &columns {
                    add("not_null", std::slice::from_ref(column));
                }
            }
            Some("unique") => add("unique", &columns),
            Some("primary_key") => {
                for column in &columns {
                    add("not_null", std::slice::from_ref(column));
                }
                add("unique", &columns);
            }
            Some("foreign_key" | "custom") => {}
            Some(other) => reader.error_at(
                *item,
                Error::new(
                    code::CONFIG,
                    format!("constraint \"{other}\" is not there for models"),
                )
                .hint("declare it under `data_tests:`: not_null, unique, accepted_values, range, expression …"),
            ),
            None => reader.error_at(
                *item,
                Error::new(code::YAML, format!("a constraint without a type in {path}"))
                    .hint("write `- type: not_null`"),
            ),
        }
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dbts() {
        let json = |text: &str| match serde_json::from_str(text) {
            Ok(Json::Object(map)) => map,
            _ => JsonMap::new(),
        };
        for (rule, table, is_source, column, arguments, expect) in [
            ("not_null", "orders", false, Some("id"), "{}", "not_null_orders_id"),
            ("unique", "pos_sales", true, Some("id"), "{}", "source_unique_pos_sales_id"),
            (
                "accepted_values",
                "orders",
                false,
                Some("status"),
                r#"{"values": ["placed", "return pending"], "quote": false}"#,
                "accepted_values_orders_status__False__placed__return_pending",
            ),
            (
                "relationships",
                "orders",
                false,
                Some("customer_id"),
                r#"{"to": "ref('customers')", "field": "customer_id"}"#,
                "relationships_orders_customer_id__customer_id__ref_customers_",
            ),
            (
                "dbt_utils.expression_is_true",
                "orders",
                false,
                None,
                r#"{"expression": "a >= b"}"#,
                "dbt_utils_expression_is_true_orders_a_b",
            ),
        ] {
            assert_eq!(synthesized_name(rule, table, is_source, column, &json(arguments)), expect);
        }
    }

    #[test]
    fn bounds_read_with_and_without_spaces() {
        for (text, operator, value) in
            [(">10", ">", 10.0), ("!= 0", "!=", 0.0), ("<= 1.5", "<=", 1.5), ("<>3", "!=", 3.0)]
        {
            let threshold = parse_threshold(text).expect(text);
            assert_eq!((threshold.operator.as_str(), threshold.value), (operator, value));
        }
        for text in ["", "10", "> ten", ">", "> inf", "between 1 and 2"] {
            assert_eq!(parse_threshold(text), None, "{text}");
        }
    }
}
