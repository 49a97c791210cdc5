//! Progress of a run as it goes: bars on a terminal, lines elsewhere, one JSON object an event for
//! programs.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use freshet_core::ModelId;
use freshet_engine::{BuildProgress, ErrorReport};
use freshet_orchestrator::{RunEvent, RunObserver, Status, TaskReport};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use parking_lot::Mutex;

use crate::format::{bytes, counted, seconds, short_count};
use crate::report::{painted_status, task_seconds};
use crate::ui::{Paint, Ui, printable};

/// The bars that are on the terminal now; log lines go around them.
static BARS: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Runs `print` while no bar is on the terminal.
pub fn suspend<R>(print: impl FnOnce() -> R) -> R {
    // The handle is cloned so that the lock is not held while printing.
    let bars = BARS.lock().clone();
    match bars {
        Some(bars) => bars.suspend(print),
        None => print(),
    }
}

/// The observer that fits the user.
pub fn observer(ui: &Ui) -> Arc<dyn RunObserver> {
    if ui.json {
        Arc::new(JsonLines::new(std::io::stdout()))
    } else if ui.quiet {
        Arc::new(Nothing)
    } else if ui.live {
        Arc::new(Bars::new(ui.err))
    } else {
        Arc::new(Lines::new(std::io::stderr(), ui.err))
    }
}

/// Tells nothing.
#[derive(Debug)]
struct Nothing;

impl RunObserver for Nothing {
    fn on_event(&self, _: RunEvent) {}
}

/// How far a task has come.
#[derive(Debug)]
struct Told {
    phase: &'static str,
    since: Instant,
    progress: BuildProgress,
}

/// How far a task has come, in one line that is no longer than `room`, the less important left out:
/// `execute  12 files  3.4M rows  512 MB of 1.3 GB  480 MB/s  2 s left`, and once all is read
/// `execute  12 files  9.1M rows  1.3 GB  2.2M rows written  7 s`.
fn describe(phase: &str, progress: &BuildProgress, elapsed: Duration, room: usize) -> String {
    // What stands first in a line is dropped last, with the higher number before the lower.
    let mut parts = vec![(0, format!("{phase:<7}"))];
    let s = elapsed.as_secs_f64();
    let reading = phase == "execute" && progress.bytes < progress.bytes_total;
    if phase == "execute" {
        if progress.files > 0 {
            parts.push((5, counted(progress.files, "file")));
        }
        if progress.records > 0 {
            parts.push((2, format!("{} rows", short_count(progress.records))));
        }
        if reading {
            let (read, all) = (bytes(progress.bytes), bytes(progress.bytes_total));
            parts.push((4, format!("{read} of {all}")));
        } else if progress.bytes_total > 0 {
            parts.push((4, bytes(progress.bytes_total)));
        }
    }
    if progress.rows_written > 0 && !reading {
        parts.push((1, format!("{} rows written", short_count(progress.rows_written))));
    }
    if reading && progress.bytes > 0 && s > 0.2 {
        let rate = progress.bytes as f64 / s;
        parts.push((3, format!("{}/s", bytes(rate as u64))));
        let left = (progress.bytes_total - progress.bytes) as f64 / rate;
        if left >= 0.5 {
            parts.push((1, format!("{left:.0} s left")));
        }
    }
    if s >= 1.0 && !parts.iter().any(|(_, part)| part.ends_with("left")) {
        parts.push((1, format!("{s:.0} s")));
    }
    let width = |parts: &[(u8, String)]| {
        parts.iter().map(|(_, part)| part.chars().count() + 2).sum::<usize>().saturating_sub(2)
    };
    while width(&parts) > room {
        match parts.iter().enumerate().max_by_key(|(_, (rank, _))| *rank) {
            Some((least, (rank, _))) if *rank > 0 => drop(parts.remove(least)),
            _ => break,
        }
    }
    parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join("  ")
}

/// A finished task in one line.
fn finished_line(task: &TaskReport, done: usize, all: usize, width: usize, paint: Paint) -> String {
    let mut parts = Vec::new();
    if let Some(build) = &task.build {
        if build.rows_written > 0 {
            parts.push(counted(build.rows_written, "row"));
        }
        let dead: u64 = build.dead_letters.values().flat_map(|rules| rules.values()).sum();
        if dead > 0 {
            parts.push(counted(dead, "dead letter"));
        }
    }
    match (&task.because, &task.error) {
        (Some(because), _) => {
            parts.push(format!("because of {}", printable(because.as_str(), false)))
        }
        (None, Some(error)) => {
            parts.push(format!("{} {}", error.code, printable(&error.message, false)))
        }
        (None, None) => {}
    }
    if let Some(s) = task_seconds(task) {
        parts.push(seconds(s));
    }
    let status = painted_status(task.status, paint);
    let pad = " ".repeat(9_usize.saturating_sub(crate::report::status_name(task.status).len()));
    let digits = all.to_string().len();
    let model = printable(task.model.as_str(), false);
    format!("[{done:>digits$}/{all}] {status}{pad} {model:<width$}  {}", parts.join(", "))
        .trim_end()
        .to_owned()
}

