//! Schemas that refer to others, as registries keep them: put together into one that stands alone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The types that have no definition.
const PRIMITIVES: [&str; 8] =
    ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// `schema` with each type that it does not define itself replaced, where it stands first, by its
/// definition in `known`. Types are found by their full names.
pub(super) fn inline(mut schema: Value, known: &BTreeMap<String, Value>) -> Value {
    let mut defined = BTreeSet::new();
    put(&mut schema, None, known, &mut defined);
    schema
}

fn put(
    schema: &mut Value,
    namespace: Option<&str>,
    known: &BTreeMap<String, Value>,
    defined: &mut BTreeSet<String>,
) {
    match schema {
        Value::String(name) if !PRIMITIVES.contains(&name.as_str()) => {
            let full = full_name(name, namespace);
            if let Some(definition) = known.get(&full)
                && !defined.contains(&full)
            {
                *schema = definition.clone();
                // Its names are those of its own namespace.
                put(schema, None, known, defined);
            }
        }
        Value::Array(branches) => {
            for branch in branches {
                put(branch, namespace, known, defined);
            }
        }
        Value::Object(fields) => {
            let text = |field: &str| fields.get(field).and_then(Value::as_str).map(str::to_owned);
            let (kind, name) = (text("type"), text("name"));
            let own = text("namespace");
            let full = name.map(|name| full_name(&name, own.as_deref().or(namespace)));
            match kind.as_deref() {
                Some("record" | "error") => {
                    let inside = full.as_deref().and_then(|full| full.rsplit_once('.'));
                    let inside = inside.map(|(namespace, _)| namespace.to_owned());
                    defined.extend(full);
                    let types = fields.get_mut("fields").and_then(Value::as_array_mut);
                    for field in types.into_iter().flatten() {
                        if let Some(of_field) = field.get_mut("type") {
                            put(of_field, inside.as_deref(), known, defined);
                        }
                    }
                }
                Some("enum" | "fixed") => defined.extend(full),
                Some("array") => {
                    if let Some(items) = fields.get_mut("items") {
                        put(items, namespace, known, defined);
                    }
                }
                Some("map") => {
                    if let Some(values) = fields.get_mut("values") {
                        put(values, namespace, known, defined);
                    }
                }
                _ => {
                    if let Some(of_type) = fields.get_mut("type") {
                        put(of_type, namespace, known, defined);
                    }
                }
            }
        }
        _ => {}
    }
}

fn full_name(name: &str, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) if !name.contains('.') => format!("{namespace}.{name}"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_are_defined_where_they_stand_first_and_named_afterwards() {
        let money = json!({"type": "record", "name": "Money", "namespace": "shop", "fields": [
            {"name": "unit", "type": "Unit"}, {"name": "amount", "type": "long"}]});
        let unit = json!({"type": "enum", "name": "shop.Unit", "symbols": ["eur"]});
        let known = BTreeMap::from([
            ("shop.Money".to_owned(), money),
            ("shop.Unit".to_owned(), unit.clone()),
        ]);
        let order = json!({"type": "record", "name": "Order", "namespace": "shop", "fields": [
            {"name": "price", "type": ["null", "Money"]},
            {"name": "parts", "type": {"type": "array", "items": "shop.Money"}},
            {"name": "own", "type": {"type": "fixed", "name": "Code", "size": 2}},
            {"name": "again", "type": {"type": "map", "values": "Code"}},
            {"name": "other", "type": "elsewhere.Thing"},
        ]});
        assert_eq!(
            inline(order, &known),
            json!({"type": "record", "name": "Order", "namespace": "shop", "fields": [
                {"name": "price", "type": ["null", {
                    "type": "record", "name": "Money", "namespace": "shop", "fields": [
                        {"name": "unit", "type": unit}, {"name": "amount", "type": "long"}]}]},
                {"name": "parts", "type": {"type": "array", "items": "shop.Money"}},
                {"name": "own", "type": {"type": "fixed", "name": "Code", "size": 2}},
                {"name": "again", "type": {"type": "map", "values": "Code"}},
                {"name": "other", "type": "elsewhere.Thing"},
            ]})
        );
    }
}
