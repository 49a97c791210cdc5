//! Freshet's binary: arguments, wiring, printing of results and errors.
//!
//! Nothing heavy happens before the arguments are parsed, so that `--version` and `--help` are
//! immediate.

mod app;
mod cli;
mod client;
mod commands;
mod demo;
mod errors;
mod exit;
mod format;
mod generate;
#[cfg(test)]
mod golden;
mod logging;
mod output;
mod progress;
mod prompt;
mod reference;
mod report;
mod running;
mod statements;
mod table;
mod ui;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::app::Place;
use crate::cli::{Cli, Command};
use crate::exit::{CommandResult, Failure, error_code, exit_code};
use crate::ui::Ui;

/// A fault of ours.
const OUR_FAULT: u8 = 70;

fn main() -> ExitCode {
    report_panics();
    exit_code(catch_unwind(real_main).unwrap_or(OUR_FAULT))
}

fn real_main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help that nobody reads any more is no failure.
            let _ = error.print();
            return if error.use_stderr() { 2 } else { 0 };
        }
    };
    let ui = Ui::detect(cli.global.color, cli.global.json, cli.global.quiet);
    let base = project_dir(&cli);
    let result = logging::start(cli.global.log_format, cli.global.log_level.as_deref(), &ui)
        .map_err(Failure::from)
        .and_then(|()| {
            catch_unwind(AssertUnwindSafe(|| dispatch(&cli, &base, &ui)))
                .unwrap_or(Err(Failure::Reported(OUR_FAULT)))
        });
    match result {
        Ok(outcome) => outcome.code(),
        Err(Failure::Reported(code)) => code,
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(Failure::Output(error)) => {
            let _ = writeln!(std::io::stderr(), "could not write to standard output: {error}");
            1
        }
        Err(Failure::Error(error)) => {
            // A terminal that is gone cannot be told.
            let _ = print_error(&error, &base, &ui);
            error_code(&error)
        }
    }
}

fn print_error(error: &freshet_core::Error, base: &Path, ui: &Ui) -> std::io::Result<()> {
    progress::suspend(|| {
        let mut err = std::io::stderr().lock();
        if ui.json {
            writeln!(err, "{}", errors::to_json(error))
        } else {
            errors::write(&mut err, error, base, ui.err)
        }
    })
}

/// The project folder: the positional argument where a command has one, `--project`, the
/// environment variable, the current folder.
fn project_dir(cli: &Cli) -> PathBuf {
    let positional = match &cli.command {
        Command::Check(args) => args.dir.as_ref(),
        Command::Run(args) => args.dir.dir.as_ref(),
        Command::Up(args) => args.dir.dir.as_ref(),
        Command::Plan(args) => args.dir.dir.as_ref(),
        Command::Jobs(args) => args.dir.dir.as_ref(),
        Command::Test(args) => args.dir.dir.as_ref(),
        Command::Ls(args) => args.dir.dir.as_ref(),
        Command::Clean(args) => args.dir.dir.as_ref(),
        _ => None,
    };
    let variable = || std::env::var_os("FRESHET_PROJECT").filter(|dir| !dir.is_empty());
    positional
        .or(cli.global.project.as_ref())
        .cloned()
        .or_else(|| variable().map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("."))
}

fn dispatch(cli: &Cli, dir: &Path, ui: &Ui) -> CommandResult {
    let place = Place::new(dir.to_owned(), &cli.global);
    match &cli.command {
        Command::Init(args) => commands::init::run(args, ui),
        Command::Check(_) => commands::check::run(&place, ui),
        Command::Run(args) => commands::run::run(args, &place, ui),
        Command::Up(args) => commands::up::run(args, &place, ui),
        Command::Plan(args) => commands::plan::run(args, &place, ui),
        Command::Jobs(_) => commands::jobs::list(&place, ui),
        Command::Job(args) => commands::jobs::run(&args.command, &place, ui),
        Command::Ingest(args) => commands::ingest::run(args, &place, ui),
        Command::Test(args) => commands::test::run(args, &place, ui),
        Command::Sql(args) => commands::sql::run(args, &place, ui),
        Command::Ls(args) => commands::ls::run(args, &place, ui),
        Command::Show(args) => commands::show::run(args, &place, ui),
        Command::Runs(args) => commands::runs::run(args, &place, ui),
        Command::Dlq(args) => commands::dlq::run(args, &place, ui),
        Command::Sources(args) => commands::sources::run(args, &place, ui),
        Command::Connectors(args) => commands::connectors::run(args, ui),
        Command::Generate(args) => commands::generate::run(args, ui),
        Command::Lake(args) => commands::lake::run(args, &place, ui),
        Command::Clean(args) => commands::clean::run(args, &place, ui),
        Command::Internal(args) => commands::docs::run(&args.command),
    }
}

/// Prints panics as faults of ours instead of Rust's own message.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("it left no message");
        let place = panic
            .location()
            .map(|at| format!(" at {}:{}", at.file(), at.line()))
            .unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        progress::suspend(|| {
            let mut err = std::io::stderr().lock();
            let _ = writeln!(err, "error[F0001]: a fault of ours: {message}{place}");
            if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
                let _ = writeln!(err, "{backtrace}");
            }
            let _ = writeln!(
                err,
                "  hint: nothing of the step that failed was published; please report this with the output of `freshet runs show`"
            );
        });
    }));
}