/// An attempt that failed and will be made again, in one line.
fn retry_line(model: &ModelId, attempt: u32, error: &ErrorReport) -> String {
    let model = printable(model.as_str(), false);
    let message = printable(&error.message, false);
    format!("{model} is tried again (attempt {attempt}): {} {message}", error.code)
}

/// What lines and bars both count.
#[derive(Debug, Default)]
struct Tally {
    all: usize,
    done: usize,
    width: usize,
}

impl Tally {
    fn start(&mut self, models: &[ModelId]) {
        self.all = models.len();
        // Longer names push their own line only.
        self.width =
            models.iter().map(|model| model.as_str().chars().count()).max().unwrap_or(0).min(40);
    }

    fn finish(&mut self, task: &TaskReport, paint: Paint) -> String {
        self.done += 1;
        finished_line(task, self.done, self.all, self.width, paint)
    }
}

/// A line when a task ends.
#[derive(Debug)]
struct Lines<W> {
    inner: Mutex<(Tally, W)>,
    paint: Paint,
}

impl<W: Write + Send + std::fmt::Debug> Lines<W> {
    fn new(out: W, paint: Paint) -> Self {
        Self { inner: Mutex::new((Tally::default(), out)), paint }
    }
}

impl<W: Write + Send + std::fmt::Debug> RunObserver for Lines<W> {
    fn on_event(&self, event: RunEvent) {
        let mut inner = self.inner.lock();
        let (tally, out) = &mut *inner;
        // Progress that nobody can read is no reason to stop a run.
        let _ = match event {
            RunEvent::Started { run, models } => {
                tally.start(&models);
                writeln!(out, "run {run}: {}", counted(models.len() as u64, "model"))
            }
            RunEvent::TaskRetry { model, attempt, error, .. } => {
                writeln!(out, "{}", retry_line(&model, attempt, &error))
            }
            RunEvent::TaskFinished(task) => writeln!(out, "{}", tally.finish(&task, self.paint)),
            _ => Ok(()),
        };
    }
}

/// One JSON object an event.
#[derive(Debug)]
struct JsonLines<W> {
    out: Mutex<(W, HashMap<ModelId, Instant>)>,
}

/// Progress of one task is told to programs this often.
const JSON_PROGRESS_EVERY: Duration = Duration::from_millis(500);

impl<W: Write + Send + std::fmt::Debug> JsonLines<W> {
    fn new(out: W) -> Self {
        Self { out: Mutex::new((out, HashMap::new())) }
    }
}

impl<W: Write + Send + std::fmt::Debug> RunObserver for JsonLines<W> {
    fn on_event(&self, event: RunEvent) {
        let mut inner = self.out.lock();
        let (out, told) = &mut *inner;
        if let RunEvent::TaskProgress { model, .. } = &event {
            if told.get(model).is_some_and(|last| last.elapsed() < JSON_PROGRESS_EVERY) {
                return;
            }
            told.insert(model.clone(), Instant::now());
        }
        let json = event_json(&event);
        // A reader that went away does not stop a run.
        let _ = writeln!(out, "{json}").and_then(|()| out.flush());
    }
}

/// An event as programs read it.
fn event_json(event: &RunEvent) -> serde_json::Value {
    use serde_json::json;
    match event {
        RunEvent::Started { run, models } => {
            json!({ "event": "run_started", "run": run, "models": models })
        }
        RunEvent::TaskStarted { model, attempt } => {
            json!({ "event": "task_started", "model": model, "attempt": attempt })
        }
        RunEvent::TaskPhase { model, phase } => {
            json!({ "event": "task_phase", "model": model, "phase": phase })
        }
        RunEvent::TaskProgress { model, progress } => {
            json!({ "event": "task_progress", "model": model, "progress": progress })
        }
        RunEvent::TaskRetry { model, attempt, at, error } => json!({
            "event": "task_retry", "model": model, "attempt": attempt, "at": at, "error": error,
        }),
        RunEvent::TaskFinished(task) => json!({ "event": "task_finished", "task": task }),
        RunEvent::Finished(report) => json!({ "event": "run_finished", "report": report }),
    }
}

/// A bar for each task that is under way, on a terminal.
#[derive(Debug)]
struct Bars {
    bars: MultiProgress,
    state: Mutex<(Tally, HashMap<ModelId, Bar>)>,
    paint: Paint,
}

#[derive(Debug)]
struct Bar {
    bar: ProgressBar,
    told: Arc<Mutex<Told>>,
    /// Columns that its name takes.
    name: usize,
    drawn: bool,
}

