//! The generated pages of `docs/`: the command line, the project's files, connectors, error codes.
//!
//! Each is made from what the code itself uses; a test compares them with what lies in `docs/`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use freshet_core::error::{ALL_CODES, ErrorKind};
use freshet_core::metrics::{MetricKind, MetricName};
use freshet_core::registry::Role;
use freshet_core::sink::Guarantee;
use serde_json::Value;

mod schema;
#[cfg(test)]
mod tests;

/// All pages: the path below `docs/`, and the text.
fn pages() -> Vec<(String, String)> {
    let mut pages = vec![
        ("reference/command-line.md".to_owned(), crate::commands::docs::reference()),
        ("reference/project.md".to_owned(), project()),
        ("reference/connectors.md".to_owned(), connectors()),
        ("reference/metrics.md".to_owned(), metrics()),
        ("errors/README.md".to_owned(), error_index()),
    ];
    for info in ALL_CODES {
        let text = format!(
            "# {}: {}\n\n{}\n\nKind: {}.\n",
            info.code,
            info.title,
            info.help,
            kind(info.kind)
        );
        pages.push((format!("errors/{}.md", info.code), text));
    }
    pages
}

/// The metrics, in the order of the code.
fn metrics() -> String {
    let mut page = String::from(
        "# Metrics\n\n`GET /metrics` of a `freshet up`, in the text format of OpenMetrics. Counters \
         begin at zero with each life of a job.\n\n| name | kind | meaning |\n|---|---|---|\n",
    );
    for metric in MetricName::ALL {
        let kind = match metric.kind() {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let _ = writeln!(page, "| `{}` | {kind} | {} |", metric.as_str(), metric.help());
    }
    page
}

/// Writes the pages below `docs`, and removes pages of codes that are no more.
pub fn write(docs: &Path) -> Result<()> {
    for stale in stale(docs)? {
        let path = docs.join(&stale);
        match pages().into_iter().find(|(name, _)| *name == stale) {
            Some((_, text)) => {
                let folder = path.parent().unwrap_or(docs);
                fs::create_dir_all(folder)
                    .with_context(|| format!("could not make folder {}", folder.display()))?;
                fs::write(&path, text)
                    .with_context(|| format!("could not write file {}", path.display()))?;
            }
            None => fs::remove_file(&path)
                .with_context(|| format!("could not remove file {}", path.display()))?,
        }
    }
    Ok(())
}

/// Fails where a page is not what it would be if it were written now.
pub fn check(docs: &Path) -> Result<()> {
    let stale = stale(docs)?;
    if stale.is_empty() {
        return Ok(());
    }
    bail!(
        "these pages of {} are stale: {}; `cargo xtask docs` writes them",
        docs.display(),
        stale.join(", ")
    )
}

/// Pages that are missing, differ, or should not be there.
fn stale(docs: &Path) -> Result<Vec<String>> {
    let pages = pages();
    let mut stale: Vec<String> = pages
        .iter()
        .filter(|(name, text)| fs::read_to_string(docs.join(name)).ok().as_ref() != Some(text))
        .map(|(name, _)| name.clone())
        .collect();
    for folder in ["reference", "errors"] {
        let Ok(entries) = fs::read_dir(docs.join(folder)) else { continue };
        for entry in entries {
            let name = entry.with_context(|| format!("could not list docs/{folder}"))?.file_name();
            let name = format!("{folder}/{}", name.to_string_lossy());
            if !pages.iter().any(|(page, _)| *page == name) {
                stale.push(name);
            }
        }
    }
    Ok(stale)
}

fn project() -> String {
    let mut out = String::from(
        "# The project's files\n\nEvery field of the YAML files. Words and shapes are dbt's wherever dbt has them.\n",
    );
    for (name, schema) in freshet_project::schemas() {
        let _ = write!(out, "\n## {name}\n\n");
        schema::write(&mut out, schema.as_value(), 3);
    }
    out
}

fn connectors() -> String {
    let mut out = String::from(
        "# Connectors and formats\n\n`freshet connectors` lists the same. Options of a connector stand under `with:` of a source\nor in a connection; options of a format under `format_options:`.\n",
    );
    for connector in freshet_connectors::registry().connectors() {
        let info = connector.info();
        let roles: Vec<_> = info.roles.iter().map(|role| role_name(*role)).collect();
        let _ =
            write!(out, "\n## {}\n\n{}\n\nUsed as: {}.", info.name, info.summary, roles.join(", "));
        match info.guarantee {
            Some(Guarantee::ExactlyOnce) => out.push_str(" Written rows are there exactly once."),
            Some(Guarantee::AtLeastOnce) => out.push_str(" Written rows are there at least once."),
            None => {}
        }
        out.push_str("\n\n");
        schema::write(&mut out, info.options.as_value(), 3);
        if let Some(options) = connector.stream_sink_options() {
            let _ = write!(out, "\n### {} as a sink of streams\n\n", info.name);
            schema::write(&mut out, options.as_value(), 4);
        }
    }
    out
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

fn error_index() -> String {
    let mut out = String::from(
        "# Error codes\n\nWhat goes wrong has a code that stays the same. Exit codes: 2 for the project and the arguments,\n1 for data and for what lies outside, 70 for faults of ours.\n\n| code | what | kind |\n|---|---|---|\n",
    );
    for info in ALL_CODES {
        let _ = writeln!(
            out,
            "| [{code}]({code}.md) | {} | {} |",
            info.title,
            kind(info.kind),
            code = info.code
        );
    }
    out
}

fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::User => "the project or the arguments",
        ErrorKind::Data => "the data",
        ErrorKind::External => "something outside",
        ErrorKind::Internal => "a fault of ours",
    }
}

/// A cell of a Markdown table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// A value as it is written in YAML.
fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}
