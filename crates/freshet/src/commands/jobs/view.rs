//! Jobs as tables for people.

use std::io::{self, Write};

use freshet_core::stream::EventTime;
use freshet_runtime::figures::{JobFigures, Phase, StageFigures, TaskFigures};

use super::stored::Stored;
use crate::format::{bytes, count, counted, seconds, short_count};
use crate::table::{Align, Cell, Frame, Table, Tone};
use crate::ui::{Ui, printable};

/// What is not known.
const UNKNOWN: &str = "-";

/// A line for each job: what it was a moment ago and is now, then those that do not run.
pub fn list(
    out: &mut dyn Write,
    jobs: &[(JobFigures, JobFigures)],
    others: &[&Stored],
    now: i64,
    ui: &Ui,
) -> io::Result<()> {
    if jobs.is_empty() && others.is_empty() {
        return writeln!(out, "no jobs: `freshet up` starts the streaming models of the project");
    }
    let columns = [
        ("job", Align::Left),
        ("is", Align::Left),
        ("for", Align::Right),
        ("records/s", Align::Right),
        ("lag", Align::Right),
        ("behind", Align::Right),
        ("late", Align::Right),
        ("dead", Align::Right),
        ("state", Align::Right),
        ("checkpoint", Align::Right),
        ("waits for", Align::Left),
    ];
    let mut table = Table::new(columns, Frame::Open).whole(1);
    for (before, job) in jobs {
        let rate = rate(before, job, JobFigures::records);
        let checkpoint = job.checkpoints.last.map(|last| ago(job.at, last.at));
        let wait = job.waits.iter().min_by_key(|wait| wait.since);
        let wait =
            wait.map(|wait| format!("{}: {}, {}", wait.what, wait.reason, ago(job.at, wait.since)));
        table.row([
            Cell::from(printable(&job.job, false)),
            Cell::toned(job.phase.as_str(), tone(job.phase)),
            ago(job.at, job.since).into(),
            short_count(rate).into(),
            lag(job).into(),
            delay(job.tasks().map(|(_, _, task)| task), job.at).into(),
            warned(job.late()),
            warned(job.dead_letters()),
            bytes(job.state().0).into(),
            checkpoint.unwrap_or_else(|| UNKNOWN.to_owned()).into(),
            printable(&wait.unwrap_or_default(), false).into(),
        ]);
    }
    for stored in others {
        let unknown = || Cell::toned(UNKNOWN, Tone::Dim);
        let is = if stored.finished { "ended" } else { "stopped" };
        table.row([
            Cell::from(printable(&stored.job, false)),
            Cell::toned(is, Tone::Dim),
            unknown(),
            unknown(),
            unknown(),
            unknown(),
            unknown(),
            unknown(),
            bytes(stored.bytes).into(),
            ago(now, stored.created).into(),
            Cell::default(),
        ]);
    }
    table.write(out, ui.width, ui.out)
}

/// A job that does not run here.
pub fn stored(out: &mut dyn Write, job: &Stored, now: i64, ui: &Ui) -> io::Result<()> {
    let is = if job.finished { "all of its input was read" } else { "it does not run here" };
    writeln!(out, "{}  {}", ui.out.bold(&printable(&job.job, false)), ui.out.dim(is))?;
    writeln!(
        out,
        "checkpoint {} of generation {}: {} ago, {} of state",
        job.epoch,
        job.generation,
        ago(now, job.created),
        bytes(job.bytes)
    )?;
    savepoints(out, &job.savepoints)
}

/// A job that runs: what it was a moment ago and is now.
pub fn show(
    out: &mut dyn Write,
    before: &JobFigures,
    job: &JobFigures,
    names: &[String],
    ui: &Ui,
) -> io::Result<()> {
    writeln!(
        out,
        "{}  {} for {}, generation {}, {}",
        ui.out.bold(&printable(&job.job, false)),
        match tone(job.phase) {
            Tone::Good => ui.out.green(job.phase.as_str()),
            _ => ui.out.yellow(job.phase.as_str()),
        },
        ago(job.at, job.since),
        job.generation,
        counted(job.restarts, "restart"),
    )?;
    if let Some(failure) = &job.failure {
        writeln!(out, "last failure: {}", printable(failure, false))?;
    }
    checkpoints(out, job)?;
    savepoints(out, names)?;
    writeln!(out)?;
    stages(before, job).write(out, ui.width, ui.out)?;
    let splits = splits(before, job);
    if !splits.is_empty() {
        writeln!(out)?;
        splits.write(out, ui.width, ui.out)?;
    }
    writeln!(out)?;
    for sink in &job.sinks {
        let committed = match (sink.committed, sink.committed_at, sink.latency) {
            (Some(epoch), Some(at), Some(latency)) => {
                format!("epoch {epoch} committed {} ago in {}", ago(job.at, at), span(latency))
            }
            _ => "nothing committed yet".to_owned(),
        };
        let id = printable(&sink.id, false);
        writeln!(out, "sink {id}: {}, {committed}", counted(sink.rows, "row"))?;
    }
    for wait in &job.waits {
        writeln!(
            out,
            "{} {} for {}: {}",
            printable(&wait.what, false),
            ui.out.yellow("waits"),
            ago(job.at, wait.since),
            printable(&wait.reason, false)
        )?;
    }
    Ok(())
}

