//! `freshet ingest`: pushes records into a source's log, each line one. Where a `freshet up` runs, it
//! is that which writes the log, and records are pushed to it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use freshet_core::error::code;
use freshet_core::ingest::{AppendRequest, Ingest, Record};
use freshet_core::{Error, Result, ResultExt, SourceId};

use hyper::{Method, StatusCode};

use crate::app::{self, Place};
use crate::cli::IngestArgs;
use crate::client::Client;
use crate::exit::{CommandResult, Outcome};
use crate::running::Note;
use crate::ui::Ui;

/// Records, and bytes, that are pushed at once.
const RECORDS: usize = 10_000;
const BYTES: usize = 4 << 20;

/// How long a `freshet up` that has too much to do is asked again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Kinds of bad records that are told one by one.
const SHOWN: usize = 5;

/// Pushes a file's lines, or those of standard input.
pub fn run(args: &IngestArgs, place: &Place, ui: &Ui) -> CommandResult {
    let app = place.open()?;
    let id = SourceId::from(args.source.as_str());
    // Names that the project does not have are told in any case.
    app.engine.source_table(&id)?;
    let state = &app.project.environment.state_dir;
    let running = Note::find(state).into_iter().find_map(|note| note.address);
    let target = match running {
        Some(address) => Target::Up(Client::new(address)),
        None => Target::Log(app.engine.ingest(&id)?),
    };
    let input: Box<dyn Read> = match &args.file {
        None => Box::new(std::io::stdin()),
        Some(file) => Box::new(
            File::open(file)
                .or_code(code::IO, || format!("could not open \"{}\"", file.display()))?,
        ),
    };
    let mut input = BufReader::with_capacity(1 << 20, input);
    let runtime = app::runtime(None)?;
    let mut totals = Totals::default();
    loop {
        let (records, more) = take(&mut input, args.file.is_none())?;
        if !records.is_empty() {
            runtime.block_on(target.push(&id, records, args.strict, &mut totals))?;
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

/// The next records, and whether there may be more. What comes through a pipe is not waited for
/// while there are some.
fn take(input: &mut BufReader<Box<dyn Read>>, piped: bool) -> Result<(Vec<Record>, bool)> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    let waits = |input: &BufReader<_>| piped && input.buffer().is_empty();
    while records.len() < RECORDS && bytes < BYTES && (records.is_empty() || !waits(input)) {
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

/// Where records go.
enum Target {
    Log(Arc<dyn Ingest>),
    Up(Client),
}

/// What became of the records that were pushed at once.
#[derive(Debug, Default)]
struct Pushed {
    kept: bool,
    accepted: u64,
    dead: u64,
    /// Bad records: the number from 1, and why.
    shown: Vec<(u64, String)>,
}

impl Target {
    async fn push(
        &self,
        source: &SourceId,
        records: Vec<Record>,
        strict: bool,
        totals: &mut Totals,
    ) -> Result<()> {
        let before = totals.lines;
        totals.lines += records.len() as u64;
        let pushed = match self {
            Self::Log(ingest) => append(&**ingest, records, strict).await?,
            Self::Up(client) => post(client, source, &records, strict).await?,
        };
        for (number, why) in pushed.shown {
            if totals.shown.len() < SHOWN {
                totals.shown.push(format!("record {}: {why}", before + number));
            }
        }
        totals.dead += pushed.dead;
        if pushed.kept {
            totals.accepted += pushed.accepted;
            return Ok(());
        }
        totals.refused = true;
        Err(Error::new(code::DEAD_LETTER, "records are bad, and nothing of them was kept")
            .hint("mend them, or leave out --strict"))
    }
}

async fn append(ingest: &dyn Ingest, records: Vec<Record>, strict: bool) -> Result<Pushed> {
    let appended = ingest.append(AppendRequest { records, idempotency: None, strict }).await?;
    let shown = appended.rejects.iter().take(SHOWN);
    Ok(Pushed {
        kept: appended.kept,
        accepted: appended.accepted,
        dead: appended.rejects.len() as u64,
        shown: shown
            .map(|reject| (reject.offset + 1, format!("{} ({})", reject.message, reject.rule)))
            .collect(),
    })
}

async fn post(
    client: &Client,
    source: &SourceId,
    records: &[Record],
    strict: bool,
) -> Result<Pushed> {
    let mut lines = Vec::new();
    for record in records {
        lines.extend_from_slice(&record.value);
        lines.push(b'\n');
    }
    let lines = Bytes::from(lines);
    let path = format!("/v1/ingest/{source}?strict={strict}");
    let mut waited = Duration::ZERO;
    let answer = loop {
        let answer = client.ask(Method::POST, &path, "text/plain", lines.clone()).await?;
        if answer.status != StatusCode::TOO_MANY_REQUESTS || waited >= LONGEST_WAIT {
            break answer;
        }
        let wait = Duration::from_secs(answer.retry_after.unwrap_or(1).max(1));
        tokio::time::sleep(wait).await;
        waited += wait;
    };
    let refused = answer.status == StatusCode::UNPROCESSABLE_ENTITY;
    let told: serde_json::Value = match serde_json::from_slice::<serde_json::Value>(&answer.body) {
        Ok(told) if refused && told["kept"] == serde_json::Value::Bool(false) => told,
        _ => answer.json()?,
    };
    let count = |name: &str| told[name].as_u64().unwrap_or_default();
    let rejects = told["rejects"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |reject: &serde_json::Value, name: &str| {
        reject[name].as_str().unwrap_or_default().to_owned()
    };
    let shown = rejects.iter().take(SHOWN).map(|reject| {
        let why = format!("{} ({})", text(reject, "message"), text(reject, "code"));
        (reject["line"].as_u64().unwrap_or_default(), why)
    });
    Ok(Pushed {
        kept: told["kept"].as_bool().unwrap_or_default(),
        accepted: count("accepted"),
        dead: count("rejected"),
        shown: shown.collect(),
    })
}
