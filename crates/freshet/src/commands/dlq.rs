//! `freshet dlq`: the records that were not accepted, and their replay; rows that came too late.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Write};

use arrow::array::{Array, AsArray};
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};
use freshet_engine::DeadLetter;
use freshet_engine::corrections::SourceCorrections;
use freshet_engine::dead_letters;
use freshet_engine::overlay::{self, Given};
use freshet_orchestrator::MetaStore;
use futures::TryStreamExt;

use super::sql::query;
use crate::app::{self, App, Place};
use crate::cli::{DlqArgs, DlqCommand, DlqFilter};
use crate::exit::{CommandResult, Outcome};
use crate::format::{count, counted};
use crate::table::{Align, Cell, Frame, Table, Tone};
use crate::ui::{Ui, printable};

mod late;
mod replay;

/// A record longer than this is cut where it is shown to people.
const SHOWN_BYTES: usize = 400;

/// Lists, shows or replays.
pub fn run(args: &DlqArgs, place: &Place, ui: &Ui) -> CommandResult {
    let app = place.open()?;
    let runtime = app::runtime(None)?;
    match &args.command {
        DlqCommand::Ls { filter, late: true } => {
            runtime.block_on(late::ls(&app, filter.source.as_deref(), ui))
        }
        DlqCommand::Show { filter, limit, late: true, .. } => {
            runtime.block_on(late::show(&app, filter.source.as_deref(), *limit, ui))
        }
        DlqCommand::Ls { filter, .. } => runtime.block_on(async {
            let filter = Filter::new(&app, filter).await?;
            let groups = groups(&app, &filter).await?;
            list(&mut io::stdout().lock(), &groups, ui)?;
            Ok(Outcome::Done)
        }),
        DlqCommand::Show { id, filter, limit, .. } => runtime.block_on(async {
            let filter = Filter::new(&app, filter).await?.with_id(id.clone());
            let letters = letters(&app, &filter, *limit).await?;
            if let (Some(id), true) = (id, letters.is_empty()) {
                return Err(unknown(id).into());
            }
            show(&mut io::stdout().lock(), &letters, ui)?;
            Ok(Outcome::Done)
        }),
        DlqCommand::Replay(args) => runtime.block_on(replay::run(&app, args, ui)),
    }
}

fn unknown(id: &str) -> Error {
    Error::new(code::DEAD_LETTER, format!("there is no dead letter \"{id}\""))
        .hint("`freshet dlq show` lists them with their ids")
}

/// Which dead letters, the run's id in full.
#[derive(Debug, Clone, Default)]
struct Filter {
    source: Option<String>,
    rule: Option<String>,
    run: Option<String>,
    path: Option<String>,
    id: Option<String>,
}

impl Filter {
    async fn new(app: &App, args: &DlqFilter) -> Result<Self> {
        let run = match &args.run {
            None => None,
            Some(run) => {
                let store: MetaStore = app.meta().await?;
                Some(store.run(run).await?.id.as_str().to_owned())
            }
        };
        Ok(Self {
            source: args.source.clone(),
            rule: args.rule.clone(),
            run,
            path: args.path.clone(),
            id: None,
        })
    }

    fn with_id(self, id: Option<String>) -> Self {
        Self { id, ..self }
    }

    /// The condition in SQL.
    fn condition(&self) -> String {
        let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let mut parts = Vec::new();
        for (column, value) in [("source", &self.source), ("rule", &self.rule), ("run", &self.run)]
        {
            if let Some(value) = value {
                parts.push(format!("{column} = {}", text(value)));
            }
        }
        if let Some(path) = &self.path {
            parts.push(format!("strpos(file, {}) > 0", text(path)));
        }
        if let Some(id) = &self.id {
            parts.push(format!("starts_with(id, {})", text(id)));
        }
        if parts.is_empty() { "true".to_owned() } else { parts.join(" and ") }
    }
}

/// How many there are of one source, rule and run.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Group {
    source: String,
    rule: String,
    run: String,
    records: u64,
    /// Of these, records that have a correction which was not rejected in its turn.
    replayed: u64,
}