fn checkpoints(out: &mut dyn Write, job: &JobFigures) -> io::Result<()> {
    let checkpoints = &job.checkpoints;
    match &checkpoints.last {
        None => write!(out, "no checkpoint yet")?,
        Some(last) => write!(
            out,
            "checkpoint {}: {} ago in {}, {} of state, {} of them new",
            last.epoch,
            ago(job.at, last.at),
            span(last.duration),
            bytes(last.bytes),
            bytes(last.new_bytes)
        )?,
    }
    write!(out, "; {} made", count(checkpoints.completed))?;
    for (number, what) in [(checkpoints.failed, "failed"), (checkpoints.retries, "tries again")] {
        if number > 0 {
            write!(out, ", {} {what}", count(number))?;
        }
    }
    writeln!(out)
}

fn savepoints(out: &mut dyn Write, names: &[String]) -> io::Result<()> {
    match names {
        [] => Ok(()),
        names => writeln!(out, "savepoints: {}", printable(&names.join(", "), false)),
    }
}

/// A line for each stage, with its operators below.
fn stages(before: &JobFigures, job: &JobFigures) -> Table {
    let columns = [
        ("stage", Align::Left),
        ("tasks", Align::Right),
        ("rows/s in", Align::Right),
        ("out", Align::Right),
        ("behind", Align::Right),
        ("busy", Align::Right),
        ("blocked", Align::Right),
        ("idle", Align::Right),
        ("queue", Align::Right),
        ("left out", Align::Right),
        ("late", Align::Right),
        ("state", Align::Right),
        ("keys", Align::Right),
    ];
    let mut table = Table::new(columns, Frame::Open).whole(1);
    for (place, stage) in job.stages.iter().enumerate() {
        let was = before.stages.get(place);
        let per_second = |of: fn(&TaskFigures) -> u64| {
            let then = was.map_or(0, |was| sum(was, of));
            short_count(per_second(before, job, then, sum(stage, of)))
        };
        let share = |of: fn(&TaskFigures) -> u64| {
            let then = was.map_or(0, |was| sum(was, of));
            let time = (job.at - before.at).max(1) as f64 * stage.tasks.len().max(1) as f64;
            let share = sum(stage, of).saturating_sub(then) as f64 / time;
            format!("{:.0}%", share.min(1.0) * 100.0)
        };
        let queues: Vec<f64> =
            stage.tasks.iter().filter_map(|task| Some(task.queue?.fill)).collect();
        let queue = match queues.is_empty() {
            true => UNKNOWN.to_owned(),
            false => format!("{:.0}%", queues.into_iter().fold(0.0, f64::max) * 100.0),
        };
        table.row([
            Cell::from(printable(&stage.id, false)),
            count(stage.tasks.len() as u64).into(),
            per_second(|task| task.rows_in).into(),
            per_second(|task| task.rows_out).into(),
            delay(stage.tasks.iter(), job.at).into(),
            share(|task| task.busy).into(),
            share(|task| task.blocked).into(),
            share(|task| task.idle).into(),
            queue.into(),
            Cell::default(),
            Cell::default(),
            Cell::default(),
            Cell::default(),
        ]);
        for (place, name) in stage.operators.iter().enumerate() {
            let operators = stage.tasks.iter().filter_map(|task| task.operators.get(place));
            let (mut left_out, mut late, mut state, mut keys) = (0, 0, 0, 0);
            for operator in operators {
                left_out += operator.filtered + operator.deduplicated + operator.unmatched;
                late += operator.late;
                state += operator.state_bytes;
                keys += operator.state_keys;
            }
            let empty = Cell::default;
            let state = if state + keys > 0 { bytes(state) } else { UNKNOWN.to_owned() };
            let keys = if keys > 0 { short_count(keys) } else { UNKNOWN.to_owned() };
            table.row([
                Cell::toned(format!("  {}", printable(name, false)), Tone::Dim),
                empty(),
                empty(),
                empty(),
                empty(),
                empty(),
                empty(),
                empty(),
                empty(),
                count(left_out).into(),
                warned(late),
                state.into(),
                keys.into(),
            ]);
        }
    }
    table
}

