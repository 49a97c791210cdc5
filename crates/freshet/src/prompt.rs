//! The SQL prompt: several lines until `;`, history, a few commands that begin with a point.

use std::borrow::Cow;
use std::io::Write;
use std::path::PathBuf;

use freshet_core::error::code;
use freshet_core::{Error, Result};
use freshet_engine::lake::AsOf;
use freshet_project::{Materialized, NodeKind};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, Helper};
use tokio::runtime::Runtime;

use crate::app::App;
use crate::cli::OutputFormat;
use crate::commands::sql::{query, query_and_print};
use crate::errors;
use crate::exit::{CommandResult, Failure, INTERRUPTED, Outcome};
use crate::output::PrintOptions;
use crate::statements;
use crate::table::{Align, Cell, Frame, Table, Tone};
use crate::ui::{Ui, printable};

const HELP: &str = "\
.tables            lists tables and views
.schema TABLE      shows a table's columns
.mode FORM         prints rows as table, csv, json or ndjson
.timer on|off      shows below a table how long its query took
.help              shows this
.quit              ends the prompt (so does Ctrl-D)

A query ends with `;`. Ctrl-C stops the query that is running.";

/// Commands of the prompt that take no argument or a fixed one.
const COMMANDS: [&str; 7] = [".tables", ".schema", ".mode", ".timer", ".help", ".quit", ".exit"];