/// The ids of the records that have a correction which was not rejected.
async fn corrected(app: &App) -> Result<HashSet<String>> {
    let mut given: HashMap<String, Given> = HashMap::new();
    for source in app.project.sources.keys() {
        let all = overlay::given(app.engine.lake().store(), source).await?;
        given.extend(
            all.into_iter().map(|((digest, offset), given)| {
                (dead_letters::id(Some(&digest), "", offset), given)
            }),
        );
    }
    for source in app.project.sources.keys() {
        let corrections = SourceCorrections::new(app.engine.lake().store(), source);
        given.extend(corrections.given().await?.0.into_iter().map(
            |((partition, position), given)| {
                (dead_letters::stream_id(source, &partition, position), given)
            },
        ));
    }
    if given.is_empty() {
        return Ok(HashSet::new());
    }
    let oldest = given.values().filter_map(|given| given.at).min().unwrap_or_default();
    // Only letters that are newer than a correction can be about it.
    let sql = format!(
        "select * from freshet.dead_letters where at > to_timestamp_micros({})",
        oldest.timestamp_micros()
    );
    let mut rows = query(app, &sql, None).await?.batches;
    while let Some(batch) = rows.try_next().await? {
        for letter in dead_letters::from_batch(&batch)? {
            if given.get(&letter.id).is_some_and(|g| g.is_rejected_by(&letter.raw, letter.at)) {
                given.remove(&letter.id);
            }
        }
    }
    Ok(given.into_keys().collect())
}

