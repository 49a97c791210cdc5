//! `freshet jobs` and `freshet job`: what streaming jobs do, and what people want of them.
//!
//! Jobs that run are asked over HTTP, in the `freshet up` of this machine that has them. Of others
//! the checkpoints are looked at, which is all that there is of them.

pub mod stored;
pub mod view;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use freshet_core::clock::{Clock, SystemClock};
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};
use freshet_runtime::figures::JobFigures;
use freshet_serve::is_called;
use serde::Deserialize;
use serde_json::{Value, json};

use self::stored::Stored;
use crate::app::{self, App, Place};
use crate::cli::JobCommand;
use crate::client::Client;
use crate::exit::{CommandResult, Outcome};
use crate::running::Note;
use crate::ui::Ui;

/// Between two looks at a job, for its rates.
const LOOK: Duration = Duration::from_secs(1);

/// How long a job may take to end at a barrier and begin again.
const LONGEST_CHANGE: Duration = Duration::from_secs(600);

/// Lists all jobs.
pub fn list(place: &Place, ui: &Ui) -> CommandResult {
    let app = place.open_to_look()?;
    app::runtime(Some(1))?.block_on(async {
        let running = running(&app).await?;
        let stored = Stored::all(&app).await?;
        let others: Vec<&Stored> = stored
            .iter()
            .filter(|stored| running.iter().all(|(_, job)| job.job != stored.job))
            .collect();
        let out = &mut io::stdout().lock();
        if ui.json {
            let running: Vec<_> = running.iter().map(|(_, job)| job).collect();
            writeln!(out, "{}", json!({ "running": running, "stored": others }))?;
            return Ok(Outcome::Done);
        }
        let mut jobs = Vec::new();
        if !running.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
        for (client, before) in running {
            // One that ended meanwhile is shown as it was.
            let now = look(&client, &before.job).await.unwrap_or_else(|_| before.clone());
            jobs.push((before, now));
        }
        view::list(out, &jobs, &others, SystemClock.now_micros(), ui)?;
        Ok(Outcome::Done)
    })
}

/// Shows or steers one job.
pub fn run(command: &JobCommand, place: &Place, ui: &Ui) -> CommandResult {
    let app = place.open_to_look()?;
    app::runtime(Some(1))?.block_on(async {
        match command {
            JobCommand::Show { model, watch, every } => {
                show(&app, model, watch.then_some(every.0), ui).await
            }
            JobCommand::Savepoint { model, name, delete } => {
                savepoint(&app, model, name.as_deref(), *delete, ui).await
            }
            JobCommand::Restore { model, from, allow_duplicates } => {
                restore(&app, model, from, *allow_duplicates, ui).await
            }
            JobCommand::Rescale { model, tasks } => rescale(&app, model, *tasks, ui).await,
        }
    })
}

async fn show(app: &App, model: &str, watch: Option<Duration>, ui: &Ui) -> CommandResult {
    let Some((client, mut before)) = find(app, model).await? else {
        let stored = Stored::find(app, model).await?;
        let out = &mut io::stdout().lock();
        if ui.json {
            writeln!(out, "{}", to_json(&stored)?)?;
        } else {
            view::stored(out, &stored, SystemClock.now_micros(), ui)?;
        }
        return Ok(Outcome::Done);
    };
    let job = before.job.clone();
    loop {
        if !(ui.json && watch.is_none()) {
            tokio::time::sleep(watch.unwrap_or(LOOK).max(Duration::from_millis(100))).await;
        }
        let savepoints = Stored::savepoints(app, &job).await?;
        let now = match look(&client, &job).await {
            Ok(now) => now,
            Err(error) if watch.is_some() => {
                return match find(app, model).await? {
                    // It is there and cannot be asked.
                    Some(_) => Err(error.into()),
                    None => {
                        writeln!(io::stderr(), "{model} does not run any more")?;
                        Ok(Outcome::Done)
                    }
                };
            }
            Err(error) => return Err(error.into()),
        };
        let mut out = io::stdout().lock();
        if ui.json {
            writeln!(out, "{}", to_json(&now)?)?;
        } else {
            // On a terminal each picture takes the place of the last.
            if watch.is_some() && io::stdout().is_terminal() {
                write!(out, "\x1b[H\x1b[2J")?;
            }
            view::show(&mut out, &before, &now, &savepoints, ui)?;
        }
        out.flush()?;
        if watch.is_none() {
            return Ok(Outcome::Done);
        }
        before = now;
    }
}