/// Reads queries until the user has enough.
pub fn run(
    app: &App,
    runtime: &Runtime,
    mut options: PrintOptions,
    as_of: Option<AsOf>,
    ui: &Ui,
) -> CommandResult {
    let failed = |error: ReadlineError| {
        Error::new(code::IO, "could not read from the terminal").caused_by(error)
    };
    let config =
        Config::builder().auto_add_history(true).max_history_size(10_000).map_err(failed)?;
    let mut editor: Editor<Line, FileHistory> =
        Editor::with_config(config.build()).map_err(failed)?;
    editor.set_helper(Some(Line { words: words(app) }));
    let history = history_file();
    if let Some(file) = &history {
        // There is none before the first prompt.
        let _ = editor.load_history(file);
    }
    let out = &mut std::io::stdout();
    if !ui.quiet {
        let project = &app.project;
        writeln!(out, "{} ({}): .help for help", project.name, project.environment.name)?;
    }
    loop {
        match editor.readline("freshet> ") {
            Ok(line) => {
                let outcome = answer(app, runtime, line.trim(), &mut options, as_of, ui);
                match outcome {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(Failure::Error(error)) => {
                        errors::write(&mut std::io::stderr(), &error, &app.project.dir, ui.err)?;
                    }
                    Err(Failure::Reported(_)) => writeln!(std::io::stderr(), "stopped")?,
                    Err(Failure::Output(error)) => return Err(Failure::Output(error)),
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failed(error).into()),
        }
    }
    if let Some(file) = &history {
        let folder = file.parent().map_or(Ok(()), std::fs::create_dir_all);
        if let Err(error) =
            folder.map_err(ReadlineError::Io).and_then(|()| editor.save_history(file))
        {
            tracing::warn!(file = %file.display(), %error, "history not kept");
        }
    }
    Ok(Outcome::Done)
}

/// `$XDG_DATA_HOME/freshet/history`, or below `~/.local/share`.
fn history_file() -> Option<PathBuf> {
    let folder =
        |name: &str| std::env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let data = folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")))?;
    Some(data.join("freshet/history"))
}

/// Answers one entry; `false` ends the prompt.
fn answer(
    app: &App,
    runtime: &Runtime,
    entry: &str,
    options: &mut PrintOptions,
    as_of: Option<AsOf>,
    ui: &Ui,
) -> Result<bool, Failure> {
    if entry.starts_with('.') {
        return command(app, runtime, entry, options, as_of, ui);
    }
    let (mut queries, rest) = statements::split(entry);
    if !statements::is_blank(rest) {
        queries.push(rest);
    }
    for sql in queries {
        runtime.block_on(async {
            tokio::select! {
                done = query_and_print(app, sql, as_of, options) => done,
                _ = tokio::signal::ctrl_c() => Err(Failure::Reported(INTERRUPTED)),
            }
        })?;
    }
    Ok(true)
}

fn command(
    app: &App,
    runtime: &Runtime,
    entry: &str,
    options: &mut PrintOptions,
    as_of: Option<AsOf>,
    ui: &Ui,
) -> Result<bool, Failure> {
    let (name, argument) = entry.split_once(char::is_whitespace).unwrap_or((entry, ""));
    let argument = argument.trim().trim_end_matches(';');
    let wrong = |message: String, hint: &str| -> Result<bool, Failure> {
        Err(Error::new(code::ARGUMENTS, message).hint(hint).into())
    };
    let out = &mut std::io::stdout();
    match name {
        ".quit" | ".exit" => return Ok(false),
        ".help" => writeln!(out, "{HELP}")?,
        ".tables" => tables(app).write(out, ui.width, ui.out)?,
        ".schema" if argument.is_empty() => {
            return wrong(".schema needs a table".into(), "`.tables` lists them");
        }
        ".schema" => {
            let sql = format!("select * from {argument} limit 0");
            let rows = runtime.block_on(query(app, &sql, as_of))?;
            let mut table =
                Table::new([("column", Align::Left), ("type", Align::Left)], Frame::Open);
            for field in rows.schema.fields() {
                let data_type = freshet_core::contract::type_name(field.data_type());
                table.row([printable(field.name(), false), data_type]);
            }
            table.write(out, ui.width, ui.out)?;
        }
        ".mode" => match <OutputFormat as clap::ValueEnum>::from_str(argument, true) {
            Ok(format) => options.format = format,
            Err(_) => {
                return wrong(
                    format!("\"{argument}\" is no form of output"),
                    "forms are table, csv, json and ndjson",
                );
            }
        },
        ".timer" => match argument {
            "on" => options.timer = true,
            "off" => options.timer = false,
            _ => return wrong(format!(".timer is on or off, not \"{argument}\""), ".timer on"),
        },
        _ => {
            let near = freshet_core::config::nearest(name, COMMANDS);
            let hint =
                near.map_or("`.help` lists all".to_owned(), |near| format!("did you mean {near}?"));
            return wrong(format!("there is no command {name}"), &hint);
        }
    }
    Ok(true)
}

/// What can be queried: sources, nodes, the dead letters.
fn tables(app: &App) -> Table {
    let mut table = Table::new([("table", Align::Left), ("kind", Align::Left)], Frame::Open);
    for (name, kind) in names(app) {
        table.row([Cell::from(name), Cell::toned(kind, Tone::Dim)]);
    }
    table
}

fn names(app: &App) -> Vec<(String, &'static str)> {
    let project = &app.project;
    let sources = project.sources.keys().map(|id| (id.to_string(), "source"));
    let nodes =
        project.nodes.values().filter(|node| node.config.materialized != Materialized::Ephemeral);
    let nodes = nodes.map(|node| {
        let kind = match (node.kind, node.config.materialized) {
            (NodeKind::Seed, _) => "seed",
            (NodeKind::Model, Materialized::View) => "view",
            (NodeKind::Model, Materialized::Stream) => "stream",
            (NodeKind::Model, _) => "table",
        };
        let schema = node.config.schema.as_deref();
        let name = match schema.filter(|schema| **schema != *project.environment.schema) {
            Some(schema) => format!("{schema}.{}", node.alias()),
            None => node.alias().to_owned(),
        };
        (name, kind)
    });
    let own = [("freshet.dead_letters", "dead letters"), ("freshet.late_rows", "late rows")];
    let own = own.map(|(name, kind)| (name.to_owned(), kind));
    sources.chain(nodes).chain(own).collect()
}

/// Words that the Tab key completes.
fn words(app: &App) -> Vec<String> {
    let mut words: Vec<String> = names(app).into_iter().map(|(name, _)| name).collect();
    words.extend(COMMANDS.map(str::to_owned));
    words.sort();
    words
}

/// What the editor asks about a line: whether it is whole, and how it may go on.
struct Line {
    words: Vec<String>,
}

/// Whether an entry is whole: a command, nothing, or statements up to a `;`.
fn is_whole(entry: &str) -> bool {
    let text = entry.trim();
    text.starts_with('.') || statements::is_blank(statements::split(text).1)
}

impl Validator for Line {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_whole(context.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

impl Completer for Line {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..position];
        let boundary = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.'));
        let start = before
            .rfind(boundary)
            .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
        let begun = &before[start..];
        let pairs = self
            .words
            .iter()
            .filter(|word| !begun.is_empty() && word.starts_with(begun))
            .map(|word| Pair { display: word.clone(), replacement: word.clone() })
            .collect();
        Ok((start, pairs))
    }
}

impl Hinter for Line {
    type Hint = String;
}

impl Highlighter for Line {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Borrowed(prompt)
    }
}

impl Helper for Line {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_is_whole_at_its_semicolon() {
        for whole in ["select 1;", ".tables", "", "  ", "select ';';", "select 1; -- done"] {
            assert!(is_whole(whole), "{whole}");
        }
        for open in ["select 1", "select 'a;", "select 1; select 2", "/* x */ select 1"] {
            assert!(!is_whole(open), "{open}");
        }
    }
}
