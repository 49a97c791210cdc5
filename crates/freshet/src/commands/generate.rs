//! `freshet generate`: made-up data, and what is in it.

use std::io::Write;

use freshet_core::Error;
use freshet_core::error::code;

use crate::cli::{GenerateArgs, GenerateCommand};
use crate::exit::{CommandResult, Outcome};
use crate::format::{bytes, count};
use crate::generate::pos;
use crate::progress::spinner;
use crate::ui::Ui;

/// Makes the data.
pub fn run(args: &GenerateArgs, ui: &Ui) -> CommandResult {
    match &args.command {
        GenerateCommand::Pos(options) => {
            let bar = spinner(ui, &format!("making {} records", count(options.rows)));
            let summary = pos::run(options);
            bar.finish_and_clear();
            let summary = summary.map_err(|error| {
                Error::new(code::IO, format!("could not make data: {error}"))
                    .caused_by(error.into_boxed_dyn_error())
            })?;
            let mut out = std::io::stdout().lock();
            if ui.json {
                let json = serde_json::to_string(&summary)
                    .map_err(|error| Error::internal("a summary is no JSON").caused_by(error))?;
                writeln!(out, "{json}")?;
            } else if !ui.quiet {
                print_summary(&mut out, &summary, &options.out)?;
            }
        }
    }
    Ok(Outcome::Done)
}

fn print_summary(
    out: &mut dyn Write,
    summary: &pos::PosSummary,
    folder: &std::path::Path,
) -> std::io::Result<()> {
    writeln!(
        out,
        "{} in {} in {}",
        bytes(summary.bytes),
        crate::format::counted(summary.files.len() as u64, "file"),
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
