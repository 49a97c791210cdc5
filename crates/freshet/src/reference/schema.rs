//! A JSON schema as Markdown: a table of fields, then a section for each struct that they hold.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::{cell, literal};

/// Appends what `schema` says; sections of inner structs have headings of `level`.
pub(super) fn write(out: &mut String, schema: &Value, level: usize) {
    let mut inner = Vec::new();
    write_struct(out, schema, schema, &mut inner);
    let mut seen = BTreeSet::new();
    while !inner.is_empty() {
        for name in std::mem::take(&mut inner) {
            if seen.insert(name.clone()) {
                let _ = write!(out, "\n{} {name}\n\n", "#".repeat(level));
                write_struct(out, schema, &schema["$defs"][&name], &mut inner);
            }
        }
    }
}

fn write_struct(out: &mut String, root: &Value, schema: &Value, inner: &mut Vec<String>) {
    if let Some(description) = schema["description"].as_str() {
        let _ = writeln!(out, "{}\n", description.trim());
    }
    let Some(properties) = schema["properties"].as_object().filter(|fields| !fields.is_empty())
    else {
        let _ = writeln!(out, "Written as: {}.", kind(root, schema, inner));
        return;
    };
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    out.push_str("| field | type | default | meaning |\n|---|---|---|---|\n");
    for (name, property) in properties {
        let default = if required.contains(&name.as_str()) {
            "required".to_owned()
        } else {
            match &property["default"] {
                Value::Null => String::new(),
                Value::Array(list) if list.is_empty() => String::new(),
                Value::Object(map) if map.is_empty() => String::new(),
                value => literal(value),
            }
        };
        let meaning = property["description"]
            .as_str()
            .or_else(|| definition(root, property)?.1["description"].as_str())
            .unwrap_or_default();
        let _ = writeln!(
            out,
            "| `{name}` | {} | {} | {} |",
            cell(&kind(root, property, inner)),
            cell(&default),
            cell(meaning)
        );
    }
}

/// The struct that a property refers to, by name.
fn definition<'a>(root: &'a Value, property: &'a Value) -> Option<(&'a str, &'a Value)> {
    let name = property["$ref"].as_str()?.strip_prefix("#/$defs/")?;
    Some((name, &root["$defs"][name]))
}

/// The type of a property in a few words.
fn kind(root: &Value, property: &Value, inner: &mut Vec<String>) -> String {
    if let Some((name, definition)) = definition(root, property) {
        if definition["properties"].is_object() {
            inner.push(name.to_owned());
            return name.to_owned();
        }
        return kind(root, definition, inner);
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(options) = property[choice].as_array() {
            let mut kinds: Vec<String> = Vec::new();
            for option in options.iter().filter(|option| option["type"] != "null") {
                let kind = kind(root, option, inner);
                if !kinds.contains(&kind) {
                    kinds.push(kind);
                }
            }
            return kinds.join(", ");
        }
    }
    if let Some(value) = property.get("const") {
        return literal(value);
    }
    if let Some(values) = property["enum"].as_array() {
        let values: Vec<_> = values.iter().filter(|value| !value.is_null()).map(literal).collect();
        return values.join(", ");
    }
    let one = |name: &str, inner: &mut Vec<String>| match name {
        "string" => "text".to_owned(),
        "integer" => "whole number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "array" => format!("list of {}", kind(root, &property["items"], inner)),
        "object" if property["additionalProperties"].is_object() => {
            format!("map to {}", kind(root, &property["additionalProperties"], inner))
        }
        "object" => "map".to_owned(),
        other => other.to_owned(),
    };
    match &property["type"] {
        Value::String(name) => one(name, inner),
        Value::Array(names) => {
            let names: Vec<&str> =
                names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect();
            names.iter().map(|name| one(name, inner)).collect::<Vec<_>>().join(" or ")
        }
        _ => "anything".to_owned(),
    }
}
