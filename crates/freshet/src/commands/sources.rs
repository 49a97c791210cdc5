//! `freshet sources`: writes the YAML of a source from a sample of its files.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use freshet_connectors::infer::infer;
use freshet_core::clock::SystemClock;
use freshet_core::error::code;
use freshet_core::registry::ConnectorContext;
use freshet_core::{Error, Result, ResultExt};

use crate::app::{self, Place};
use crate::cli::{InferArgs, SourcesArgs, SourcesCommand};
use crate::exit::{CommandResult, Outcome};
use crate::format::counted;
use crate::ui::{Ui, printable};

/// Samples files and prints or writes the source.
pub fn run(args: &SourcesArgs, place: &Place, ui: &Ui) -> CommandResult {
    let SourcesCommand::Infer(args) = &args.command;
    let context = context(args, place)?;
    let inferred = app::runtime(None)?.block_on(infer(&args.path, &context))?;
    let table = args.table.clone().unwrap_or_else(|| table_name(&args.path));
    let yaml = inferred.to_yaml(&args.source, &table);
    let mut out = std::io::stdout().lock();
    match &args.output {
        Some(file) => {
            write_new(file, &yaml)?;
            if ui.json {
                writeln!(out, "{}", serde_json::json!({ "file": file }))?;
            } else if !ui.quiet {
                let columns = counted(inferred.columns.len() as u64, "column");
                writeln!(
                    out,
                    "wrote source {}.{table} with {columns} to {}",
                    args.source,
                    file.display()
                )?;
            }
        }
        None if ui.json => {
            let json = serde_json::json!({
                "source": args.source,
                "table": table,
                "format": inferred.format,
                "format_options": inferred.format_options,
                "columns": inferred.columns,
                "sampled": inferred.sampled,
                "notes": inferred.notes,
                "yaml": yaml,
            });
            writeln!(out, "{json}")?;
        }
        None => out.write_all(yaml.as_bytes())?,
    }
    if !ui.json && !ui.quiet {
        let mut err = std::io::stderr().lock();
        for note in &inferred.notes {
            writeln!(err, "{} {}", ui.err.yellow("look at this:"), printable(note, false))?;
        }
    }
    Ok(Outcome::Done)
}

/// Paths start at the project folder. A project is only needed where a connection is named.
fn context(args: &InferArgs, place: &Place) -> Result<ConnectorContext> {
    let connection = match &args.connection {
        None => serde_json::Map::new(),
        Some(name) => {
            let project = place.project(&freshet_connectors::registry())?;
            let connections = &project.environment.connections;
            let connection = connections.get(name).ok_or_else(|| {
                Error::new(code::CONFIG, format!("there is no connection \"{name}\""))
                    .hint("declare it under `connections:` in freshet.yml")
            })?;
            connection.options.clone()
        }
    };
    let project_dir = std::path::absolute(&place.dir)
        .or_code(code::IO, || format!("could not find folder \"{}\"", place.dir.display()))?;
    Ok(ConnectorContext { project_dir, connection, clock: Arc::new(SystemClock) })
}

/// A name from a file's: `data/sales_{date:%Y%m%d}.csv.gz` is `sales`.
fn table_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let fixed = file.split(['*', '?', '{', '[', '.']).next().unwrap_or_default();
    let name: String = fixed
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
        .collect();
    let name = name.trim_matches(|c: char| c == '_' || c.is_ascii_digit());
    if name.is_empty() { "records".to_owned() } else { name.to_owned() }
}

fn write_new(file: &Path, yaml: &str) -> Result<()> {
    let wrong = || format!("could not write file \"{}\"", file.display());
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).or_code(code::IO, wrong)?;
    }
    match std::fs::File::create_new(file) {
        Ok(mut created) => created.write_all(yaml.as_bytes()).or_code(code::IO, wrong),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::new(
            code::ARGUMENTS,
            format!("file \"{}\" is there already", file.display()),
        )
        .hint("name another file, or leave --output out and copy what you need")),
        Err(error) => Err(Error::new(code::IO, wrong()).caused_by(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_named_after_the_fixed_part_of_their_files() {
        for (path, name) in [
            ("data/sales_{date:%Y%m%d}.csv.gz", "sales"),
            ("s3://bucket/in/Web-Orders-*.json", "web_orders"),
            ("customers.csv", "customers"),
            ("data/*.parquet", "records"),
            ("20261001.csv", "records"),
        ] {
            assert_eq!(table_name(path), name, "{path}");
        }
    }
}
