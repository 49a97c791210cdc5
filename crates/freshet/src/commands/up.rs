//! `freshet up`: runs the project's streaming models until it is stopped.

mod demo;
mod http;
mod steer;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use freshet_core::clock::{Clock, SystemClock};
use freshet_core::config::HumanDuration;
use freshet_core::sink::Guarantee;
use freshet_core::stream::Wait;
use freshet_core::{Error, ModelId, Result};
use freshet_engine::streaming::{JobSink, StreamOptions, TokioIo, Unbounded};
use freshet_runtime::checkpoint::Settings;
use freshet_runtime::executor::Io;
use freshet_runtime::job::{Ended, JobOptions};
use freshet_runtime::state::{Budget, FolderScratch, MemoryPool, SpillOptions};
use freshet_serve::{Jobs, Server, Services};
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::steer::{Running, Setting, Supervised};
use super::run::wait_for_signal;
use crate::app::{self, App, Place};
use crate::cli::UpArgs;
use crate::demo::LiveDemo;
use crate::exit::{CommandResult, Failure, Outcome, error_code};
use crate::format::seconds;
use crate::running::{Kept, Note};
use crate::ui::{Ui, printable};

/// Where in the lake's store the checkpoints of jobs lie.
pub const JOBS: &str = "_freshet/jobs";

/// Between two lines that say how far jobs have come.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Microseconds after which a wait is worth telling.
const LONG: i64 = 5_000_000;

/// Runs what the command line asks for.
pub fn run(args: &UpArgs, place: &Place, ui: &Ui) -> CommandResult {
    let place = Place { threads: args.threads, ..place.clone() };
    let app = place.open()?;
    app.warn(ui);
    app::runtime(None)?.block_on(run_jobs(&app, args, ui))
}

/// What is told of a job while it runs.
struct Watched {
    job: Arc<Supervised>,
    told: Told,
}

/// What was told of a job the last time.
#[derive(Debug, Default, PartialEq)]
struct Told {
    /// Dead letters, then rows given and committed of each sink.
    counts: Vec<u64>,
    late: u64,
    waits: Vec<Wait>,
}