/// Columns of the bar itself, and of a description that says enough beside it.
const BAR: usize = 16;
const DESCRIPTION: usize = 50;

impl Bar {
    fn new(model: &ModelId, width: usize) -> (ProgressBar, Self) {
        let name = format!("{:<width$}", printable(model.as_str(), false));
        let progress = BuildProgress::default();
        let told = Told { phase: "start", since: Instant::now(), progress };
        // It is drawn where the other bars are, once it is added to them.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let columns = name.chars().count();
        bar.set_prefix(name);
        let this = Self {
            bar: bar.clone(),
            told: Arc::new(Mutex::new(told)),
            name: columns,
            drawn: false,
        };
        bar.set_style(this.style(false));
        (bar, this)
    }

    /// Takes over what is new, and draws.
    fn tell(&mut self, change: impl FnOnce(&mut Told)) {
        let mut told = self.told.lock();
        change(&mut told);
        let progress = told.progress;
        drop(told);
        let drawn = progress.bytes_total > 0 && room(self.name) >= BAR + 1 + DESCRIPTION;
        if drawn != std::mem::replace(&mut self.drawn, drawn) {
            self.bar.set_style(self.style(drawn));
        }
        if progress.bytes_total > 0 {
            self.bar.set_length(progress.bytes_total);
            self.bar.set_position(progress.bytes.min(progress.bytes_total));
        }
        self.bar.tick();
    }

    /// The description is made anew whenever the bar is drawn, so that its seconds go on.
    fn style(&self, drawn: bool) -> ProgressStyle {
        let (told, name) = (Arc::clone(&self.told), self.name);
        let template = match drawn {
            true => "{spinner:.cyan} {prefix} {bar:16.cyan/dim} {told}",
            false => "{spinner:.cyan} {prefix} {told}",
        };
        style(template).with_key("told", move |_: &ProgressState, out: &mut dyn fmt::Write| {
            let room = room(name).saturating_sub(if drawn { BAR + 1 } else { 0 });
            let told = told.lock();
            // A line that cannot be put together is drawn again in a moment.
            let _ =
                out.write_str(&describe(told.phase, &told.progress, told.since.elapsed(), room));
        })
    }
}

/// Columns that the terminal leaves for what stands behind a name.
fn room(name: usize) -> usize {
    let columns = terminal_size::terminal_size_of(std::io::stderr()).map_or(80, |(w, _)| w.0);
    // The spinner, and the blanks around the name. The last column stays empty: a line that fills
    // it is wrapped by some terminals.
    usize::from(columns).saturating_sub(name + 4)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("our templates are well-formed")
        .progress_chars("━━─")
}

impl Bars {
    fn new(paint: Paint) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(12));
        *BARS.lock() = Some(bars.clone());
        Self { bars, state: Mutex::new((Tally::default(), HashMap::new())), paint }
    }

    fn clear(&self) {
        *BARS.lock() = None;
        // A terminal that is gone needs no clearing.
        let _ = self.bars.clear();
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}

impl RunObserver for Bars {
    fn on_event(&self, event: RunEvent) {
        let mut state = self.state.lock();
        let (tally, bars) = &mut *state;
        match event {
            RunEvent::Started { models, .. } => tally.start(&models),
            RunEvent::TaskStarted { model, .. } => {
                if let Some(old) = bars.remove(&model) {
                    self.bars.remove(&old.bar);
                }
                let (drawn, bar) = Bar::new(&model, tally.width);
                self.bars.add(drawn).enable_steady_tick(Duration::from_millis(120));
                bars.insert(model, bar);
            }
            RunEvent::TaskPhase { model, phase } => {
                if let Some(bar) = bars.get_mut(&model) {
                    bar.tell(|told| (told.phase, told.since) = (phase, Instant::now()));
                }
            }
            RunEvent::TaskProgress { model, progress } => {
                if let Some(bar) = bars.get_mut(&model) {
                    bar.tell(|told| told.progress = progress);
                }
            }
            RunEvent::TaskRetry { model, attempt, error, .. } => {
                let _ = self.bars.println(retry_line(&model, attempt, &error));
            }
            RunEvent::TaskFinished(task) => {
                if let Some(bar) = bars.remove(&task.model) {
                    bar.bar.finish_and_clear();
                    self.bars.remove(&bar.bar);
                }
                let line = tally.finish(&task, self.paint);
                // What went well is in the summary; on a long run the rest must not scroll away.
                if task.status != Status::Success || tally.all > 8 {
                    let _ = self.bars.println(line);
                }
            }
            RunEvent::Finished(_) => {
                for (_, bar) in bars.drain() {
                    bar.bar.finish_and_clear();
                }
                self.clear();
            }
        }
    }
}