/// Counts, newest run first. A record that several builds of a run found counts once.
async fn groups(app: &App, filter: &Filter) -> Result<Vec<Group>> {
    let corrected = corrected(app).await?;
    let sql = format!(
        "select distinct run, source, rule, id from freshet.dead_letters where {}",
        filter.condition()
    );
    let mut rows = query(app, &sql, None).await?.batches;
    let mut groups: BTreeMap<(String, String, String), Group> = BTreeMap::new();
    while let Some(batch) = rows.try_next().await? {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| column.as_string_view()).collect();
        for row in 0..batch.num_rows() {
            let [run, source, rule, id] = [0, 1, 2, 3]
                .map(|i: usize| if columns[i].is_null(row) { "" } else { columns[i].value(row) });
            let key = (run.to_owned(), source.to_owned(), rule.to_owned());
            let group = groups.entry(key).or_insert_with(|| Group {
                source: source.to_owned(),
                rule: rule.to_owned(),
                run: run.to_owned(),
                ..Group::default()
            });
            group.records += 1;
            group.replayed += u64::from(corrected.contains(id));
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by(|a, b| (&b.run, &a.source, &a.rule).cmp(&(&a.run, &b.source, &b.rule)));
    Ok(groups)
}

fn list(out: &mut dyn Write, groups: &[Group], ui: &Ui) -> io::Result<()> {
    if ui.json {
        let json = serde_json::to_string(groups).map_err(io::Error::other)?;
        return writeln!(out, "{json}");
    }
    if groups.is_empty() {
        return writeln!(out, "no dead letters");
    }
    let columns = [
        ("run", Align::Left),
        ("source", Align::Left),
        ("rule", Align::Left),
        ("records", Align::Right),
        ("replayed", Align::Right),
    ];
    let mut table = Table::new(columns, Frame::Open).whole(1);
    for group in groups {
        let replayed = match group.replayed {
            0 => Cell::toned("-", Tone::Dim),
            n => Cell::toned(count(n), Tone::Good),
        };
        table.row([
            Cell::from(printable(&group.run, false)),
            printable(&group.source, false).into(),
            printable(&group.rule, false).into(),
            count(group.records).into(),
            replayed,
        ]);
    }
    table.write(out, ui.width, ui.out)?;
    writeln!(
        out,
        "{} `freshet dlq show --source NAME --rule RULE` for the records",
        ui.out.dim("next:")
    )
}

/// The letters that a filter chooses, each record once, as the newest run found it.
async fn letters(app: &App, filter: &Filter, limit: usize) -> Result<Vec<DeadLetter>> {
    let sql = format!(
        "select * from freshet.dead_letters where {} \
         order by at desc, file nulls first, \"offset\" nulls first",
        filter.condition()
    );
    let mut rows = query(app, &sql, None).await?.batches;
    let mut seen = HashSet::new();
    let mut letters = Vec::new();
    while let Some(batch) = rows.try_next().await? {
        for letter in dead_letters::from_batch(&batch)? {
            if letters.len() == limit {
                return Ok(letters);
            }
            if seen.insert(letter.id.clone()) {
                letters.push(letter);
            }
        }
    }
    Ok(letters)
}

/// A letter as programs read it, and as `dlq replay --file` takes it once the record is corrected.
fn to_json(letter: &DeadLetter) -> serde_json::Value {
    let text = std::str::from_utf8(&letter.raw);
    serde_json::json!({
        "id": letter.id,
        "record": String::from_utf8_lossy(&letter.raw),
        // Bytes that are not UTF-8 are `\u{fffd}` in `record`; here they are as they were.
        "bytes": text.is_err().then_some(&letter.raw),
        "source": letter.source,
        "model": letter.model,
        "run": letter.run,
        "rule": letter.rule,
        "column": letter.column,
        "message": letter.message,
        "file": letter.file,
        "line": letter.line,
        "offset": letter.offset,
        "at": letter.at,
    })
}

fn show(out: &mut dyn Write, letters: &[DeadLetter], ui: &Ui) -> io::Result<()> {
    for (i, letter) in letters.iter().enumerate() {
        if ui.json {
            writeln!(out, "{}", to_json(letter))?;
            continue;
        }
        if i > 0 {
            writeln!(out)?;
        }
        show_one(out, letter, ui)?;
    }
    if letters.is_empty() && !ui.json {
        writeln!(out, "no dead letters")?;
    }
    Ok(())
}

fn show_one(out: &mut dyn Write, letter: &DeadLetter, ui: &Ui) -> io::Result<()> {
    let paint = ui.out;
    writeln!(
        out,
        "{}  {}  {}  {}",
        paint.cyan(&printable(&letter.id, false)),
        printable(&letter.source, false),
        paint.yellow(&printable(&letter.rule, false)),
        paint.dim(&printable(letter.run.as_str(), false))
    )?;
    let line = letter.line.map(|line| format!(":{line}")).unwrap_or_default();
    let column =
        letter.column.as_ref().map(|column| format!(", column \"{column}\"")).unwrap_or_default();
    if let Some(file) = &letter.file {
        writeln!(out, "  {}", printable(&format!("{file}{line}{column}"), false))?;
    }
    writeln!(out, "  {}", printable(&letter.message, false))?;
    let cut = letter.raw.len() > SHOWN_BYTES;
    let shown = &letter.raw[..letter.raw.len().min(SHOWN_BYTES)];
    let text = printable(&shown_text(shown), false);
    let more = if cut {
        format!(" … {}", counted(letter.raw.len() as u64, "byte"))
    } else {
        String::new()
    };
    writeln!(out, "  {} {text}{}", paint.dim("|"), paint.dim(&more))
}

/// Bytes as text; those that are none as `\xff`.
fn shown_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// One letter by its whole id.
async fn letter(app: &App, id: &str) -> Result<DeadLetter> {
    let filter = Filter { id: Some(id.to_owned()), ..Filter::default() };
    let found = letters(app, &filter, 2).await?;
    match found.as_slice() {
        [] => Err(unknown(id)),
        [one] => Ok(one.clone()),
        several => several.iter().find(|letter| letter.id == id).cloned().ok_or_else(|| {
            Error::new(code::DEAD_LETTER, format!("\"{id}\" is the start of more than one id"))
                .hint("give more of it")
        }),
    }
}

#[cfg(test)]
mod tests;