async fn run_jobs(app: &App, args: &UpArgs, ui: &Ui) -> CommandResult {
    let models = app.streams(&args.nodes)?;
    let demo = args.demo.then(|| LiveDemo::of(&app.project)).transpose()?;
    let running = Arc::<Running>::default();
    let sources = Arc::new(http::ProjectSources::new(Arc::clone(&app.engine)));
    let server = listen(app, args, Arc::clone(&sources), &running).await?;
    let demo = match demo {
        Some(demo) => {
            let targets = demo::open(&demo, &*sources).await?;
            Some((demo, targets))
        }
        None => None,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = args.threads.unwrap_or(cores).max(1);
    let io: Arc<dyn Io> = Arc::new(TokioIo::current());
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    let stream = StreamOptions {
        parallelism: u16::try_from(workers).unwrap_or(u16::MAX).min(128),
        commit_interval: micros(args.commit_interval.0),
        io: Arc::clone(&io),
    };
    let environment = &app.project.environment;
    let spill = SpillOptions {
        // The other half is for what queries and writers hold, and for rows on their way.
        budget: Budget::Shared(Arc::new(MemoryPool::new(environment.memory_limit.as_usize() / 2))),
        scratch: Arc::new(FolderScratch::new(environment.state_dir.join("tmp").join("state"))?),
    };
    let options = JobOptions {
        spill: Some(spill),
        checkpoints: Settings {
            interval: micros(args.checkpoint_interval.0),
            ..Settings::default()
        },
        accept_state_loss: args.accept_state_loss,
        ..JobOptions::default()
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let lake = Arc::clone(app.engine.lake().store());
    let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(lake, JOBS));
    let setting = Setting { app: app.clone(), stream, options, clock: Arc::clone(&clock), store };
    let mut jobs = JoinSet::new();
    let mut watched = Vec::new();
    for model in &models {
        let (job, ready) = Supervised::plan(model, &setting).await?;
        running.add(Arc::clone(&job));
        say(ui, model, "running", serde_json::json!("running"));
        for sink in &job.planned().sinks {
            introduce(ui, model, sink, args.checkpoint_interval.0);
        }
        let mut unbounded: Vec<&Unbounded> = Vec::new();
        let planned = job.planned();
        for state in &planned.unbounded {
            // Where a model reads another by several paths, it is there several times.
            if !unbounded.contains(&state) {
                unbounded.push(state);
            }
        }
        for Unbounded { what, bound } in unbounded {
            let text = format!("{what}, for ever; what would bound it: {bound}");
            say(ui, model, &text, serde_json::json!({ "unbounded": what, "bound": bound }));
        }
        watched.push(Watched { job: Arc::clone(&job), told: Told::default() });
        jobs.spawn(async move { (job.model.clone(), job.run(ready).await) });
    }
    let _note = note(app, server.as_ref(), &models, &*clock)?;
    let stop = CancellationToken::new();
    let serving = server.map(|server| {
        tell_address(&server, ui);
        tokio::spawn(server.run(stop.clone()))
    });
    let stopper = tokio::spawn(stop_on_signal(Arc::clone(&running)));
    let ended = match demo {
        None => watch(&mut jobs, &mut watched, ui).await,
        Some((demo, targets)) => {
            // On a terminal the picture says what lines would.
            let quiet = ui.quiet || std::io::stdout().is_terminal();
            let lines = Ui { quiet, ..ui.clone() };
            let end = CancellationToken::new();
            let watching = async {
                let ended = watch(&mut jobs, &mut watched, &lines).await;
                running.stopping.cancel();
                end.cancel();
                ended
            };
            let feeding = async {
                let fed = demo::feed(&demo, targets, running.stopping.clone()).await;
                if fed.is_err() {
                    running.stop();
                }
                fed
            };
            let showing = demo::show(&demo, app, &running, ui, end.clone());
            let (ended, fed, shown) = tokio::join!(watching, feeding, showing);
            fed?;
            shown?;
            ended
        }
    };
    stopper.abort();
    stop.cancel();
    if let Some(serving) = serving {
        // Who asks to the last is answered.
        let _ = serving.await;
    }
    ended
}

/// The listener, bound, where there is to be one.
async fn listen(
    app: &App,
    args: &UpArgs,
    sources: Arc<http::ProjectSources>,
    jobs: &Arc<steer::Running>,
) -> Result<Option<Server>> {
    let mut options = app.project.environment.http.clone();
    if let Some(address) = &args.http {
        options.listen = Some(address.clone());
    }
    Server::bind(&options, Services { sources, jobs: Arc::clone(jobs) as Arc<dyn Jobs> }).await
}

/// Tells other commands that this process runs.
fn note(app: &App, server: Option<&Server>, models: &[ModelId], clock: &dyn Clock) -> Result<Kept> {
    let note = Note {
        pid: std::process::id(),
        since: clock.now_micros(),
        address: server.map(Server::address),
        models: models.iter().map(ToString::to_string).collect(),
    };
    note.keep(&app.project.environment.state_dir)
}

fn tell_address(server: &Server, ui: &Ui) {
    let address = server.address();
    // Who cannot read this does not keep jobs from running.
    let _ = if ui.json {
        writeln!(std::io::stdout(), "{}", serde_json::json!({ "http": address }))
    } else if ui.quiet {
        Ok(())
    } else {
        writeln!(std::io::stderr(), "listening at http://{address}")
    };
}

/// Waits for all jobs, telling how far they have come.
async fn watch(
    jobs: &mut JoinSet<(ModelId, Result<Ended>)>,
    watched: &mut [Watched],
    ui: &Ui,
) -> CommandResult {
    let mut worst = None;
    let mut told = Instant::now();
    loop {
        let ended = tokio::time::timeout(Duration::from_millis(500), jobs.join_next()).await;
        if told.elapsed() >= REPORT_EVERY {
            told = Instant::now();
            watched.iter_mut().for_each(|watched| tell(ui, watched));
        }
        match ended {
            Err(_) => {}
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                return Err(Error::internal("a job ended early").caused_by(error).into());
            }
            Ok(Some(Ok((model, result)))) => {
                if let Some(watched) = watched.iter_mut().find(|watched| watched.job.model == model)
                {
                    tell(ui, watched);
                }
                match result {
                    Ok(Ended::Drained) => {
                        say(
                            ui,
                            &model,
                            "stopped: all that was read is committed",
                            serde_json::json!("stopped"),
                        );
                    }
                    Ok(Ended::Exhausted) => {
                        say(
                            ui,
                            &model,
                            "its sources have ended: all is committed",
                            serde_json::json!("ended"),
                        );
                    }
                    Err(error) => {
                        say(ui, &model, "failed", serde_json::json!("failed"));
                        worst = worst.max(Some(error_code(&error)));
                        crate::errors::write_report(
                            &mut std::io::stderr().lock(),
                            &freshet_engine::ErrorReport::from(&error),
                            "",
                            ui.err,
                        )?;
                    }
                }
            }
        }
    }
    match worst {
        None => Ok(Outcome::Done),
        Some(code) => Err(Failure::Reported(code)),
    }
}

