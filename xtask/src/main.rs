//! What a developer runs beside cargo: services for tests, the tests with them, CI, docs, benchmarks.
//!
//! Knows none of our crates, so that it builds in seconds and `services up` works while they do not
//! compile.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod checks;
mod fuzz;
mod paths;
mod services;
mod sh;
mod simulate;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Set-up of tests, CI, generated docs, benchmarks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Start, stop or show the servers that tests need
    Services {
        #[command(subcommand)]
        action: services::Action,
    },
    /// Start the services, then run all tests
    Test {
        /// Arguments for `cargo test`, e.g. `-p freshet-engine merge`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Formatting, lints, docs, tests: all that must hold before a commit is pushed
    Ci,
    /// Write `docs/reference` and `docs/errors` anew from the code
    Docs {
        /// Change nothing; fail where a page is stale
        #[arg(long)]
        check: bool,
    },
    /// Compare the release build with its peers
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Run the fuzz targets of the decoders
    Fuzz(fuzz::Options),
    /// Run streaming jobs under a simulator, and count the crashes at each step of their protocol
    Simulate(simulate::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Services { action } => services::run(action)?,
        Task::Test { arguments } => checks::test(&arguments)?,
        Task::Ci => checks::ci()?,
        Task::Docs { check } => checks::docs(check)?,
        Task::Bench { bench } => return bench::run(&bench),
        Task::Fuzz(options) => fuzz::run(&options)?,
        Task::Simulate(options) => simulate::run(&options)?,
    }
    Ok(ExitCode::SUCCESS)
}
