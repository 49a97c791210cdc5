//! `freshet up`: runs the project's streaming models until it is stopped.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use freshet_core::clock::{Clock, SystemClock};
use freshet_core::config::HumanDuration;
use freshet_core::error::code;
use freshet_core::sink::Guarantee;
use freshet_core::{Error, ModelId};
use freshet_engine::streaming::{JobSink, StreamJob, StreamOptions, TokioIo};
use freshet_runtime::checkpoint::Settings;
use freshet_runtime::executor::{Io, Threads};
use freshet_runtime::job::{Ended, Environment, Job, JobHandle, JobOptions};
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use tokio::task::JoinSet;

use super::run::wait_for_signal;
use crate::app::{self, App, Place};
use crate::cli::UpArgs;
use crate::exit::{CommandResult, Failure, Outcome, error_code};
use crate::ui::Ui;

/// Where in the lake's store the checkpoints of jobs lie.
const JOBS: &str = "_freshet/jobs";

/// Between two lines that say how far jobs have come.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Runs what the command line asks for.
pub fn run(args: &UpArgs, place: &Place, ui: &Ui) -> CommandResult {
    let place = Place { threads: args.threads, ..place.clone() };
    let app = place.open()?;
    app.warn(ui);
    app::runtime(None)?.block_on(run_jobs(&app, args, ui))
}

/// What is told of a job while it runs.
struct Watched {
    model: ModelId,
    job: Arc<StreamJob>,
    /// Dead letters, then rows given and committed of each sink, as they were told last.
    told: Vec<u64>,
}

async fn run_jobs(app: &App, args: &UpArgs, ui: &Ui) -> CommandResult {
    let selected = app.select(&args.nodes, None)?;
    let models: Vec<ModelId> = app.engine.streams(&selected).map(|node| node.id.clone()).collect();
    if models.is_empty() {
        return Err(Error::new(code::SELECTOR, "no streaming model is selected")
            .hint("a model is a stream where its config says `materialized='stream'`")
            .into());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = args.threads.unwrap_or(cores).max(1);
    let io: Arc<dyn Io> = Arc::new(TokioIo::current());
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    let stream = StreamOptions {
        parallelism: u16::try_from(workers).unwrap_or(u16::MAX).min(128),
        commit_interval: micros(args.commit_interval.0),
        io: Arc::clone(&io),
    };
    let options = JobOptions {
        checkpoints: Settings {
            interval: micros(args.checkpoint_interval.0),
            ..Settings::default()
        },
        ..JobOptions::default()
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let lake = Arc::clone(app.engine.lake().store());
    let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(lake, JOBS));
    let mut jobs = JoinSet::new();
    let mut handles: Vec<JobHandle> = Vec::new();
    let mut watched = Vec::new();
    for model in models {
        let planned = Arc::new(app.engine.stream_job(&model, &stream).await?);
        let environment = Environment {
            clock: Arc::clone(&clock),
            io: Arc::clone(&io),
            store: Arc::clone(&store),
        };
        let threads = Threads::new(model.as_str(), workers, Arc::clone(&clock));
        let plan = planned.plan.clone();
        let mut job = Job::new(plan, options.clone(), environment, Box::new(threads))?;
        handles.push(job.handle());
        say(ui, &model, "running", serde_json::json!("running"));
        for sink in &planned.sinks {
            introduce(ui, &model, sink, args.checkpoint_interval.0);
        }
        watched.push(Watched { model: model.clone(), job: planned, told: Vec::new() });
        jobs.spawn(async move { (model, job.run().await) });
    }
    let stopper = tokio::spawn(stop_on_signal(handles));
    let ended = watch(&mut jobs, &mut watched, ui).await;
    stopper.abort();
    ended
}

/// Waits for all jobs, telling how far they have come.
async fn watch(
    jobs: &mut JoinSet<(ModelId, freshet_core::Result<Ended>)>,
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
                if let Some(watched) = watched.iter_mut().find(|watched| watched.model == model) {
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
    let (guarantee, seen) = match sink.guarantee {
        Guarantee::AtLeastOnce => ("at least once", "rows are seen as they arrive".to_owned()),
        Guarantee::ExactlyOnce if sink.commit_interval <= checkpoint => (
            "exactly once",
            format!("rows are seen after the next checkpoint, every {}", span(checkpoint)),
        ),
        Guarantee::ExactlyOnce => (
            "exactly once",
            format!("rows are seen after the next commit, every {}", span(sink.commit_interval)),
        ),
    };
    let text = format!("into {}, {guarantee}: {seen}", sink.target);
    let json = serde_json::json!({ "sink": sink.target, "guarantee": sink.guarantee });
    say(ui, model, &text, json);
}

fn tell(ui: &Ui, watched: &mut Watched) {
    let dead = watched.job.dead_letters.written.load(Ordering::Relaxed);
    let mut now = vec![dead];
    for JobSink { figures, .. } in &watched.job.sinks {
        now.push(figures.written.load(Ordering::Relaxed));
        now.push(figures.committed.load(Ordering::Relaxed));
    }
    if now == watched.told || (watched.told.is_empty() && now.iter().all(|count| *count == 0)) {
        return;
    }
    let sinks = watched.job.sinks.iter().zip(now[1..].chunks(2));
    let parts = sinks.clone().map(|(sink, rows)| {
        let done = match sink.guarantee {
            Guarantee::ExactlyOnce => "committed to",
            Guarantee::AtLeastOnce => "checkpointed into",
        };
        format!("{} {done} {}", rows[1], sink.target)
    });
    let parts: Vec<_> = parts.collect();
    // All sinks are given the same rows, one perhaps a batch before another.
    let given = now[1..].iter().step_by(2).max().copied().unwrap_or_default();
    let text = format!("{given} rows given, {}, {dead} dead letters", parts.join(", "));
    let each: Vec<_> = sinks
        .map(|(sink, rows)| {
            serde_json::json!({ "sink": sink.target, "rows": rows[0], "committed": rows[1] })
        })
        .collect();
    let committed = now[1..].iter().skip(1).step_by(2).min().copied().unwrap_or_default();
    let json = serde_json::json!({
        "rows": given, "committed": committed, "dead_letters": dead, "sinks": each,
    });
    watched.told = now;
    say(ui, &watched.model, &text, json);
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
async fn stop_on_signal(handles: Vec<JobHandle>) {
    wait_for_signal().await;
    let _ = writeln!(
        std::io::stderr(),
        "stopping: what was read is carried through and committed; once more ends at once"
    );
    handles.iter().for_each(JobHandle::drain);
    wait_for_signal().await;
    std::process::exit(130);
}
