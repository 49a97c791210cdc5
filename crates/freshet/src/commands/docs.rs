//! `freshet internal docs`: the reference of the command line as Markdown, from its definition.

use std::fmt::Write as _;
use std::io::Write as _;

use clap::{Arg, Command, CommandFactory};
use freshet_core::error::{Error, code};

use crate::cli::{Cli, InternalCommand};
use crate::exit::{CommandResult, Outcome};

/// Prints the reference of the command line, or writes or checks all generated pages.
pub fn run(command: &InternalCommand) -> CommandResult {
    let InternalCommand::Docs { out, check } = command;
    let Some(docs) = out else {
        std::io::stdout().lock().write_all(reference().as_bytes())?;
        return Ok(Outcome::Done);
    };
    let result = if *check { crate::reference::check(docs) } else { crate::reference::write(docs) };
    result.map_err(|error| Error::new(code::IO, format!("{error:#}")))?;
    Ok(Outcome::Done)
}

/// The whole reference of the command line.
pub fn reference() -> String {
    let mut root = Cli::command();
    root.build();
    let mut out = String::from("# The command line\n\n");
    out.push_str(
        "Made from the binary's own definition; `freshet help COMMAND` prints the same.\n\n",
    );
    if let Some(about) = root.get_about() {
        let _ = writeln!(out, "{about}\n");
    }
    out.push_str("## Global options\n\n");
    write_arguments(&mut out, root.get_arguments().filter(|arg| arg.is_global_set()));
    if let Some(text) = root.get_after_help() {
        let _ = writeln!(out, "\n{text}");
    }
    for command in visible(&root) {
        write_command(&mut out, command, "freshet");
    }
    out
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

fn write_command(out: &mut String, command: &Command, parent: &str) {
    let path = format!("{parent} {}", command.get_name());
    // A command that only holds others is a heading of theirs.
    let level = path.split(' ').count().min(4);
    let _ = writeln!(out, "\n{} `{path}`\n", "#".repeat(level));
    if let Some(about) = command.get_about() {
        let _ = writeln!(out, "{about}.\n");
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage);
    let _ = writeln!(out, "```text\n{usage}\n```");
    let mut arguments = command
        .get_arguments()
        .filter(|arg| !arg.is_global_set() && !arg.is_hide_set() && arg.get_id() != "help")
        .peekable();
    if arguments.peek().is_some() {
        out.push('\n');
        write_arguments(out, arguments);
    }
    for inner in visible(command) {
        write_command(out, inner, &path);
    }
}

fn write_arguments<'a>(out: &mut String, arguments: impl Iterator<Item = &'a Arg>) {
    out.push_str("| argument | meaning |\n|---|---|\n");
    for arg in arguments {
        let mut name = String::new();
        if let Some(short) = arg.get_short() {
            let _ = write!(name, "-{short}, ");
        }
        if let Some(long) = arg.get_long() {
            let _ = write!(name, "--{long}");
        }
        if arg.get_action().takes_values() {
            let value = arg.get_value_names().unwrap_or_default().first().map(|name| name.as_str());
            let value = value.unwrap_or(arg.get_id().as_str());
            let brackets = if arg.is_positional() { "" } else { " " };
            let _ = write!(name, "{brackets}<{value}>");
        }
        let mut meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let values: Vec<_> = arg
            .get_possible_values()
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        if arg.get_action().takes_values() && !values.is_empty() {
            let _ = write!(meaning, ". One of {}", values.join(", "));
        }
        let defaults: Vec<_> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if arg.get_action().takes_values() && !defaults.is_empty() {
            let _ = write!(meaning, ". Default: `{}`", defaults.join(" "));
        }
        let meaning = meaning.replace('|', "\\|").replace('\n', " ");
        let _ = writeln!(out, "| `{name}` | {meaning} |");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_names_every_command_and_option() {
        let text = reference();
        let mut root = Cli::command();
        root.build();
        for command in visible(&root) {
            assert!(text.contains(&format!("\n## `freshet {}`\n", command.get_name())), "{text}");
            let longs = command.get_arguments().filter_map(Arg::get_long);
            for arg in longs.filter(|arg| *arg != "help") {
                assert!(text.contains(&format!("--{arg}")), "--{arg} is missing");
            }
        }
        assert!(!text.contains("internal"), "hidden commands stay hidden");
    }
}
