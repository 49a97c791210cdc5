//! `freshet generate`: made-up data, and what is in it.

use std::io::Write;
use std::path::Path;

use freshet_core::Error;
use freshet_core::clock::SystemClock;
use freshet_core::error::code;
use serde::Serialize;

use crate::cli::{GenerateArgs, GenerateCommand};
use crate::exit::{CommandResult, Failure, Outcome};
use crate::format::{bytes, count, counted};
use crate::generate::{nexmark, orders, pos};
use crate::progress::spinner;
use crate::ui::Ui;

/// Makes the data.
pub fn run(args: &GenerateArgs, ui: &Ui) -> CommandResult {
    match &args.command {
        GenerateCommand::Pos(options) => {
            let bar = spinner(ui, &format!("making {} records", count(options.rows)));
            let summary = pos::run(options);
            bar.finish_and_clear();
            let summary = summary.map_err(failure)?;
            report(ui, Some(&options.out), &summary, |out, folder| {
                print_pos(out, &summary, folder)
            })?;
        }
        GenerateCommand::Nexmark(options) => {
            let text = format!("making {} events", count(options.events.events));
            let summary = beside(ui, options.out.is_some(), &text, || nexmark::run(options));
            let summary = summary.map_err(failure)?;
            report(ui, options.out.as_deref(), &summary, |out, folder| {
                print_nexmark(out, &summary, folder)
            })?;
        }
        GenerateCommand::Orders(options) => {
            let text = format!("making orders for {}", options.span);
            let summary =
                beside(ui, options.out.is_some(), &text, || orders::run(options, &SystemClock));
            let summary = summary.map_err(failure)?;
            report(ui, options.out.as_deref(), &summary, |out, folder| {
                print_orders(out, &summary, folder)
            })?;
        }
    }
    Ok(Outcome::Done)
}

/// Runs `make` with a spinner, where the data does not go to standard output: it would write between
/// the lines of a terminal that shows them.
fn beside<T>(ui: &Ui, shown: bool, text: &str, make: impl FnOnce() -> T) -> T {
    let bar = shown.then(|| spinner(ui, text));
    let made = make();
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    made
}

/// A reader of standard output that went away is no fault; everything else is one.
fn failure(error: anyhow::Error) -> Failure {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) if io.kind() == std::io::ErrorKind::BrokenPipe => {
            Failure::Output(std::io::ErrorKind::BrokenPipe.into())
        }
        _ => Error::new(code::IO, format!("could not make data: {error}"))
            .caused_by(error.into_boxed_dyn_error())
            .into(),
    }
}

/// Prints what was made, where the data itself did not go to standard output.
fn report<T: Serialize>(
    ui: &Ui,
    folder: Option<&Path>,
    summary: &T,
    print: impl FnOnce(&mut dyn Write, &Path) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let Some(folder) = folder else { return Ok(()) };
    let mut out = std::io::stdout().lock();
    if ui.json {
        let json = serde_json::to_string(summary)
            .map_err(|error| Error::internal("a summary is no JSON").caused_by(error))?;
        writeln!(out, "{json}")?;
    } else if !ui.quiet {
        print(&mut out, folder)?;
    }
    Ok(())
}

fn print_nexmark(
    out: &mut dyn Write,
    summary: &nexmark::NexmarkSummary,
    folder: &Path,
) -> std::io::Result<()> {
    let total = &summary.total;
    writeln!(
        out,
        "{} in {} in {}",
        bytes(total.bytes),
        counted(summary.partitions.len() as u64, "file"),
        folder.display()
    )?;
    writeln!(
        out,
        "  events {} = {} persons + {} auctions + {} bids",
        count(total.events),
        count(total.persons),
        count(total.auctions),
        count(total.bids)
    )?;
    writeln!(out, "  event time {} to {}", summary.first, summary.last)?;
    writeln!(out, "  truth.json holds the counts by partition")
}

fn print_orders(
    out: &mut dyn Write,
    summary: &orders::OrdersSummary,
    folder: &Path,
) -> std::io::Result<()> {
    let files = summary.records.len() as u64;
    let total = summary.bytes.values().sum();
    writeln!(out, "{} in {} in {}", bytes(total), counted(files, "file"), folder.display())?;
    for (stream, records) in &summary.records {
        writeln!(out, "  {} {}", stream.as_str(), count(*records))?;
    }
    writeln!(
        out,
        "  orders = {} in time + {} repeated + {} late + {} bad",
        count(summary.in_time),
        count(summary.repeated),
        count(summary.late),
        count(summary.dead())
    )?;
    writeln!(
        out,
        "  {} customers become known later: {} order events name them before",
        count(summary.missing_customers),
        count(summary.unknown_customer)
    )?;
    writeln!(
        out,
        "  minutes of a city: {} silent, {} surges, {} drops",
        summary.silent_minutes, summary.surges, summary.drops
    )?;
    writeln!(out, "  event time {} to {}", summary.first, summary.end)?;
    writeln!(out, "  truth.jsonl and truth_*.csv say what is true of them")
}

fn print_pos(out: &mut dyn Write, summary: &pos::PosSummary, folder: &Path) -> std::io::Result<()> {
    writeln!(
        out,
        "{} in {} in {}",
        bytes(summary.bytes),
        counted(summary.files.len() as u64, "file"),
        folder.display()
    )?;
    writeln!(
        out,
        "  records {} = {} good + {} bad",
        count(summary.records),
        count(summary.good),
        count(summary.dead)
    )?;
    writeln!(
        out,
        "  {} repeat an earlier one, {} carry the previous day's date",
        count(summary.duplicates),
        count(summary.late_rows)
    )?;
    for (what, file) in [
        ("empty", &summary.empty_file),
        ("comes late", &summary.late_file),
        ("never comes", &summary.missing_file),
        ("has another header from here on", &summary.header_change),
    ] {
        if let Some(file) = file {
            writeln!(out, "  {file}: {what}")?;
        }
    }
    writeln!(out, "  truth.jsonl says what is wrong on which line")
}
