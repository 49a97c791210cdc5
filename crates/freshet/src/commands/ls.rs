//! `freshet ls`: what the project has.

use std::io::{self, Write};

use freshet_core::ModelId;
use freshet_project::{Node, NodeKind, Project, ProjectState, SourceTable};

use crate::app::{self, Place};
use crate::cli::LsArgs;
use crate::exit::{CommandResult, Outcome};
use crate::table::{Align, Cell, Frame, Table, Tone};
use crate::ui::{Ui, printable};

/// Lists the nodes that are selected, and the sources where nothing is selected.
pub fn run(args: &LsArgs, place: &Place, ui: &Ui) -> CommandResult {
    let project = place.project(&freshet_connectors::registry())?;
    let before: Option<ProjectState> = if app::needs_state(&args.nodes) {
        app::runtime(Some(1))?.block_on(async {
            let store = app::open_meta(&project).await?;
            store.load_state(&project.environment.name).await
        })?
    } else {
        None
    };
    let selected = app::select(&project, &args.nodes, before.as_ref())?;
    let everything = args.nodes.select.is_empty() && args.nodes.exclude.is_empty();
    list(&mut io::stdout().lock(), &project, &selected, everything, ui)?;
    Ok(Outcome::Done)
}

/// The word of an enum as YAML has it.
fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn table_name(node: &Node, project: &Project) -> String {
    let schema = node.config.schema.as_deref().unwrap_or(&project.environment.schema);
    format!("{schema}.{}", node.alias())
}

fn list(
    out: &mut dyn Write,
    project: &Project,
    selected: &[ModelId],
    with_sources: bool,
    ui: &Ui,
) -> io::Result<()> {
    let nodes: Vec<&Node> = selected.iter().filter_map(|id| project.nodes.get(id)).collect();
    let sources: Vec<&SourceTable> =
        if with_sources { project.sources.values().collect() } else { Vec::new() };
    if ui.json {
        let nodes = nodes.iter().map(|node| node_json(node, project));
        let sources = sources.iter().map(|source| source_json(source));
        let all: Vec<_> = sources.chain(nodes).collect();
        return writeln!(out, "{}", serde_json::Value::Array(all));
    }
    let columns = [
        ("name", Align::Left),
        ("kind", Align::Left),
        ("table", Align::Left),
        ("file", Align::Left),
        ("description", Align::Left),
    ];
    let mut table = Table::new(columns, Frame::Open).whole(1);
    for source in sources {
        table.row([
            Cell::from(source.id.as_str()),
            Cell::toned("source", Tone::Dim),
            source.id.as_str().into(),
            printable(&source.location.file, false).into(),
            Cell::toned(first_line(&source.description), Tone::Dim),
        ]);
    }
    for node in nodes {
        let kind = match node.kind {
            NodeKind::Seed => "seed".to_owned(),
            NodeKind::Model => word(node.config.materialized),
        };
        table.row([
            Cell::from(node.id.as_str()),
            Cell::toned(kind, Tone::Dim),
            table_name(node, project).into(),
            printable(&node.path.display().to_string(), false).into(),
            Cell::toned(first_line(&node.description), Tone::Dim),
        ]);
    }
    table.write(out, ui.width, ui.out)
}

fn first_line(text: &str) -> String {
    printable(text.trim().lines().next().unwrap_or_default(), false)
}

fn node_json(node: &Node, project: &Project) -> serde_json::Value {
    serde_json::json!({
        "name": node.id,
        "resource_type": node.kind,
        "table": table_name(node, project),
        "path": node.path,
        "description": node.description,
        "tags": node.config.tags,
        "config": node.config,
        "depends_on": { "nodes": node.refs, "sources": node.sources },
        "checksum": node.checksum,
    })
}

fn source_json(source: &SourceTable) -> serde_json::Value {
    let columns: Vec<_> = source
        .contract
        .columns
        .iter()
        .map(|column| serde_json::json!({ "name": column.name, "data_type": column.data_type }))
        .collect();
    serde_json::json!({
        "name": source.id,
        "resource_type": "source",
        "table": source.id,
        "path": source.location.file,
        "description": source.description,
        "tags": source.tags,
        "connector": source.connector,
        "columns": columns,
    })
}
