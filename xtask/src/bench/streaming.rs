//! Freshet against Apache Flink: the same events from Kafka, the same queries, the same guarantee, in
//! alternating runs, and a look at whether both gave the same rows.
//!
//! The broker shares the machine's cores with whichever of the two runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::measure::median;
use crate::{paths, services, sh};

mod flink;
mod freshet;
pub mod latency;

use flink::{Flink, State};
use freshet::Project;

/// How.
#[derive(Debug, Args)]
pub struct Options {
    /// Events of each data set
    #[arg(long, default_value_t = 5_000_000)]
    events: u64,
    /// Partitions of the topics
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    /// Runs of each program, alternating; the median counts
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Case>,
    /// Where rows go to
    #[arg(long, value_enum, value_delimiter = ',', default_value = "blackhole,kafka")]
    sinks: Vec<Target>,
    /// Threads of Freshet; Flink has two slots
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Where Flink keeps state
    #[arg(long, value_enum, default_value = "hashmap")]
    flink_state: State,
    /// Only one of the two
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// A binary that is there already; otherwise the release build is made first
    #[arg(long)]
    freshet: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Engine {
    /// Freshet
    Freshet,
    /// Apache Flink
    Flink,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Freshet => "freshet",
            Self::Flink => "flink",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    /// Nowhere: rows are made and counted
    Blackhole,
    /// A topic, exactly once
    Kafka,
    /// Freshet's own table in the lake; Flink has none beside it
    Table,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Blackhole => "blackhole",
            Self::Kafka => "kafka",
            Self::Table => "table",
        }
    }
}

/// A query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// Nexmark: pass through
    Q0,
    /// Nexmark: currency conversion
    Q1,
    /// Nexmark: local items, a join that grows slowly
    Q3,
    /// Nexmark: hot items, hopping windows
    Q5,
    /// Nexmark: new users who sell, a join of windows
    Q8,
    /// Nexmark: bids with their auctions, a join that grows fast
    Q20,
    /// The food delivery: counts by minute, city and status
    FoodCounts,
    /// The food delivery: orders with their couriers within an interval
    FoodCouriers,
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Q0 => "q0",
            Self::Q1 => "q1",
            Self::Q3 => "q3",
            Self::Q5 => "q5",
            Self::Q8 => "q8",
            Self::Q20 => "q20",
            Self::FoodCounts => "food_counts",
            Self::FoodCouriers => "food_couriers",
        }
    }

    /// The project in `bench/streaming` that it belongs to.
    fn group(self) -> &'static str {
        match self {
            Self::FoodCounts | Self::FoodCouriers => "food",
            _ => "nexmark",
        }
    }

    /// The data sets of its project, by the variable that names their topic.
    fn topics(self) -> &'static [&'static str] {
        match self.group() {
            "food" => &["orders_topic", "couriers_topic"],
            _ => &["topic"],
        }
    }

    /// Those that it reads.
    fn data(self) -> &'static [&'static str] {
        match self {
            Self::FoodCounts => &["orders_topic"],
            Self::FoodCouriers => &["orders_topic", "couriers_topic"],
            _ => &["topic"],
        }
    }

    /// Flink's SQL of it. Nexmark's is that which the tests have.
    fn flink_query(self) -> PathBuf {
        match self.group() {
            "food" => paths::root().join(format!("bench/streaming/flink/{}.sql", self.name())),
            _ => paths::root().join(format!("tests/streaming/nexmark/{}/query.sql", self.name())),
        }
    }

    /// The columns of its result, with types of DuckDB's, for the comparison.
    fn columns(self) -> &'static str {
        match self {
            Self::Q0 => {
                "auction:BIGINT,bidder:BIGINT,price:BIGINT,dateTime:TIMESTAMP,extra:VARCHAR"
            }
            Self::Q1 => {
                "auction:BIGINT,bidder:BIGINT,price:DECIMAL(38;3),dateTime:TIMESTAMP,extra:VARCHAR"
            }
            Self::Q3 => "name:VARCHAR,city:VARCHAR,state:VARCHAR,id:BIGINT",
            Self::Q5 => "auction:BIGINT,num:BIGINT",
            Self::Q8 => "id:BIGINT,name:VARCHAR,starttime:TIMESTAMP",
            Self::Q20 => {
                "auction:BIGINT,bidder:BIGINT,price:BIGINT,channel:VARCHAR,url:VARCHAR,\
                 bid_dateTime:TIMESTAMP,bid_extra:VARCHAR,itemName:VARCHAR,description:VARCHAR,\
                 initialBid:BIGINT,reserve:BIGINT,auction_dateTime:TIMESTAMP,expires:TIMESTAMP,\
                 seller:BIGINT,category:BIGINT,auction_extra:VARCHAR"
            }
            Self::FoodCounts => {
                "city:VARCHAR,status:VARCHAR,window_start:TIMESTAMP,window_end:TIMESTAMP,\
                 orders:BIGINT,amount:DECIMAL(38;2)"
            }
            Self::FoodCouriers => {
                "order_id:BIGINT,city:VARCHAR,amount:DECIMAL(38;2),placed_at:TIMESTAMP,\
                 courier_id:BIGINT,delivered_at:TIMESTAMP"
            }
        }
    }
}

