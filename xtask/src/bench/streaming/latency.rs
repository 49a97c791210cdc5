//! How long an event is on its way: from topic to topic, with checkpoints on, with large state, and
//! after a crash.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::freshet::Project;
use super::topics_tool;
use crate::{paths, services, sh};

/// How.
#[derive(Debug, Args)]
pub struct Options {
    /// Events in a second
    #[arg(long, default_value_t = 50_000)]
    rate: u64,
    /// How long
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Bytes of state that the join holds
    #[arg(long, default_value_t = 1_000_000_000)]
    state: u64,
    /// Partitions of the topics
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Case>,
    /// Between two checkpoints
    #[arg(long, default_value = "1s")]
    checkpoint_interval: String,
    /// A binary that is there already; otherwise the release build is made first
    #[arg(long)]
    freshet: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// Straight through, rows readable at once
    AtLeastOnce,
    /// Straight through, rows readable with their checkpoint
    ExactlyOnce,
    /// Through a join with large state: checkpoints, then a crash
    State,
}

/// Bytes of a row of state, as JSON; about as many as it takes in memory.
const ROW: u64 = 1_000;

struct Workshop<'a> {
    options: &'a Options,
    folder: PathBuf,
    freshet: PathBuf,
    example: PathBuf,
    python: PathBuf,
    broker: String,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<ExitCode> {
    let folder = paths::target().join("bench/streaming");
    fs::create_dir_all(&folder)?;
    let freshet = match &options.freshet {
        Some(binary) => std::path::absolute(binary)?,
        None => super::super::release_build()?,
    };
    let build = ["build", "--release", "-p", "freshet-connectors", "--example", "latency"];
    sh::run_aside(&mut sh::cargo(&build))?;
    let (broker, _) = services::broker()?;
    let workshop = Workshop {
        options,
        python: super::python(&folder)?,
        folder,
        freshet,
        example: paths::target().join("release/examples/latency"),
        broker,
    };
    let wanted = |case| options.only.is_empty() || options.only.contains(&case);
    println!("| case | events | p50 ms | p90 ms | p99 ms | p99.9 ms | worst ms | first row ms |");
    println!("|---|---|---|---|---|---|---|---|");
    if wanted(Case::AtLeastOnce) {
        workshop.through("at_least_once")?;
    }
    if wanted(Case::ExactlyOnce) {
        workshop.through("exactly_once")?;
    }
    if wanted(Case::State) {
        workshop.state()?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Workshop<'_> {
    fn through(&self, guarantee: &str) -> Result<()> {
        let topics = Topics::make(self, "through")?;
        let project = self.project(&topics, "through", guarantee)?;
        let job = Up::start(self, &project, "through")?;
        let said = self.measure(&topics, self.options.rate, self.options.seconds, None)?;
        say(guarantee, &said);
        job.stop()
    }

    fn state(&self) -> Result<()> {
        let topics = Topics::make(self, "state")?;
        let rows = (self.options.state / ROW).max(1);
        let mut fill = Command::new(&self.example);
        fill.args(["fill", &self.broker, &topics.held, &rows.to_string(), &ROW.to_string()]);
        sh::read(&mut fill)?;
        let project = self.project(&topics, "held", "at_least_once")?;
        let job = Up::start(self, &project, "held")?;
        // One event for each row: when all came back, all state is there.
        let rate = self.options.rate;
        let load = rows.div_ceil(rate);
        self.measure(&topics, rate, load, Some(rows))?;
        let said = self.measure(&topics, rate, self.options.seconds, Some(rows))?;
        say(&format!("state of {} MB", rows * ROW / 1_000_000), &said);
        job.kill()?;
        let job = Up::start_soon(self, &project, "held")?;
        let said = self.measure(&topics, 1_000, 6, Some(rows))?;
        say("after a crash, from the process' start", &said);
        job.stop()
    }

    fn project(&self, topics: &Topics, query: &str, guarantee: &str) -> Result<Project> {
        let sink = json!({
            "connector": "kafka", "connection": "broker", "topic": topics.out,
            "guarantee": guarantee, "compression": "none",
        });
        let vars = [
            ("events_topic".to_owned(), topics.events.clone()),
            ("held_topic".to_owned(), topics.held.clone()),
        ];
        let folder = self.folder.join("projects").join(format!("latency-{query}"));
        Project::copy("latency", folder, &self.broker, &vars, Some(&sink))
    }

    fn measure(
        &self,
        topics: &Topics,
        rate: u64,
        seconds: u64,
        keys: Option<u64>,
    ) -> Result<Value> {
        let mut command = Command::new(&self.example);
        command.args([&self.broker, &topics.events, &topics.out]);
        command.args([rate.to_string(), seconds.to_string()]);
        command.args(keys.map(|keys| keys.to_string()));
        Ok(serde_json::from_str(sh::read(&mut command)?.trim())?)
    }
}

fn say(case: &str, said: &Value) {
    let figure = |name: &str| said[name].to_string();
    let names = ["events", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms", "first_ms"];
    println!("| {case} | {} |", names.map(figure).join(" | "));
    eprintln!("{case}: worst by second, in ms: {}", said["worst_by_second_ms"]);
}

/// The topics of one case, empty.
struct Topics {
    events: String,
    held: String,
    out: String,
}

impl Topics {
    fn make(workshop: &Workshop<'_>, case: &str) -> Result<Self> {
        let name = |what: &str| format!("bench-latency-{case}-{what}");
        let topics = Self { events: name("events"), held: name("held"), out: name("out") };
        for topic in [&topics.events, &topics.held, &topics.out] {
            let mut create = topics_tool(&workshop.python, "create", &workshop.broker, topic);
            sh::read(create.arg(workshop.options.partitions.to_string()))?;
        }
        Ok(topics)
    }
}

/// A running `freshet up`.
struct Up {
    child: Child,
}

impl Up {
    /// Starts it and waits until its job runs.
    fn start(workshop: &Workshop<'_>, project: &Project, query: &str) -> Result<Self> {
        let mut up = Self::spawn(workshop, project, query, Stdio::piped())?;
        let lines = BufReader::new(up.child.stdout.take().context("the output is piped")?);
        let (sender, running) = std::sync::mpsc::channel();
        // Read to its end, so that it never waits for us.
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).unwrap_or_default();
                if line["state"] == "running" {
                    let _ = sender.send(());
                }
            }
        });
        match running.recv_timeout(Duration::from_secs(60)) {
            Ok(()) => Ok(up),
            Err(_) => bail!("freshet did not start: see {}", log(workshop, query).display()),
        }
    }

    /// Starts it and waits for nothing. What an earlier one left is taken over.
    fn start_soon(workshop: &Workshop<'_>, project: &Project, query: &str) -> Result<Self> {
        Self::spawn(workshop, project, query, Stdio::null())
    }

    fn spawn(
        workshop: &Workshop<'_>,
        project: &Project,
        query: &str,
        output: Stdio,
    ) -> Result<Self> {
        let interval = &workshop.options.checkpoint_interval;
        let mut command = Command::new(&workshop.freshet);
        command.arg("--json").arg("up").arg(project.folder()).args(["--select", query]);
        command.args(["--checkpoint-interval", interval, "--commit-interval", interval]);
        let errors = fs::File::create(log(workshop, query))?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        Ok(Self { child: child.context("could not start freshet")? })
    }

    /// Stops it as users do.
    fn stop(mut self) -> Result<()> {
        sh::read(Command::new("kill").args(["-INT", &self.child.id().to_string()]))?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > Duration::from_secs(60) {
                bail!("freshet did not stop");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends it as a crash does.
    fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Where something failed before it was stopped; otherwise it is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log(workshop: &Workshop<'_>, query: &str) -> PathBuf {
    Path::new(&workshop.folder).join(format!("{query}.freshet.log"))
}