/// A line for each partition that is read.
fn splits(before: &JobFigures, job: &JobFigures) -> Table {
    let columns = [
        ("partition", Align::Left),
        ("records/s", Align::Right),
        ("position", Align::Right),
        ("lag", Align::Right),
        ("lag in time", Align::Right),
        ("behind", Align::Right),
        ("dead", Align::Right),
    ];
    let mut table = Table::new(columns, Frame::Open).whole(1);
    for (place, stage) in job.stages.iter().enumerate() {
        for split in stage.tasks.iter().flat_map(|task| &task.splits) {
            let was = before.stages.get(place).into_iter().flat_map(|stage| &stage.tasks);
            let was = was.flat_map(|task| &task.splits).find(|was| was.split == split.split);
            let rate = per_second(before, job, was.map_or(0, |was| was.records), split.records);
            let unknown = || UNKNOWN.to_owned();
            table.row([
                Cell::from(printable(&format!("{} {}", stage.id, split.split), false)),
                short_count(rate).into(),
                split.position.map_or_else(unknown, count).into(),
                split.lag_records().map_or_else(unknown, count).into(),
                split.lag(job.at).map_or_else(unknown, span).into(),
                match split.is_idle {
                    true => Cell::toned("idle", Tone::Dim),
                    false => time_behind(split.watermark, job.at).unwrap_or_else(unknown).into(),
                },
                warned(split.dead_letters),
            ]);
        }
    }
    table
}

fn sum(stage: &StageFigures, of: fn(&TaskFigures) -> u64) -> u64 {
    stage.tasks.iter().map(of).sum()
}

fn rate(before: &JobFigures, job: &JobFigures, of: fn(&JobFigures) -> u64) -> u64 {
    per_second(before, job, of(before), of(job))
}

/// Counts begin at zero with each life of a job: then nothing is known of the time before.
fn per_second(before: &JobFigures, job: &JobFigures, then: u64, now: u64) -> u64 {
    let micros = u64::try_from(job.at - before.at).unwrap_or_default().max(1);
    let then = if before.generation == job.generation { then } else { 0 };
    (u128::from(now.saturating_sub(then)) * 1_000_000 / u128::from(micros)) as u64
}

/// How far event time is behind, in the task that is furthest behind: of those that others wait for.
fn delay<'a>(tasks: impl Iterator<Item = &'a TaskFigures>, now: i64) -> String {
    let slowest = tasks.filter(|task| !task.is_idle).filter_map(|task| task.watermark).min();
    time_behind(slowest, now).unwrap_or_else(|| UNKNOWN.to_owned())
}

fn time_behind(time: Option<EventTime>, now: i64) -> Option<String> {
    match time? {
        EventTime::MAX => Some("end".to_owned()),
        EventTime(time) => Some(span(now.saturating_sub(time))),
    }
}

/// The lag of all partitions together, where it is known.
fn lag(job: &JobFigures) -> String {
    let splits = job.tasks().flat_map(|(_, _, task)| &task.splits);
    let lags: Vec<u64> = splits.filter_map(|split| split.lag_records()).collect();
    match lags.is_empty() {
        true => UNKNOWN.to_owned(),
        false => short_count(lags.into_iter().sum()),
    }
}

fn warned(number: u64) -> Cell {
    Cell::toned(count(number), if number > 0 { Tone::Warn } else { Tone::Dim })
}

fn tone(phase: Phase) -> Tone {
    match phase {
        Phase::Running => Tone::Good,
        Phase::Starting | Phase::Draining => Tone::Plain,
        Phase::Failed => Tone::Bad,
        Phase::Ended => Tone::Dim,
    }
}

fn ago(now: i64, then: i64) -> String {
    span((now - then).max(0))
}

/// A span in microseconds.
fn span(micros: i64) -> String {
    match micros {
        0..1_000_000 => format!("{} ms", micros / 1000),
        _ => seconds(micros as f64 / 1e6),
    }
}