/// What one run took.
#[derive(Debug, Clone, Default)]
struct Run {
    /// From the job's start to its end, all committed.
    seconds: f64,
    /// What came before, where that is known.
    startup: Option<f64>,
    /// Of the engine's processes.
    cpu_seconds: f64,
    /// Of the broker's, meanwhile.
    broker_seconds: f64,
    /// Most memory that the engine's processes held.
    peak_mib: f64,
    /// Checkpoints, where they are told.
    checkpoints: Option<u64>,
    /// Rows given, where they are told.
    rows: Option<u64>,
}

/// A topic with its events.
#[derive(Debug, Clone)]
struct Topic {
    name: String,
    events: u64,
}

struct Workshop<'a> {
    options: &'a Options,
    folder: PathBuf,
    freshet: PathBuf,
    python: PathBuf,
    broker: String,
    broker_process: u32,
    flink: Option<Flink>,
    topics: BTreeMap<&'static str, Topic>,
}

/// Runs the comparisons; fails where results differ or a query could not be run.
pub fn run(options: &Options) -> Result<ExitCode> {
    let folder = paths::target().join("bench/streaming");
    fs::create_dir_all(&folder)?;
    let freshet = match &options.freshet {
        Some(binary) => std::path::absolute(binary)?,
        None => super::release_build()?,
    };
    let (broker, broker_process) = services::broker()?;
    let python = python(&folder)?;
    let flink = match options.engine {
        Some(Engine::Freshet) => None,
        _ => Some(Flink::install()?),
    };
    let mut workshop = Workshop {
        options,
        folder,
        freshet,
        python,
        broker,
        broker_process,
        flink,
        topics: BTreeMap::new(),
    };
    let cases: Vec<Case> = match options.only.as_slice() {
        [] => Case::value_variants().to_vec(),
        only => only.to_vec(),
    };
    for case in &cases {
        workshop.load(*case)?;
    }
    println!(
        "| query | sink | engine | events/s | s | CPU s | broker CPU s | peak MiB | start-up s | checkpoints | rows |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let mut problems = Vec::new();
    let mut ratios: BTreeMap<&str, Vec<(Case, f64, f64)>> = BTreeMap::new();
    for case in cases {
        if let Some(flink) = &workshop.flink {
            flink.start_anew()?;
        }
        for (number, target) in options.sinks.iter().enumerate() {
            let ratio = workshop.compare(case, *target, number == 0, &mut problems);
            match ratio.with_context(|| format!("{} into {}", case.name(), target.name())) {
                Ok(Some((rate, cpu))) => {
                    ratios.entry(target.name()).or_default().push((case, rate, cpu));
                }
                Ok(None) => {}
                Err(error) => problems.push(format!("{error:#}")),
            }
        }
    }
    println!();
    for (target, ratios) in &ratios {
        say_ratios(target, ratios);
    }
    for problem in &problems {
        eprintln!("error: {problem}");
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A Python with what the tools in `bench/streaming/tools` need.
fn python(folder: &Path) -> Result<PathBuf> {
    let packages = ["confluent-kafka==2.16.1", "duckdb==2.0.0"];
    Ok(services::environment(&folder.join("python"), &packages)?.program("python"))
}

fn topics_tool(python: &Path, task: &str, broker: &str, topic: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(paths::root().join("bench/streaming/tools/topics.py"));
    command.args([task, broker, topic]);
    command
}

/// How many times Flink's rate Freshet's is, and how many times Freshet's CPU time Flink's.
fn say_ratios(target: &str, ratios: &[(Case, f64, f64)]) {
    let mean = |values: Vec<f64>| {
        (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
    };
    let rates: Vec<f64> = ratios.iter().map(|(_, rate, _)| *rate).collect();
    let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let by_case: Vec<String> =
        ratios.iter().map(|(case, rate, _)| format!("{} {rate:.2}", case.name())).collect();
    println!(
        "into {target}: {} times Flink's rate; geometric mean {:.2}, least {least:.2}; \
         Flink takes {:.2} times the CPU time",
        by_case.join(", "),
        mean(rates),
        mean(ratios.iter().map(|(_, _, cpu)| *cpu).collect()),
    );
}

impl Workshop<'_> {
    /// The topics of a case, filled once.
    fn load(&mut self, case: Case) -> Result<()> {
        if case.data().iter().all(|data| self.topics.contains_key(data)) {
            return Ok(());
        }
        let Options { events, partitions, .. } = *self.options;
        match case.group() {
            "food" => {
                // Of all events about 0.63 are of orders.
                let rate = (events as f64 * 0.631 / 3_600.0).round().max(1.0).to_string();
                let arguments = ["generate", "orders", "--rate", &rate, "--span", "1h"];
                let sound = ["--late", "0", "--bad", "0", "--duplicates", "0"];
                let name = format!("bench-food-{events}-{partitions}");
                let data = self.folder.join(&name);
                let mut generate = Command::new(&self.freshet);
                generate.args(arguments).args(sound).arg(&data);
                for (key, stream) in [("orders_topic", "orders"), ("couriers_topic", "couriers")] {
                    let topic = format!("{name}-{stream}");
                    let files = [data.join(format!("{stream}.ndjson"))];
                    let filled = self.fill(topic, &mut generate, &files)?;
                    self.topics.insert(key, filled);
                }
                super::remove(&data)?;
            }
            _ => {
                let name = format!("bench-nexmark-{events}-{partitions}");
                let data = self.folder.join(&name);
                let mut generate = Command::new(&self.freshet);
                generate.args(["generate", "nexmark", "--events", &events.to_string()]);
                generate.args(["--partitions", &partitions.to_string()]).arg(&data);
                let files: Vec<PathBuf> = (0..partitions)
                    .map(|number| data.join(format!("nexmark-{number:05}.ndjson")))
                    .collect();
                let filled = self.fill(name, &mut generate, &files)?;
                super::remove(&data)?;
                self.topics.insert("topic", filled);
            }
        }
        Ok(())
    }

    /// A topic with the lines of these files, which `generate` makes where they are missing.
    fn fill(&self, name: String, generate: &mut Command, files: &[PathBuf]) -> Result<Topic> {
        // Written last: says how many events there should be.
        let stamp = self.folder.join(format!("{name}.filled"));
        let count = || -> Result<u64> {
            Ok(sh::read(&mut self.topics_tool("count", &name))?.trim().parse()?)
        };
        if let Ok(events) = fs::read_to_string(&stamp).unwrap_or_default().parse()
            && count()? == events
        {
            return Ok(Topic { name, events });
        }
        if !files.iter().all(|file| file.exists()) {
            sh::run_aside(generate)?;
        }
        let mut fill = self.topics_tool("fill", &name);
        fill.arg(self.options.partitions.to_string()).args(files);
        eprintln!("+ filling topic {name}");
        let events: u64 = sh::read(&mut fill)?.trim().parse()?;
        if count()? != events {
            bail!("topic {name} does not hold the {events} events that were sent");
        }
        fs::write(stamp, events.to_string())?;
        Ok(Topic { name, events })
    }

    fn topics_tool(&self, task: &str, topic: &str) -> Command {
        topics_tool(&self.python, task, &self.broker, topic)
    }

    /// Runs both in turn and prints a line for each; how many times Flink's rate Freshet's is, and
    /// how many times Freshet's CPU time Flink's.
    fn compare(
        &self,
        case: Case,
        target: Target,
        is_first: bool,
        problems: &mut Vec<String>,
    ) -> Result<Option<(f64, f64)>> {
        let events: u64 = case.data().iter().map(|data| self.topics[data].events).sum();
        let mut engines = vec![Engine::Freshet, Engine::Flink];
        engines.retain(|engine| self.options.engine.is_none_or(|only| only == *engine));
        engines.retain(|engine| *engine == Engine::Freshet || target != Target::Table);
        let mut runs: BTreeMap<Engine, Vec<Run>> = BTreeMap::new();
        if is_first && engines.contains(&Engine::Flink) {
            // Its virtual machine has compiled nothing yet.
            self.run(Engine::Flink, case, target)?;
        }
        for _ in 0..self.options.runs.max(1) {
            let mut failed = Vec::new();
            for engine in &engines {
                match self.run(*engine, case, target) {
                    Ok(run) => runs.entry(*engine).or_default().push(run),
                    Err(error) => {
                        let (case, target, name) = (case.name(), target.name(), engine.name());
                        problems
                            .push(format!("{name} could not run {case} into {target}: {error:#}"));
                        failed.push(*engine);
                    }
                }
            }
            engines.retain(|engine| !failed.contains(engine));
        }
        runs.retain(|engine, _| engines.contains(engine));
        for (engine, runs) in &runs {
            say_runs(case, target, *engine, events, runs);
        }
        if target == Target::Kafka {
            self.check(case, &engines, problems)?;
        }
        let of = |engine, figure: fn(&Run) -> f64| {
            let runs = runs.get(&engine)?;
            Some(median(&runs.iter().map(figure).collect::<Vec<_>>()))
        };
        let ratio = |figure: fn(&Run) -> f64| {
            Some(of(Engine::Flink, figure)? / of(Engine::Freshet, figure)?)
        };
        Ok(ratio(|run| run.seconds).zip(ratio(|run| run.cpu_seconds)))
    }

    /// Compares what the last runs wrote.
    fn check(&self, case: Case, engines: &[Engine], problems: &mut Vec<String>) -> Result<()> {
        let mut digests = Vec::new();
        for engine in engines {
            let topic = out_topic(*engine);
            let file = self.folder.join(format!("{topic}.ndjson"));
            sh::read(self.topics_tool("read", &topic).arg(&file))?;
            let mut digest = Command::new(&self.python);
            digest.arg(paths::root().join("bench/streaming/tools/digest.py"));
            digest.arg(&file).arg(case.columns());
            digests.push((engine.name(), sh::read(&mut digest)?.trim().to_owned()));
            super::remove(&file)?;
            sh::read(&mut self.topics_tool("delete", &topic))?;
        }
        if digests.windows(2).any(|pair| pair[0].1 != pair[1].1) {
            problems.push(format!("{}: the results differ: {digests:?}", case.name()));
        } else if let [(_, digest), _, ..] = digests.as_slice() {
            eprintln!("{}: both wrote the same: {digest}", case.name());
        }
        Ok(())
    }

    fn run(&self, engine: Engine, case: Case, target: Target) -> Result<Run> {
        let out = out_topic(engine);
        if target == Target::Kafka {
            let mut create = self.topics_tool("create", &out);
            sh::read(create.arg(self.options.partitions.to_string()))?;
        }
        let topics: Vec<(String, String)> = case
            .topics()
            .iter()
            .map(|data| ((*data).to_owned(), self.topics[data].name.clone()))
            .collect();
        let before = cpu_seconds(self.broker_process)?;
        let run = match engine {
            Engine::Freshet => {
                let sink: Option<Value> = match target {
                    Target::Blackhole => Some(json!({ "connector": "blackhole" })),
                    Target::Kafka => Some(json!({
                        "connector": "kafka", "connection": "broker", "topic": out,
                        "compression": "none",
                        // At full speed an epoch is larger than the default lets it be.
                        "max_held_bytes": "2GiB",
                    })),
                    Target::Table => None,
                };
                let folder = self.folder.join("projects").join(case.name());
                let broker = &self.broker;
                let project = Project::copy(case.group(), folder, broker, &topics, sink.as_ref())?;
                let log = self.folder.join(format!("{}.freshet.log", case.name()));
                project.run(case.name(), &self.freshet, self.options.threads, &log)?
            }
            Engine::Flink => {
                let flink = self.flink.as_ref().context("flink is not there")?;
                let setup = self.flink_setup(case, &topics)?;
                let sink = match target {
                    Target::Kafka => format!(
                        "'connector' = 'kafka', 'topic' = '{out}', \
                         'properties.bootstrap.servers' = '{}', 'format' = 'json', \
                         'json.timestamp-format.standard' = 'ISO-8601', \
                         'sink.delivery-guarantee' = 'exactly-once', \
                         'sink.transactional-id-prefix' = '{out}', \
                         'properties.transaction.timeout.ms' = '600000'",
                        self.broker
                    ),
                    _ => "'connector' = 'blackhole'".to_owned(),
                };
                let state = self.options.flink_state;
                flink.run(&self.python, state, &setup, &case.flink_query(), &sink)?
            }
        };
        let broker_seconds = cpu_seconds(self.broker_process)? - before;
        Ok(Run { broker_seconds, ..run })
    }

    /// Flink's tables of a case, in a file.
    fn flink_setup(&self, case: Case, topics: &[(String, String)]) -> Result<PathBuf> {
        let group = case.group();
        let template = paths::root().join(format!("bench/streaming/flink/{group}.sql"));
        let mut text = read(&template)?.replace("${broker}", &self.broker);
        for (name, topic) in topics {
            text = text.replace(&format!("${{{name}}}"), topic);
        }
        if group == "nexmark" {
            text += &read(&paths::root().join("tests/streaming/nexmark/views.sql"))?;
        }
        let setup = self.folder.join(format!("{group}.setup.sql"));
        fs::write(&setup, text)?;
        Ok(setup)
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}

fn out_topic(engine: Engine) -> String {
    format!("bench-out-{}", engine.name())
}

fn say_runs(case: Case, target: Target, engine: Engine, events: u64, runs: &[Run]) {
    let of = |figure: fn(&Run) -> Option<f64>| {
        let figures: Option<Vec<f64>> = runs.iter().map(figure).collect();
        figures.map(|figures| median(&figures))
    };
    let seconds = of(|run| Some(run.seconds)).unwrap_or(f64::NAN);
    let text = |figure: Option<f64>, digits: usize| {
        figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.digits$}"))
    };
    println!(
        "| {} | {} | {} | {:.0} | {seconds:.2} | {} | {} | {} | {} | {} | {} |",
        case.name(),
        target.name(),
        engine.name(),
        events as f64 / seconds,
        text(of(|run| Some(run.cpu_seconds)), 2),
        text(of(|run| Some(run.broker_seconds)), 2),
        text(of(|run| Some(run.peak_mib)), 0),
        text(of(|run| run.startup), 2),
        text(of(|run| run.checkpoints.map(|count| count as f64)), 0),
        text(of(|run| run.rows.map(|rows| rows as f64)), 0),
    );
}

/// User and system time of a process, in seconds.
fn cpu_seconds(process: u32) -> Result<f64> {
    let stat = read(Path::new(&format!("/proc/{process}/stat")))?;
    // Behind the name, which may hold anything, the state is the first field; times are the 12th
    // and 13th.
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |place: usize| fields.get(place).and_then(|ticks| ticks.parse::<f64>().ok());
    let ticks = ticks(11).zip(ticks(12)).context("a process' times could not be read")?;
    // SAFETY: asks for a constant of the system.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok((ticks.0 + ticks.1) / per_second as f64)
}
