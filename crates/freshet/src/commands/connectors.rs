//! `freshet connectors`: what data can be read from and written to, and with which options.

use std::io::{self, Write};

use freshet_core::registry::{Connector, ConnectorInfo, Role};
use freshet_core::sink::Guarantee;
use serde_json::Value;

use crate::cli::{ConnectorsArgs, ConnectorsCommand};
use crate::exit::{CommandResult, Outcome};
use crate::table::{Align, Cell, Frame, Table, Tone};
use crate::ui::Ui;

/// Lists the connectors of this build, or the options of one.
pub fn run(args: &ConnectorsArgs, ui: &Ui) -> CommandResult {
    let registry = freshet_connectors::registry();
    let out = &mut io::stdout().lock();
    match &args.command {
        None | Some(ConnectorsCommand::Ls) => list(out, &registry.infos(), ui)?,
        Some(ConnectorsCommand::Show { name }) => show(out, registry.get(name)?.as_ref(), ui)?,
    }
    Ok(Outcome::Done)
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Source => "source",
        Role::Stream => "stream",
        Role::Ingest => "ingest",
        Role::Sink => "sink",
        Role::StreamSink => "sink of streams",
        Role::Format => "format",
    }
}

fn guarantee_name(guarantee: Guarantee) -> &'static str {
    match guarantee {
        Guarantee::ExactlyOnce => "exactly once",
        Guarantee::AtLeastOnce => "at least once",
    }
}

fn to_json(info: &ConnectorInfo) -> Value {
    let roles: Vec<_> = info.roles.iter().copied().map(role_name).collect();
    serde_json::json!({
        "name": info.name,
        "roles": roles,
        "summary": info.summary,
        "guarantee": info.guarantee,
        "options": info.options,
    })
}

fn list(out: &mut dyn Write, infos: &[ConnectorInfo], ui: &Ui) -> io::Result<()> {
    if ui.json {
        let all: Vec<_> = infos.iter().map(to_json).collect();
        return writeln!(out, "{}", Value::Array(all));
    }
    let columns = [("name", Align::Left), ("used as", Align::Left), ("what it is", Align::Left)];
    let mut table = Table::new(columns, Frame::Open);
    for info in infos {
        let roles: Vec<_> = info.roles.iter().copied().map(role_name).collect();
        table.row([
            Cell::from(info.name),
            Cell::toned(roles.join(", "), Tone::Dim),
            info.summary.into(),
        ]);
    }
    table.write(out, ui.width, ui.out)?;
    writeln!(out, "{} `freshet connectors show NAME` for the options of one", ui.out.dim("next:"))
}

fn show(out: &mut dyn Write, connector: &dyn Connector, ui: &Ui) -> io::Result<()> {
    let info = &connector.info();
    let of_sinks = connector.stream_sink_options();
    if ui.json {
        let mut json = to_json(info);
        if let Some(options) = of_sinks {
            json["stream_sink_options"] = options.to_value();
        }
        return writeln!(out, "{json}");
    }
    let roles: Vec<_> = info.roles.iter().copied().map(role_name).collect();
    writeln!(out, "{} ({}): {}", ui.out.bold(info.name), roles.join(", "), info.summary)?;
    if let Some(guarantee) = info.guarantee {
        writeln!(out, "written rows are there {}", guarantee_name(guarantee))?;
    }
    write_options(out, info.options.as_value(), ui)?;
    if let Some(options) = of_sinks {
        writeln!(out, "\n{}", ui.out.bold("as a sink of streams"))?;
        write_options(out, options.as_value(), ui)?;
    }
    Ok(())
}

/// The options of a JSON schema, one below the other.
fn write_options(out: &mut dyn Write, schema: &Value, ui: &Ui) -> io::Result<()> {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(properties) = schema["properties"].as_object() else {
        return writeln!(out, "it has no options");
    };
    for (name, property) in properties {
        let property = resolve(schema, property);
        let mut facts = vec![type_of(schema, property)];
        if required.contains(&name.as_str()) {
            facts.push("required".to_owned());
        }
        if let Some(default) = property.get("default").filter(|default| !default.is_null()) {
            facts.push(format!("default {default}"));
        }
        writeln!(
            out,
            "\n  {} {}",
            ui.out.cyan(name),
            ui.out.dim(&format!("({})", facts.join(", ")))
        )?;
        if let Some(text) = property["description"].as_str() {
            for line in text.lines() {
                writeln!(out, "      {line}")?;
            }
        }
    }
    Ok(())
}

/// Follows one `$ref`; what stands beside it (description, default) is kept by the caller's own look.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|path| path.strip_prefix('#')) {
        // What an option says of itself counts more than what its type says.
        Some(path) if schema["description"].is_null() => root.pointer(path).unwrap_or(schema),
        _ => schema,
    }
}

fn type_of(root: &Value, schema: &Value) -> String {
    if let Some(path) = schema["$ref"].as_str().and_then(|path| path.strip_prefix('#')) {
        return root.pointer(path).map(|schema| type_of(root, schema)).unwrap_or_default();
    }
    let joined = |values: &[Value]| {
        let mut names: Vec<_> = values.iter().map(|schema| type_of(root, schema)).collect();
        names.retain(|name| name != "null" && !name.is_empty());
        names.dedup();
        names.join(" | ")
    };
    for key in ["enum", "anyOf", "oneOf"] {
        if let Some(values) = schema[key].as_array() {
            if key != "enum" {
                return joined(values);
            }
            let values: Vec<_> =
                values.iter().filter(|value| !value.is_null()).map(Value::to_string).collect();
            return values.join(" | ");
        }
    }
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => match type_of(root, &schema["items"]) {
            inner if inner.is_empty() => "list".to_owned(),
            inner => format!("list of {inner}"),
        },
        Value::String(name) => name.clone(),
        Value::Array(names) => {
            let names: Vec<_> =
                names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect();
            names.join(" | ")
        }
        _ => "anything".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::plain_ui;

    #[test]
    fn options_show_type_default_and_meaning() {
        let schema = serde_json::json!({
            "properties": {
                "path": { "type": "string", "description": "Where the files are." },
                "mode": { "anyOf": [{ "$ref": "#/$defs/Mode" }, { "type": "null" }], "default": "fast" },
                "names": { "type": ["array", "null"], "items": { "type": "string" } },
                "size": { "$ref": "#/$defs/Size" },
            },
            "required": ["path"],
            "$defs": {
                "Mode": { "oneOf": [{ "const": "fast" }, { "const": "safe" }] },
                "Size": { "type": ["string", "number"], "description": "A size." },
            },
        });
        let mut out = Vec::new();
        write_options(&mut out, &schema, &plain_ui()).expect("memory takes everything");
        assert_eq!(
            String::from_utf8(out).expect("it is text"),
            "\n  path (string, required)\n      Where the files are.\n\
             \n  mode (\"fast\" | \"safe\", default \"fast\")\n\
             \n  names (array)\n\
             \n  size (string | number)\n      A size.\n"
        );
    }
}