/// A spinner with a text while something of unknown length goes on; nothing where there is no
/// terminal.
pub fn spinner(ui: &Ui, text: &str) -> ProgressBar {
    if !ui.live || ui.json || ui.quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_style(style("{spinner:.cyan} {msg} {elapsed:.dim}"));
    bar.set_message(text.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{build, report, task};

    fn events() -> Vec<RunEvent> {
        let mut sales = build("stg_sales");
        sales.rows_written = 1_234;
        sales.dead_letters.entry("pos.sales".into()).or_default().insert("type".into(), 2);
        let mut skipped = task("daily_sales", Status::Skipped, None);
        skipped.because = Some(ModelId::from("stg_sales"));
        let tasks = vec![task("stg_sales", Status::Failed, Some(sales)), skipped];
        let progress =
            BuildProgress { files: 2, bytes_total: 10, bytes: 5, records: 7, rows_written: 0 };
        vec![
            RunEvent::Started {
                run: "r1".into(),
                models: vec!["stg_sales".into(), "daily_sales".into()],
            },
            RunEvent::TaskStarted { model: "stg_sales".into(), attempt: 1 },
            RunEvent::TaskPhase { model: "stg_sales".into(), phase: "execute" },
            RunEvent::TaskProgress { model: "stg_sales".into(), progress },
            RunEvent::TaskProgress { model: "stg_sales".into(), progress },
            RunEvent::TaskRetry {
                model: "stg_sales".into(),
                attempt: 2,
                at: chrono::DateTime::UNIX_EPOCH,
                error: Box::new(ErrorReport::from(
                    &freshet_core::Error::new(freshet_core::error::code::LAKE, "disk\nfull")
                        .retryable(),
                )),
            },
            RunEvent::TaskStarted { model: "stg_sales".into(), attempt: 2 },
            RunEvent::TaskFinished(Box::new(tasks[0].clone())),
            RunEvent::TaskFinished(Box::new(tasks[1].clone())),
            RunEvent::Finished(Box::new(report(Status::Failed, tasks))),
        ]
    }

    #[test]
    fn lines_count_tasks_and_say_why_one_was_skipped() {
        let lines = Lines::new(Vec::new(), Paint(false));
        events().into_iter().for_each(|event| lines.on_event(event));
        let text = String::from_utf8(lines.inner.into_inner().1).expect("lines are text");
        assert_eq!(
            text,
            "run r1: 2 models\n\
             stg_sales is tried again (attempt 2): F0501 disk\\nfull\n\
             [1/2] failed    stg_sales    1,234 rows, 2 dead letters, 2.00 s\n\
             [2/2] skipped   daily_sales  because of stg_sales\n"
        );
    }

    #[test]
    fn programs_get_one_object_an_event_and_the_report_last() {
        let lines = JsonLines::new(Vec::new());
        events().into_iter().for_each(|event| lines.on_event(event));
        let text = String::from_utf8(lines.out.into_inner().0).expect("lines are text");
        let objects: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
        let names: Vec<_> =
            objects.iter().map(|object| object["event"].as_str().expect("a name")).collect();
        assert_eq!(
            names,
            [
                "run_started",
                "task_started",
                "task_phase",
                "task_progress",
                "task_retry",
                "task_started",
                "task_finished",
                "task_finished",
                "run_finished"
            ]
        );
        let last = objects.last().expect("there are events");
        assert_eq!(last["report"]["status"], "failed");
        assert_eq!(last["report"]["tasks"][1]["because"], "stg_sales");
    }

    #[test]
    fn description_names_rate_and_time_left_once_known() {
        let progress = BuildProgress {
            files: 31,
            bytes_total: 1_300_000_000,
            bytes: 325_000_000,
            records: 5_000_000,
            rows_written: 0,
        };
        let said = |room| describe("execute", &progress, Duration::from_secs(1), room);
        assert_eq!(said(100), "execute  31 files  5.0M rows  325 MB of 1.3 GB  325 MB/s  3 s left");
        assert_eq!(said(60), "execute  5.0M rows  325 MB of 1.3 GB  325 MB/s  3 s left");
        assert_eq!(said(45), "execute  5.0M rows  325 MB/s  3 s left");
        assert_eq!(said(20), "execute  3 s left");
        assert_eq!(describe("plan", &BuildProgress::default(), Duration::ZERO, 80), "plan   ");
    }

    #[test]
    fn description_tells_the_rows_written_once_all_is_read() {
        let progress = BuildProgress {
            files: 31,
            bytes_total: 1_300_000_000,
            bytes: 1_300_000_000,
            records: 20_000_000,
            rows_written: 450_000,
        };
        let said = |phase| describe(phase, &progress, Duration::from_secs(7), 100);
        assert_eq!(
            said("execute"),
            "execute  31 files  20.0M rows  1.3 GB  450k rows written  7 s"
        );
        assert_eq!(said("check"), "check    450k rows written  7 s");
    }
}
