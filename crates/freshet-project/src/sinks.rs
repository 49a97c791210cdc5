//! `sinks:` of a streaming model: where the rows go that its job gives.
//!
//! Which connectors there are is not known here; whoever loads a project may give a validator.

use freshet_core::config::HumanDuration;
use freshet_core::error::code;
use freshet_core::{Error, Location};
use serde_json::{Map, Value as Json};

use crate::model::SinkConfig;

/// What is written beside the options of the connector.
const OWN: &[&str] = &["connector", "connection", "commit_interval"];

/// The sinks that a setting names; faults are recorded.
pub(crate) fn read(
    value: &Json,
    what: &str,
    location: &Location,
    errors: &mut Vec<Error>,
) -> Vec<SinkConfig> {
    let one;
    let entries = match value {
        Json::Array(entries) => entries.as_slice(),
        Json::String(_) | Json::Object(_) => {
            one = [value.clone()];
            &one
        }
        _ => {
            errors.push(shape(value, what, location));
            return Vec::new();
        }
    };
    if entries.is_empty() {
        errors.push(
            Error::new(code::CONFIG, format!("setting \"sinks\" of {what} names no sink"))
                .at(location.clone())
                .hint("leave it out, and the rows go to the model's table"),
        );
    }
    let sink = |entry: &Json| match read_one(entry, what, location) {
        Ok(sink) => Some(sink),
        Err(error) => {
            errors.push(error);
            None
        }
    };
    let sinks: Vec<SinkConfig> = entries.iter().filter_map(sink).collect();
    let tables = sinks.iter().filter(|sink| sink.is_table()).count();
    if tables > 1 {
        errors.push(
            Error::new(code::CONFIG, format!("setting \"sinks\" of {what} names the table twice"))
                .at(location.clone()),
        );
    }
    sinks
}

fn shape(value: &Json, what: &str, location: &Location) -> Error {
    Error::new(
        code::CONFIG,
        format!("setting \"sinks\" of {what} has {value}, which is no sink"),
    )
    .at(location.clone())
    .hint("write `table`, or a mapping such as `{connector: kafka, connection: broker, topic: orders}`")
}

fn read_one(entry: &Json, what: &str, location: &Location) -> Result<SinkConfig, Error> {
    let fields = match entry {
        Json::String(connector) if !connector.is_empty() => {
            return Ok(sink(connector, Map::new(), location));
        }
        Json::Object(fields) => fields,
        _ => return Err(shape(entry, what, location)),
    };
    let wrong = |field: &str, expected: &str| {
        let message = format!(
            "field \"{field}\" of a sink of {what} is {}, which is not {expected}",
            fields[field]
        );
        Error::new(code::CONFIG, message).at(location.clone())
    };
    let text = |field: &str| match fields.get(field) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(_) => Err(wrong(field, "text")),
    };
    let (connector, connection) = (text("connector")?, text("connection")?);
    if connector.is_none() && connection.is_none() {
        return Err(Error::new(code::CONFIG, format!("a sink of {what} has no connector"))
            .at(location.clone())
            .hint("add `connector`; `freshet connectors` lists them"));
    }
    let commit_interval = match text("commit_interval")? {
        Some(text) => match text.parse::<HumanDuration>() {
            Ok(interval) => Some(interval),
            Err(message) => {
                return Err(Error::new(
                    code::CONFIG,
                    format!("field \"commit_interval\" of a sink of {what}: {message}"),
                )
                .at(location.clone()));
            }
        },
        None => None,
    };
    let options = fields.iter().filter(|(name, _)| !OWN.contains(&name.as_str()));
    let options: Map<String, Json> =
        options.map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(option) =
        options.iter().find_map(|(name, value)| holds_secret(value).then_some(name))
    {
        return Err(Error::new(
            code::SECRET,
            format!("option \"{option}\" of a sink of {what} refers to a secret"),
        )
        .at(location.clone())
        .hint("put it into a connection in `freshet.yml`, and name that as `connection`"));
    }
    // Without a connector it is the connection's, which is looked up by whoever knows them.
    let mut sink = sink(&connector.unwrap_or_default(), options, location);
    sink.connection = connection;
    sink.commit_interval = commit_interval;
    if sink.is_table()
        && let Some(option) = sink.options.keys().next().or(sink.connection.as_ref())
    {
        return Err(Error::new(
            code::CONFIG,
            format!("sink \"table\" of {what} has an option \"{option}\""),
        )
        .at(location.clone())
        .hint("it has `commit_interval` alone: what the table is like is said by the model's own settings"));
    }
    Ok(sink)
}

fn sink(connector: &str, options: Map<String, Json>, location: &Location) -> SinkConfig {
    let connector = match connector {
        "lake" => SinkConfig::TABLE,
        other => other,
    };
    SinkConfig {
        connector: connector.to_owned(),
        connection: None,
        commit_interval: None,
        options,
        location: location.clone(),
    }
}

fn holds_secret(value: &Json) -> bool {
    match value {
        Json::String(text) => text.contains("${"),
        Json::Array(items) => items.iter().any(holds_secret),
        Json::Object(fields) => fields.values().any(holds_secret),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sinks(value: Json) -> (Vec<SinkConfig>, Vec<String>) {
        let mut errors = Vec::new();
        let read = read(&value, "model \"m\"", &Location::line("models/m.sql", 3), &mut errors);
        let message = |error: &Error| {
            let at = error.location().map(ToString::to_string).unwrap_or_default();
            format!("{at}: {}", error.message())
        };
        (read, errors.iter().map(message).collect())
    }

    #[test]
    fn entries_are_words_or_mappings() {
        let (read, errors) = sinks(json!([
            "lake",
            "blackhole",
            { "connector": "kafka", "connection": "broker", "topic": "t", "commit_interval": "5s" },
        ]));
        assert_eq!(errors, Vec::<String>::new());
        let names: Vec<_> = read.iter().map(|sink| sink.connector.as_str()).collect();
        assert_eq!(names, ["table", "blackhole", "kafka"]);
        assert!(read[0].is_table());
        assert_eq!(read[2].connection.as_deref(), Some("broker"));
        assert_eq!(Json::Object(read[2].options.clone()), json!({ "topic": "t" }));
        assert_eq!(read[2].commit_interval, Some(HumanDuration(std::time::Duration::from_secs(5))));
        assert_eq!(sinks(json!("print")).0.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (value, message) in [
            (json!([]), "names no sink"),
            (json!(3), "which is no sink"),
            (json!([3]), "which is no sink"),
            (json!([{ "topic": "t" }]), "has no connector"),
            (json!([{ "connector": 1 }]), "is 1, which is not text"),
            (json!(["table", "lake"]), "names the table twice"),
            (json!([{ "connector": "table", "path": "x" }]), "has an option \"path\""),
            (json!([{ "connector": "kafka", "commit_interval": "soon" }]), "not a duration"),
            (json!([{ "connector": "x", "a": { "b": "${env:KEY}" } }]), "\"a\" of a sink"),
        ] {
            let (_, errors) = sinks(value);
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(errors[0].starts_with("models/m.sql:3: "), "{errors:?}");
            assert!(errors[0].contains(message), "{errors:?}");
        }
    }
}