async fn savepoint(
    app: &App,
    model: &str,
    name: Option<&str>,
    delete: bool,
    ui: &Ui,
) -> CommandResult {
    let name = match name {
        Some(name) => name.to_owned(),
        None => SystemClock.now().format("%Y%m%d-%H%M%S").to_string(),
    };
    if delete {
        let stored = Stored::find(app, model).await?;
        stored.forget(app, &name).await?;
        return told(ui, &json!({ "deleted": name }), &format!("savepoint {name} is deleted"));
    }
    let saved = match find(app, model).await? {
        Some((client, job)) => {
            let client = client.patient(LONGEST_CHANGE);
            client.post(&path(&job.job, "/savepoint"), &json!({ "name": name })).await?
        }
        None => Stored::find(app, model).await?.save(app, &name).await?,
    };
    let epoch = saved["epoch"].as_u64().unwrap_or_default();
    told(ui, &saved, &format!("savepoint {name} is made: {model} at epoch {epoch}"))
}

async fn restore(
    app: &App,
    model: &str,
    from: &str,
    allow_duplicates: bool,
    ui: &Ui,
) -> CommandResult {
    let restored = match find(app, model).await? {
        Some((client, job)) => {
            let body = json!({ "from": from, "allow_duplicates": allow_duplicates });
            client.patient(LONGEST_CHANGE).post(&path(&job.job, "/restore"), &body).await?
        }
        None => Stored::find(app, model).await?.restore(app, from, allow_duplicates).await?,
    };
    let epoch = restored["epoch"].as_u64().unwrap_or_default();
    let text = match restored["is_newest"].as_bool() {
        Some(true) => format!("{model} stands at savepoint {from} already"),
        _ => format!("{model} goes on from savepoint {from} (epoch {epoch})"),
    };
    told(ui, &restored, &text)
}

async fn rescale(app: &App, model: &str, tasks: u16, ui: &Ui) -> CommandResult {
    let Some((client, job)) = find(app, model).await? else {
        return Err(Error::new(code::CONTROL, format!("job \"{model}\" does not run"))
            .hint("start it with as many threads: `freshet up --threads N`")
            .into());
    };
    let body = json!({ "parallelism": tasks });
    let done = client.patient(LONGEST_CHANGE).post(&path(&job.job, "/rescale"), &body).await?;
    told(ui, &done, &format!("{model} goes on with {tasks} tasks a stage"))
}

fn told(ui: &Ui, json: &Value, text: &str) -> CommandResult {
    let out = &mut io::stdout().lock();
    if ui.json {
        writeln!(out, "{json}")?;
    } else if !ui.quiet {
        writeln!(out, "{text}")?;
    }
    Ok(Outcome::Done)
}

/// The address of a job, whose name is a part of it.
fn path(job: &str, rest: &str) -> String {
    format!("/v1/jobs/{}{rest}", job.replace('/', "%2F"))
}

async fn look(client: &Client, job: &str) -> Result<JobFigures> {
    parse(client.get(&path(job, "")).await?)
}

/// The jobs that run on this machine in the environment, each with whom to ask.
async fn running(app: &App) -> Result<Vec<(Client, JobFigures)>> {
    #[derive(Deserialize)]
    struct List {
        jobs: Vec<JobFigures>,
    }
    let mut found = Vec::new();
    for note in Note::find(&app.project.environment.state_dir) {
        let Some(address) = note.address else { continue };
        let client = Client::new(address);
        match client.get("/v1/jobs").await {
            Ok(value) => {
                let List { jobs } = parse(value)?;
                found.extend(jobs.into_iter().map(|job| (client, job)));
            }
            // One that is just ending does not hide the others.
            Err(error) => {
                tracing::warn!(pid = note.pid, %error, "a `freshet up` could not be asked");
            }
        }
    }
    Ok(found)
}

async fn find(app: &App, model: &str) -> Result<Option<(Client, JobFigures)>> {
    let running = running(app).await?;
    Ok(running.into_iter().find(|(_, job)| is_called(&job.job, model)))
}

fn parse<T: for<'de> Deserialize<'de>>(value: Value) -> Result<T> {
    serde_json::from_value(value)
        .or_code(code::IO, || "the answer of `freshet up` is not of this version".to_owned())
}

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::internal("figures are no JSON").caused_by(error))
}
