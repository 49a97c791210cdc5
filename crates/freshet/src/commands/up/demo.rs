//! `freshet up --demo`: the project's own streams, made as they happen, and a result as it changes.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use freshet_core::clock::{Clock, SystemClock};
use freshet_core::error::code;
use freshet_core::ingest::{AppendRequest, Ingest, Record};
use freshet_core::{Error, Result};
use freshet_runtime::figures::JobFigures;
use freshet_serve::{Jobs, Sources};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::steer::Running;
use crate::app::App;
use crate::cli::OutputFormat;
use crate::commands::jobs::view;
use crate::commands::sql;
use crate::demo::LiveDemo;
use crate::exit::Failure;
use crate::generate::orders::{self, Sink, Stream};
use crate::output::{self, PrintOptions};
use crate::ui::Ui;

/// Between two pictures.
const EVERY: Duration = Duration::from_secs(1);

/// Between two of them where they are lines of a log.
const EVERY_LOGGED: Duration = Duration::from_secs(10);

/// Between two pushes.
const PUSH: Duration = Duration::from_millis(100);

/// Records that wait to be pushed at most, by stream.
const HELD: usize = 10_000;

/// What streams are pushed to.
pub type Targets = BTreeMap<Stream, Arc<dyn Ingest>>;

/// Opens what is pushed to: where it is missing it is made, before anybody reads it.
pub async fn open(demo: &LiveDemo, sources: &dyn Sources) -> Result<Targets> {
    let mut targets = BTreeMap::new();
    for (stream, source) in &demo.sources {
        let target = sources.ingest(&source.to_string()).await?;
        target.append(AppendRequest::default()).await?;
        targets.insert(*stream, target);
    }
    Ok(targets)
}

/// Makes the streams until they end or `stop` is cancelled.
pub async fn feed(demo: &LiveDemo, targets: Targets, stop: CancellationToken) -> Result<()> {
    let (options, handle) = (demo.options.clone(), Handle::current());
    let made = tokio::task::spawn_blocking(move || {
        let mut pushing =
            Pushing { handle, targets, held: BTreeMap::new(), pushed: Instant::now(), stop };
        let made = orders::send(&options, &mut pushing, None, &SystemClock);
        // What ended it is no fault where it was told to.
        if pushing.stop.is_cancelled() { Ok(()) } else { made.map(drop) }
    });
    made.await
        .map_err(|error| Error::internal("making events ended early").caused_by(error))?
        .map_err(|error| {
            Error::new(code::IO, "could not make the demo's events")
                .caused_by(error.into_boxed_dyn_error())
        })
}

/// Pushes records to sources.
struct Pushing {
    handle: Handle,
    targets: Targets,
    held: BTreeMap<Stream, Vec<Record>>,
    pushed: Instant,
    stop: CancellationToken,
}

impl Pushing {
    fn push(&mut self) -> anyhow::Result<()> {
        self.pushed = Instant::now();
        for (stream, records) in &mut self.held {
            let records = std::mem::take(records);
            let Some(target) = self.targets.get(stream).filter(|_| !records.is_empty()) else {
                continue;
            };
            let request = AppendRequest { records, ..AppendRequest::default() };
            while let Err(error) = self.handle.block_on(target.append(request.clone())) {
                anyhow::ensure!(!self.stop.is_cancelled(), "stopped");
                if !error.is_retryable() && error.code() != code::BUSY {
                    return Err(error.into());
                }
                std::thread::sleep(PUSH);
            }
        }
        Ok(())
    }
}

impl Sink for Pushing {
    fn send(&mut self, stream: Stream, lines: &[u8]) -> anyhow::Result<()> {
        let held = self.held.entry(stream).or_default();
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        held.extend(lines.map(|line| Record::new(Bytes::copy_from_slice(line))));
        if held.len() >= HELD { self.push() } else { Ok(()) }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.stop.is_cancelled(), "stopped");
        if self.pushed.elapsed() < PUSH { Ok(()) } else { self.push() }
    }
}

/// Shows the result and the jobs until `stop` is cancelled, and once more then: on a terminal each
/// picture takes the place of the last, elsewhere one comes now and then.
pub async fn show(
    demo: &LiveDemo,
    app: &App,
    jobs: &Running,
    ui: &Ui,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let Some(query) = demo.show.as_deref().filter(|_| !ui.quiet && !ui.json) else {
        return Ok(());
    };
    let is_terminal = std::io::stdout().is_terminal();
    let mut before = jobs.figures();
    let begun = Instant::now();
    loop {
        let wait = if is_terminal { EVERY } else { EVERY_LOGGED };
        let is_last = tokio::time::timeout(wait, stop.cancelled()).await.is_ok();
        let mut picture = Vec::new();
        if is_terminal {
            write!(picture, "\x1b[H\x1b[2J")?;
        }
        let name = &app.project.name;
        let span = crate::format::seconds(begun.elapsed().as_secs().max(1) as f64);
        writeln!(picture, "{} for {span}; Ctrl-C ends it\n", ui.out.bold(name))?;
        let options = PrintOptions {
            format: OutputFormat::Table,
            max_rows: 40,
            width: ui.width,
            paint: ui.out,
            timer: false,
        };
        match sql::query(app, query, None).await {
            Ok(rows) => {
                output::print(rows, &mut picture, &options, Instant::now()).await?;
            }
            // A table is there after its first commit.
            Err(error) => writeln!(picture, "{}", ui.out.dim(&format!("nothing yet: {error}")))?,
        }
        writeln!(picture)?;
        let now = jobs.figures();
        let pairs: Vec<_> = now.iter().filter_map(|job| pair(&before, job)).collect();
        view::list(&mut picture, &pairs, &[], SystemClock.now_micros(), ui)?;
        before = now;
        let mut out = std::io::stdout().lock();
        out.write_all(&picture)?;
        out.flush()?;
        if is_last {
            return Ok(());
        }
    }
}

fn pair(before: &[JobFigures], now: &JobFigures) -> Option<(JobFigures, JobFigures)> {
    let then = before.iter().find(|then| then.job == now.job)?;
    Some((then.clone(), now.clone()))
}
