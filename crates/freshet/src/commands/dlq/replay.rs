//! `freshet dlq replay`: corrections are kept beside the lake, then what reads the source is run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use freshet_core::clock::{Clock, SystemClock};
use freshet_engine::replay::Replay;
use freshet_orchestrator::lock::EnvironmentLock;
use freshet_orchestrator::run_id;
use serde::Deserialize;

use super::*;
use crate::cli::{ReplayArgs, SelectArgs};
use crate::commands::run::{RunRequest, run_and_report};

/// A line of corrections is no longer than this.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// Letters that one replay takes at most.
const MAX_LETTERS: usize = 1_000_000;

/// One line of a file of corrections. Other fields, as `dlq show --json` has them, are ignored.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Line {
    id: String,
    #[serde(default)]
    record: Option<String>,
    #[serde(default)]
    drop: bool,
}

/// Keeps the corrections and runs what they concern.
pub async fn run(app: &App, args: &ReplayArgs, ui: &Ui) -> CommandResult {
    let replays = collect(app, args).await?;
    let given = replays.len();
    if given == 0 {
        if !ui.json && !ui.quiet {
            println_out("nothing to replay: no dead letter is chosen")?;
        }
        return Ok(Outcome::Done);
    }
    let replayed = {
        let now = SystemClock.now();
        let id = run_id(now, u64::from(std::process::id()));
        let _lock = EnvironmentLock::acquire(&app.project.environment.state_dir, &id, now)?;
        app.engine.replay(replays).await?
    };
    if !ui.json && !ui.quiet {
        let known = match replayed.known {
            0 => String::new(),
            n => format!(", {} kept before", count(n as u64)),
        };
        println_out(&format!("{} kept{known}", counted(replayed.added as u64, "correction")))?;
    }
    if !replayed.streams.is_empty() && !ui.json && !ui.quiet {
        println_out("jobs of `freshet up` read them within seconds, others when they begin")?;
    }
    if replayed.sources.is_empty() || args.no_run {
        return Ok(Outcome::Done);
    }
    let select = replayed.sources.iter().map(|source| format!("source:{source}+")).collect();
    let nodes = SelectArgs { select, exclude: Vec::new() };
    run_and_report(app, &RunRequest { nodes, ..RunRequest::default() }, ui).await
}

