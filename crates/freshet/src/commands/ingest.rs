//! `freshet ingest`: pushes records into a source's log, each line one.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};

use freshet_core::error::code;
use freshet_core::ingest::{AppendRequest, Ingest, Record};
use freshet_core::{Error, Result, ResultExt, SourceId};

use crate::app::{self, Place};
use crate::cli::IngestArgs;
use crate::exit::{CommandResult, Outcome};
use crate::ui::Ui;

/// Records, and bytes, that are pushed at once.
const RECORDS: usize = 10_000;
const BYTES: usize = 4 << 20;

/// Kinds of bad records that are told one by one.
const SHOWN: usize = 5;

/// Pushes a file's lines, or those of standard input.
pub fn run(args: &IngestArgs, place: &Place, ui: &Ui) -> CommandResult {
    let app = place.open()?;
    let id = SourceId::from(args.source.as_str());
    let ingest = app.engine.ingest(&id)?;
    let mut input: Box<dyn BufRead> = match &args.file {
        None => Box::new(BufReader::new(std::io::stdin())),
        Some(file) => Box::new(BufReader::new(
            File::open(file)
                .or_code(code::IO, || format!("could not open \"{}\"", file.display()))?,
        )),
    };
    let runtime = app::runtime(None)?;
    let mut totals = Totals::default();
    loop {
        let (records, more) = take(&mut *input)?;
        if !records.is_empty() {
            runtime.block_on(push(&*ingest, records, args.strict, &mut totals))?;
        }
        if !more {
            break;
        }
    }
    let mut out = std::io::stdout().lock();
    if ui.json {
        let Totals { accepted, dead, .. } = &totals;
        writeln!(out, "{}", serde_json::json!({ "accepted": accepted, "dead_letters": dead }))?;
    } else {
        for line in &totals.shown {
            writeln!(std::io::stderr(), "{line}")?;
        }
        writeln!(out, "{} records accepted, {} dead letters", totals.accepted, totals.dead)?;
    }
    Ok(if totals.refused { Outcome::DataFailed } else { Outcome::Done })
}

#[derive(Debug, Default)]
struct Totals {
    accepted: u64,
    dead: u64,
    /// Whether anything was kept out as a whole.
    refused: bool,
    shown: Vec<String>,
    lines: u64,
}

/// The next records, and whether there may be more.
fn take(input: &mut dyn BufRead) -> Result<(Vec<Record>, bool)> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    while records.len() < RECORDS && bytes < BYTES {
        let mut line = Vec::new();
        let read = input
            .read_until(b'\n', &mut line)
            .or_code(code::IO, || "could not read the records".to_owned())?;
        if read == 0 {
            return Ok((records, false));
        }
        while matches!(line.last(), Some(b'\n' | b'\r')) {
            line.pop();
        }
        if !line.is_empty() {
            bytes += line.len();
            records.push(Record::new(line));
        }
    }
    Ok((records, true))
}

async fn push(
    ingest: &dyn Ingest,
    records: Vec<Record>,
    strict: bool,
    totals: &mut Totals,
) -> Result<()> {
    let before = totals.lines;
    totals.lines += records.len() as u64;
    let appended = ingest.append(AppendRequest { records, idempotency: None, strict }).await?;
    for reject in &appended.rejects {
        if totals.shown.len() < SHOWN {
            let number = before + reject.offset + 1;
            totals.shown.push(format!("record {number}: {} ({})", reject.message, reject.rule));
        }
    }
    totals.dead += appended.rejects.len() as u64;
    if appended.kept {
        totals.accepted += appended.accepted;
    } else {
        totals.refused = true;
        return Err(Error::new(code::DEAD_LETTER, "records are bad, and nothing of them was kept")
            .hint("mend them, or leave out --strict"));
    }
    Ok(())
}
