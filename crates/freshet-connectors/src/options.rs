//! Reading of a connector's options: JSON into its own struct, with the field at fault named.

use freshet_core::config::nearest;
use freshet_core::error::{Error, Result, code};
use freshet_core::sink::Guarantee;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a sink of streams promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// Each row once, seen when its checkpoint is durable.
    #[default]
    ExactlyOnce,
    /// Each row at least once, seen as it arrives.
    AtLeastOnce,
}

impl From<Promise> for Guarantee {
    fn from(promise: Promise) -> Self {
        match promise {
            Promise::ExactlyOnce => Self::ExactlyOnce,
            Promise::AtLeastOnce => Self::AtLeastOnce,
        }
    }
}

/// The options beside a source or sink over those of its connection.
pub fn over(connection: &Map<String, Value>, options: &Value) -> Value {
    let mut merged = connection.clone();
    if let Value::Object(options) = options {
        merged.extend(options.clone());
    }
    Value::Object(merged)
}

/// Reads `options` as `T`. `path` is where they stand, e.g. `format_options`; empty at the top.
pub fn parse<T: DeserializeOwned>(options: &Value, path: &str) -> Result<T> {
    let empty = Value::Object(Map::new());
    let options = if options.is_null() { &empty } else { options };
    T::deserialize(options).map_err(|error| {
        let message = error.to_string();
        if let Some(field) = backquoted(&message, "unknown field `") {
            let error =
                Error::new(code::CONFIG, format!("there is no option \"{}\"", join(path, field)));
            let names: Vec<&str> = message
                .split_once("expected")
                .map(|(_, rest)| rest.split('`').skip(1).step_by(2).collect())
                .unwrap_or_default();
            return match nearest(field, names.iter().copied()) {
                Some(near) => error.hint(format!("did you mean \"{near}\"?")),
                None => error.hint(format!("options are {}", names.join(", "))),
            };
        }
        if let Some(field) = backquoted(&message, "missing field `") {
            return Error::new(
                code::CONFIG,
                format!("option \"{}\" is required", join(path, field)),
            );
        }
        match culprit::<T>(options, &message) {
            Some(field) => Error::new(
                code::CONFIG,
                format!("option \"{}\" is wrong: {message}", join(path, &field)),
            ),
            None if path.is_empty() => Error::new(code::CONFIG, message),
            None => Error::new(code::CONFIG, format!("option \"{path}\" is wrong: {message}")),
        }
    })
}

/// The field without which the message is another one.
fn culprit<T: DeserializeOwned>(options: &Value, message: &str) -> Option<String> {
    let fields = options.as_object()?;
    fields.keys().find_map(|name| {
        let mut without = fields.clone();
        without.shift_remove(name);
        match T::deserialize(&Value::Object(without)) {
            Ok(_) => Some(name.clone()),
            Err(other) => (other.to_string() != message).then(|| name.clone()),
        }
    })
}

fn backquoted<'a>(message: &'a str, start: &str) -> Option<&'a str> {
    message.split_once(start)?.1.split('`').next()
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Options {
        #[allow(dead_code, reason = "only its reading is of interest")]
        path: String,
        #[serde(default)]
        #[allow(dead_code, reason = "only its reading is of interest")]
        size: Option<freshet_core::config::ByteSize>,
    }

    fn message(options: serde_json::Value) -> String {
        let error = parse::<Options>(&options, "with").expect_err("the options are wrong");
        format!("{} ({})", error.message(), error.hint_text().unwrap_or("no hint"))
    }

    #[test]
    fn the_field_at_fault_is_named() {
        assert_eq!(
            message(serde_json::json!({"path": "a", "sise": 1})),
            "there is no option \"with.sise\" (did you mean \"size\"?)"
        );
        assert_eq!(message(serde_json::json!({})), "option \"with.path\" is required (no hint)");
        assert!(
            message(serde_json::json!({"path": "a", "size": "much"}))
                .starts_with("option \"with.size\" is wrong: \"much\" is not a size")
        );
    }
}