fn println_out(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

async fn collect(app: &App, args: &ReplayArgs) -> Result<Vec<Replay>> {
    if args.contract {
        let filter = Filter::new(app, &args.filter).await?;
        let letters = letters(app, &filter, MAX_LETTERS + 1).await?;
        if letters.len() > MAX_LETTERS {
            return Err(Error::new(code::LIMIT, "more than 1,000,000 dead letters are chosen")
                .hint("choose fewer with --source, --rule, --run or --path"));
        }
        // What is of no source came from a check: it has no record that could be read again.
        let of_source = |letter: &DeadLetter| {
            app.project.sources.keys().any(|source| source.as_str() == letter.source)
        };
        return Ok(letters
            .into_iter()
            .filter(of_source)
            .map(|letter| Replay { bytes: letter.raw.clone(), letter })
            .collect());
    }
    let lines = match &args.file {
        Some(file) if file == Path::new("-") => read(&mut io::stdin().lock(), "standard input")?,
        Some(file) => {
            let name = file.display().to_string();
            let opened = File::open(file)
                .or_code(code::ARGUMENTS, || format!("could not open file \"{name}\""))?;
            read(&mut BufReader::new(opened), &name)?
        }
        None => from_arguments(args)?,
    };
    let mut replays = Vec::with_capacity(lines.len());
    let mut errors = Vec::new();
    for line in lines {
        match letter(app, &line.id).await {
            Ok(letter) => {
                let bytes = if line.drop {
                    Vec::new()
                } else {
                    corrected(&line.record.unwrap_or_default(), &letter)
                };
                replays.push(Replay { letter, bytes });
            }
            Err(error) => errors.push(error),
        }
    }
    Error::join(errors).map_or(Ok(replays), Err)
}

/// The record's bytes. Text that the user left as it was shown stands for the bytes as they were.
fn corrected(record: &str, letter: &DeadLetter) -> Vec<u8> {
    if record == String::from_utf8_lossy(&letter.raw) {
        return letter.raw.clone();
    }
    record.trim_end_matches(['\r', '\n']).as_bytes().to_vec()
}

fn from_arguments(args: &ReplayArgs) -> Result<Vec<Line>> {
    if !args.drop && (args.record.is_none() || args.id.len() > 1) {
        let error = Error::new(code::ARGUMENTS, "there is nothing to read in the record's place");
        return Err(error.hint("give one --id with --record TEXT, ids with --drop, or --file FILE"));
    }
    let line = |id: &String| Line { id: id.clone(), record: args.record.clone(), drop: args.drop };
    let lines: Vec<Line> = args.id.iter().map(line).collect();
    match lines.iter().find_map(|line| check(line).err()) {
        Some(message) => Err(Error::new(code::ARGUMENTS, message)),
        None => Ok(lines),
    }
}

/// What is wrong with a line.
fn check(line: &Line) -> Result<(), String> {
    let empty = line.record.as_ref().is_none_or(|record| record.trim().is_empty());
    if line.id.is_empty() {
        Err("the id is empty".to_owned())
    } else if !line.drop && line.record.is_none() {
        Err("field \"record\" is missing; to leave a record out for good, say \"drop\": true"
            .to_owned())
    } else if !line.drop && empty {
        Err("the record is empty; to leave it out for good, say \"drop\": true".to_owned())
    } else {
        Ok(())
    }
}

/// Reads corrections; all lines that are wrong are named at once. Later lines replace earlier ones
/// of the same id.
fn read(from: &mut dyn BufRead, name: &str) -> Result<Vec<Line>> {
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    let mut errors = Vec::new();
    let mut number = 0;
    loop {
        let mut bytes = Vec::new();
        let taken = (&mut *from)
            .take(MAX_LINE_BYTES + 1)
            .read_until(b'\n', &mut bytes)
            .or_code(code::IO, || format!("could not read {name}"))?;
        if taken == 0 {
            break;
        }
        number += 1;
        let at = |message: String| {
            Error::new(code::ARGUMENTS, message).at(freshet_core::Location::line(name, number))
        };
        if taken as u64 > MAX_LINE_BYTES {
            return Err(at("the line is longer than 16 MiB".to_owned()));
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice::<Line>(&bytes) {
            Ok(line) => match check(&line) {
                Ok(()) => {
                    lines.insert(line.id.clone(), line);
                }
                Err(message) => errors.push(at(message)),
            },
            Err(error) => errors.push(at(format!("the line is no correction: {error}"))),
        }
        if lines.len() > MAX_LETTERS {
            return Err(at("there are more than 1,000,000 corrections".to_owned()));
        }
    }
    Error::join(errors).map_or_else(|| Ok(lines.into_values().collect()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrections_are_read_and_wrong_lines_named_at_once() {
        let good = b"{\"id\":\"a:1\",\"record\":\"1,2\",\"rule\":\"type\"}\n\n{\"id\":\"a:9\",\"drop\":true}\n{\"id\":\"a:1\",\"record\":\"1,3\"}";
        let lines = read(&mut good.as_slice(), "fixes.jsonl").expect("all lines are good");
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].record.as_deref(), Some("1,3"));
        assert!(lines[1].drop);

        let bad = b"{\"id\":\"a:1\"}\nnot json\n{\"id\":\"a:2\",\"record\":\"ok\"}\n{\"id\":\"\",\"drop\":true}\n\xff\n{\"id\":\"a:3\",\"record\":\" \"}";
        let error = read(&mut bad.as_slice(), "fixes.jsonl").expect_err("five lines are wrong");
        let places: Vec<_> = error
            .all()
            .map(|error| error.location().expect("each has its line").to_string())
            .collect();
        assert_eq!(
            places,
            ["fixes.jsonl:1", "fixes.jsonl:2", "fixes.jsonl:4", "fixes.jsonl:5", "fixes.jsonl:6"]
        );
    }

    #[test]
    fn untouched_text_stands_for_the_bytes_as_they_were() {
        let mut letter = super::super::tests::letter();
        letter.raw = b"1,\xff".to_vec();
        let shown = String::from_utf8_lossy(&letter.raw).into_owned();
        assert_eq!(corrected(&shown, &letter), letter.raw);
        assert_eq!(corrected("1,2\r\n", &letter), b"1,2");
    }
}