/// Says what a sink promises, and when others see what it wrote.
fn introduce(ui: &Ui, model: &ModelId, sink: &JobSink, checkpoint: Duration) {
    let span = |span: Duration| HumanDuration(span).to_string();
    let guarantee = match sink.guarantee {
        Guarantee::AtLeastOnce => "at least once",
        Guarantee::ExactlyOnce => "exactly once",
    };
    let seen = if !sink.waits_for_checkpoint {
        "rows are seen as they arrive".to_owned()
    } else if sink.commit_interval <= checkpoint {
        format!("rows are seen after the next checkpoint, every {}", span(checkpoint))
    } else {
        format!("rows are seen after the next commit, every {}", span(sink.commit_interval))
    };
    let text = format!("into {}, {guarantee}: {seen}", sink.target);
    let json = serde_json::json!({ "sink": sink.target, "guarantee": sink.guarantee });
    say(ui, model, &text, json);
}

/// Says how far a job has come, and what it waits for, where that is news.
fn tell(ui: &Ui, watched: &mut Watched) {
    let (planned, figures) = (watched.job.planned(), watched.job.figures());
    let dead = planned.dead_letters.written.load(Ordering::Relaxed);
    let mut counts = vec![dead];
    for JobSink { figures, .. } in &planned.sinks {
        counts.push(figures.written.load(Ordering::Relaxed));
        counts.push(figures.committed.load(Ordering::Relaxed));
    }
    let late = figures.late();
    let long = |wait: &Wait| figures.at - wait.since >= LONG;
    let waits = figures.waits.iter().filter(|wait| long(wait)).cloned().collect();
    let now = Told { counts, late, waits };
    let is_first = watched.told == Told::default();
    let nothing = now.waits.is_empty() && now.counts.iter().all(|count| *count == 0);
    if now == watched.told || (is_first && nothing) {
        return;
    }
    let Told { counts, waits, .. } = &now;
    let sinks = planned.sinks.iter().zip(counts[1..].chunks(2));
    let parts = sinks.clone().map(|(sink, rows)| {
        let done = match sink.guarantee {
            Guarantee::ExactlyOnce => "committed to",
            Guarantee::AtLeastOnce => "checkpointed into",
        };
        format!("{} {done} {}", rows[1], sink.target)
    });
    let parts: Vec<_> = parts.collect();
    // All sinks are given the same rows, one perhaps a batch before another.
    let given = counts[1..].iter().step_by(2).max().copied().unwrap_or_default();
    let mut text = format!("{given} rows given, {}, {dead} dead letters", parts.join(", "));
    if late > 0 {
        text.push_str(&format!(", {late} rows late"));
    }
    // Of very many waits the first ones say it.
    for Wait { what, reason, since } in waits.iter().take(4) {
        let age = seconds((figures.at - since).max(0) as f64 / 1e6);
        let (what, reason) = (printable(what, false), printable(reason, false));
        text.push_str(&format!("\n  {what} waits for {age}: {reason}"));
    }
    let each: Vec<_> = sinks
        .map(|(sink, rows)| {
            serde_json::json!({ "sink": sink.target, "rows": rows[0], "committed": rows[1] })
        })
        .collect();
    let committed = counts[1..].iter().skip(1).step_by(2).min().copied().unwrap_or_default();
    let json = serde_json::json!({
        "rows": given,
        "committed": committed,
        "dead_letters": dead,
        "late": late,
        "waits": waits,
        "sinks": each,
    });
    say(ui, &watched.job.model, &text, json);
    watched.told = now;
}

/// One line about a job.
fn say(ui: &Ui, model: &ModelId, text: &str, json: serde_json::Value) {
    // Who cannot read this does not keep jobs from running.
    let _ = if ui.json {
        writeln!(std::io::stdout(), "{}", serde_json::json!({ "model": model, "state": json }))
    } else if ui.quiet {
        Ok(())
    } else {
        writeln!(std::io::stderr(), "{model}: {text}")
    };
}

/// The first signal lets jobs carry through what they have read, the second ends at once.
async fn stop_on_signal(running: Arc<Running>) {
    wait_for_signal().await;
    let _ = writeln!(
        std::io::stderr(),
        "stopping: what was read is carried through and committed; once more ends at once"
    );
    running.stop();
    wait_for_signal().await;
    std::process::exit(130);
}
