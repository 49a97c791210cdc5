//! The command line: every command and option, with the text that `--help` and the reference show.
//!
//! Nothing is opened or read here.

use std::path::PathBuf;

use chrono::{NaiveDate, NaiveDateTime, TimeDelta};
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use freshet_core::source::Interval;

use crate::generate::nexmark::NexmarkOptions;
use crate::generate::orders::OrdersOptions;
use crate::generate::pos::PosOptions;
use crate::ui::ColorChoice;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Data pipelines from a folder of SQL and YAML: raw files in, checked and published tables out.
#[derive(Debug, Parser)]
#[command(name = "freshet", version, styles = STYLES, max_term_width = 100)]
#[command(propagate_version = false, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = EXIT_CODES)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 the data or a check failed, 2 the project or the \
arguments are wrong, 3 partial (a file or a model was left out), 70 a fault of ours.";

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// The project folder: the one with `freshet.yml` or `dbt_project.yml` [env: FRESHET_PROJECT]
    #[arg(long, short = 'C', global = true, value_name = "DIR")]
    pub project: Option<PathBuf>,
    /// The environment of `freshet.yml` to work in [env: FRESHET_ENV]
    #[arg(long, short = 'e', global = true, value_name = "NAME")]
    pub env: Option<String>,
    /// Sets a variable; the value is read as YAML or JSON where it is, as text otherwise
    #[arg(long = "vars", global = true, value_name = "NAME=VALUE", value_parser = parse_var)]
    pub vars: Vec<(String, serde_json::Value)>,
    /// Prints results as JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Prints errors and results only
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// When to use colours; `NO_COLOR` is honoured
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// The form of log lines on standard error
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// What to log: a level, or directives such as `warn,freshet_engine=debug` [env: FRESHET_LOG]
    /// [default: warn]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a small project that runs
    Init(InitArgs),
    /// Compiles everything and touches nothing: all errors at once
    Check(DirArgs),
    /// Reads what is new, builds the models in order, checks and publishes them
    Run(RunArgs),
    /// Runs the streaming models until it is stopped
    Up(UpArgs),
    /// Says what a change of SQL does to the state of streaming jobs, before they are started
    Plan(PlanArgs),
    /// Lists the streaming jobs: those that run, and those that have checkpoints
    Jobs(JobsArgs),
    /// Shows a streaming job, and steers it
    Job(JobArgs),
    /// Pushes records into a source's log: lines of a file or of standard input
    Ingest(IngestArgs),
    /// Runs the checks on what is published, and the unit tests
    Test(TestArgs),
    /// Queries the tables: one query, a file, or a prompt
    Sql(SqlArgs),
    /// Lists models, seeds and sources
    Ls(LsArgs),
    /// Shows the first rows of a model, computed anew; nothing is stored
    Show(ShowArgs),
    /// Lists earlier runs and shows their full reports
    Runs(RunsArgs),
    /// Dead letters: the records that were not accepted, and their replay
    Dlq(DlqArgs),
    /// Sources: writes the YAML of one from a sample of its files
    Sources(SourcesArgs),
    /// Lists the connectors and formats, and their options
    Connectors(ConnectorsArgs),
    /// Makes data for examples, tests and benchmarks
    Generate(GenerateArgs),
    /// Maintenance of the lake's tables
    Lake(LakeArgs),
    /// Removes the local state of an environment: its lake, run records and temporary files
    Clean(CleanArgs),
    /// For Freshet's own build
    #[command(hide = true)]
    Internal(InternalArgs),
}

/// A command that needs only the project.
#[derive(Debug, Clone, Args)]
pub struct DirArgs {
    /// The project folder [default: the current one]
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Which nodes.
#[derive(Debug, Clone, Default, Args)]
pub struct SelectArgs {
    /// Only these: names, `+m`, `m+2`, `@m`, `tag:`, `path:`, `source:`, `state:modified`; commas
    /// intersect, spaces and repetition unite
    #[arg(long, short, value_name = "SELECTOR", num_args = 1..)]
    pub select: Vec<String>,
    /// All but these, in the same words
    #[arg(long, value_name = "SELECTOR", num_args = 1..)]
    pub exclude: Vec<String>,
}

/// `freshet init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder to make; its name becomes the project's
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// `freshet run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The project folder [default: the current one]
    #[command(flatten)]
    pub dir: DirArgs,
    /// Which models.
    #[command(flatten)]
    pub nodes: SelectArgs,
    /// Builds incremental models anew from everything
    #[arg(long, short)]
    pub full_refresh: bool,
    /// Computes this span of event time again: `2026-10-01..2026-10-04` (the end is not in it), or
    /// one day `2026-10-01`
    #[arg(long, value_name = "A..B", value_parser = parse_interval)]
    pub interval: Option<Interval>,
    /// Starts nothing more after the first failure
    #[arg(long, short = 'x')]
    pub fail_fast: bool,
    /// Models at once, and threads of a query [default: one a core]
    #[arg(long, short, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
}

/// `freshet up`
#[derive(Debug, Args)]
pub struct UpArgs {
    /// The project folder [default: the current one]
    #[command(flatten)]
    pub dir: DirArgs,
    /// Which models.
    #[command(flatten)]
    pub nodes: SelectArgs,
    /// Threads of each job [default: one a core]
    #[arg(long, short, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
    /// Between two checkpoints
    #[arg(long, value_name = "SPAN", default_value = "1s")]
    pub checkpoint_interval: freshet_core::config::HumanDuration,
    /// Between two commits of a table [default: 60s; with --demo 1s]
    #[arg(
        long,
        value_name = "SPAN",
        default_value = "60s",
        default_value_if("demo", "true", "1s"),
        hide_default_value = true
    )]
    pub commit_interval: freshet_core::config::HumanDuration,
    /// Where to listen for HTTP: an address of this machine such as `127.0.0.1:7878`, or `none`
    /// [default: `http.listen` of the environment]
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<String>,
    /// Goes on though the SQL has changed and has no place for state that a checkpoint holds; `freshet
    /// plan` says what is lost
    #[arg(long)]
    pub accept_state_loss: bool,
    /// Makes the streams that the project's `demo_data` declares as they happen, and shows a result
    /// as it changes
    #[arg(long)]
    pub demo: bool,
}

/// `freshet plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The project folder [default: the current one]
    #[command(flatten)]
    pub dir: DirArgs,
    /// Which models.
    #[command(flatten)]
    pub nodes: SelectArgs,
}

/// `freshet jobs`
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// The project folder [default: the current one]
    #[command(flatten)]
    pub dir: DirArgs,
}

/// `freshet job`
#[derive(Debug, Args)]
pub struct JobArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: JobCommand,
}

/// `freshet job …`
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Shows what a job does: rows, time, state, checkpoints, savepoints, and what it waits for
    Show {
        /// The model
        #[arg(value_name = "MODEL")]
        model: String,
        /// Shows it again and again, until it is stopped
        #[arg(long, short)]
        watch: bool,
        /// Between two times with `--watch`
        #[arg(long, value_name = "SPAN", default_value = "1s")]
        every: freshet_core::config::HumanDuration,
    },
    /// Makes a checkpoint that lasts, of a job that runs or of its last checkpoint
    Savepoint {
        /// The model
        #[arg(value_name = "MODEL")]
        model: String,
        /// The savepoint's name [default: the time]
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// Deletes the savepoint of that name instead
        #[arg(long, requires = "name")]
        delete: bool,
    },
    /// Lets a job go on from a savepoint
    Restore {
        /// The model
        #[arg(value_name = "MODEL")]
        model: String,
        /// The savepoint's name
        #[arg(long, value_name = "NAME")]
        from: String,
        /// Restores it though its sinks hold what came since, and get it once more
        #[arg(long)]
        allow_duplicates: bool,
    },
    /// Lets a job that runs go on with another number of tasks
    Rescale {
        /// The model
        #[arg(value_name = "MODEL")]
        model: String,
        /// Tasks of each stage
        #[arg(value_name = "N")]
        tasks: u16,
    },
}

/// `freshet ingest`
#[derive(Debug, Args)]
pub struct IngestArgs {
    /// The table of a source, `source.table`
    pub source: String,
    /// A file, a record a line [default: standard input]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Keeps nothing unless the contract accepts every record that is pushed at once
    #[arg(long)]
    pub strict: bool,
}

/// `freshet test`
#[derive(Debug, Args)]
pub struct TestArgs {
    /// The project folder [default: the current one]
    #[command(flatten)]
    pub dir: DirArgs,
    /// Which models' checks and unit tests.
    #[command(flatten)]
    pub nodes: SelectArgs,
}

/// `freshet ls`
#[derive(Debug, Args)]
pub struct LsArgs {
    /// The project folder [default: the current one]
    #[command(flatten)]
    pub dir: DirArgs,
    /// Which nodes.
    #[command(flatten)]
    pub nodes: SelectArgs,
}

/// `freshet show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The model
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// Rows to show
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
    pub limit: usize,
    /// Prints the model's SQL without templates instead of rows
    #[arg(long)]
    pub compiled: bool,
    /// How to print the rows
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: OutputFormat,
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Table,
    /// Comma-separated, with a header; nulls are empty, empty text is `""`.
    Csv,
    /// One array of objects.
    Json,
    /// One object a line.
    Ndjson,
}

/// `freshet sql`
#[derive(Debug, Args)]
pub struct SqlArgs {
    /// The query; without one, a prompt (or standard input where that is no terminal)
    #[arg(value_name = "QUERY", conflicts_with_all = ["command", "file"])]
    pub query: Option<String>,
    /// The query
    #[arg(long, short, value_name = "QUERY", conflicts_with = "file")]
    pub command: Option<String>,
    /// A file of queries separated by `;`, `-` for standard input
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// How to print rows
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: OutputFormat,
    /// Reads every table as it was: a version number, a date, or a time in UTC
    #[arg(long, value_name = "WHEN", value_parser = parse_as_of)]
    pub as_of: Option<AsOfArg>,
    /// Rows printed of a table at most; the other formats print all
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub max_rows: usize,
}

/// A point in a table's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOfArg {
    /// A version's number.
    Version(u64),
    /// The newest version not younger than this, UTC.
    Time(NaiveDateTime),
}

/// `freshet runs`
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// What to do with them [default: ls]
    #[command(subcommand)]
    pub command: Option<RunsCommand>,
}

/// `freshet runs …`
#[derive(Debug, Clone, Subcommand)]
pub enum RunsCommand {
    /// Lists them, newest first
    Ls {
        /// Runs to list
        #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// Prints the full report of one
    Show {
        /// Its id, the start of it, or `latest`
        #[arg(value_name = "ID", default_value = "latest")]
        id: String,
    },
    /// Forgets old runs; the newest build of each model is kept, and the tables are not touched
    Prune {
        /// Age from which on runs go
        #[arg(long, value_name = "DURATION", default_value = "90d")]
        older_than: freshet_core::config::HumanDuration,
        /// Only say how many would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Makes the record of runs again from the lake
    Rebuild,
}

/// `freshet dlq`
#[derive(Debug, Args)]
pub struct DlqArgs {
    /// What to do with them
    #[command(subcommand)]
    pub command: DlqCommand,
}

/// Which dead letters.
#[derive(Debug, Clone, Default, Args)]
pub struct DlqFilter {
    /// Only of this source (`source.table`) or model
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Only those that broke this rule, e.g. `type`, `column_count`, `quote`
    #[arg(long, value_name = "RULE")]
    pub rule: Option<String>,
    /// Only those that this run found: its id, the start of it, or `latest`
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
    /// Only of files whose path contains this
    #[arg(long, value_name = "TEXT")]
    pub path: Option<String>,
}

/// `freshet dlq …`
#[derive(Debug, Clone, Subcommand)]
pub enum DlqCommand {
    /// Counts them by source, rule and run
    Ls {
        /// Which.
        #[command(flatten)]
        filter: DlqFilter,
        /// Rows of streams that came too late for an operator, by model, instead
        #[arg(long, conflicts_with_all = ["rule", "run", "path"])]
        late: bool,
    },
    /// Shows them with place, reason and raw record; with `--json` in the form `replay` takes
    Show {
        /// The id of one, or its start
        #[arg(value_name = "ID")]
        id: Option<String>,
        /// Which.
        #[command(flatten)]
        filter: DlqFilter,
        /// Dead letters to show
        #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
        limit: usize,
        /// Rows of streams that came too late for an operator, instead
        #[arg(long, conflicts_with_all = ["id", "rule", "run", "path"])]
        late: bool,
    },
    /// Reads corrected records in place of the bad ones, from now on, and runs what uses them
    Replay(ReplayArgs),
}

/// `freshet dlq replay`
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["file", "id", "contract"]))]
pub struct ReplayArgs {
    /// Corrections as NDJSON: `{"id": …, "record": "…"}`, or `"drop": true` in place of the record;
    /// `-` for standard input
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["id", "contract"])]
    pub file: Option<PathBuf>,
    /// The dead letter to correct; repeat it with `--drop`
    #[arg(long, value_name = "ID", conflicts_with = "contract")]
    pub id: Vec<String>,
    /// Its corrected record
    #[arg(long, value_name = "TEXT", requires = "id", conflicts_with = "drop")]
    pub record: Option<String>,
    /// Drops the records for good; they count as filtered
    #[arg(long, requires = "id")]
    pub drop: bool,
    /// Reads all that are chosen again, as they are, under the source's contract of today
    #[arg(long)]
    pub contract: bool,
    /// Which, for `--contract`.
    #[command(flatten)]
    pub filter: DlqFilter,
    /// Keeps the corrections and leaves running the models to the next run
    #[arg(long)]
    pub no_run: bool,
}

/// `freshet sources`
#[derive(Debug, Args)]
pub struct SourcesArgs {
    /// What to do with them
    #[command(subcommand)]
    pub command: SourcesCommand,
}

/// `freshet sources …`
#[derive(Debug, Clone, Subcommand)]
pub enum SourcesCommand {
    /// Samples files and writes the source's YAML for you to keep
    Infer(InferArgs),
}

/// `freshet sources infer`
#[derive(Debug, Clone, Args)]
pub struct InferArgs {
    /// Files to sample: a file, a glob, or a pattern such as `sales_{date:%Y%m%d}.csv`
    #[arg(value_name = "PATH")]
    pub path: String,
    /// The source's name
    #[arg(long, value_name = "NAME", default_value = "raw")]
    pub source: String,
    /// The table's name [default: from the file name]
    #[arg(long, value_name = "NAME")]
    pub table: Option<String>,
    /// The connection of a bucket
    #[arg(long, value_name = "NAME")]
    pub connection: Option<String>,
    /// Writes to this new file instead of standard output, e.g. `sources/raw.yml`
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// `freshet connectors`
#[derive(Debug, Args)]
pub struct ConnectorsArgs {
    /// What to show [default: all]
    #[command(subcommand)]
    pub command: Option<ConnectorsCommand>,
}

/// `freshet connectors …`
#[derive(Debug, Clone, Subcommand)]
pub enum ConnectorsCommand {
    /// Lists them
    Ls,
    /// Shows the options of one
    Show {
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// `freshet generate`
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// What to make
    #[command(subcommand)]
    pub command: GenerateCommand,
}

/// `freshet generate …`
#[derive(Debug, Subcommand)]
pub enum GenerateCommand {
    /// Daily sales of a retail chain, with the dirt of real data and a record of all of it
    Pos(PosOptions),
    /// Events of the Nexmark suite: persons, auctions and bids of an online auction
    Nexmark(NexmarkOptions),
    /// Events of a food delivery, out of order, late and faulty as real ones, and a record of all of it
    Orders(OrdersOptions),
}

/// `freshet lake`
#[derive(Debug, Args)]
pub struct LakeArgs {
    /// What to do
    #[command(subcommand)]
    pub command: LakeCommand,
}

/// `freshet lake …`
#[derive(Debug, Clone, Subcommand)]
pub enum LakeCommand {
    /// Lists the tables with version, rows and size
    Ls,
    /// Shows the versions of a table, newest first
    History {
        /// `schema.table`, or `table` in the environment's schema
        #[arg(value_name = "TABLE")]
        table: String,
        /// Versions to show
        #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// Rewrites many small files as few large ones
    Optimize {
        /// Tables [default: all]
        #[arg(value_name = "TABLE")]
        tables: Vec<String>,
    },
    /// Deletes files that no version within the retention needs
    Vacuum {
        /// Tables [default: all]
        #[arg(value_name = "TABLE")]
        tables: Vec<String>,
        /// How long old versions stay readable
        #[arg(long, value_name = "TIME", default_value = "7d")]
        retention: freshet_core::config::HumanDuration,
        /// Only says what would be deleted
        #[arg(long)]
        dry_run: bool,
    },
}

/// `freshet clean`
#[derive(Debug, Args)]
pub struct CleanArgs {
    /// The project folder [default: the current one]
    #[command(flatten)]
    pub dir: DirArgs,
    /// Does not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// `freshet internal`
#[derive(Debug, Args)]
pub struct InternalArgs {
    /// What to do
    #[command(subcommand)]
    pub command: InternalCommand,
}

/// `freshet internal …`
#[derive(Debug, Clone, Subcommand)]
pub enum InternalCommand {
    /// Prints the reference of the command line as Markdown, or writes all generated pages
    Docs {
        /// The folder `docs`: write the generated pages there
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Write nothing; fail where a page is stale
        #[arg(long, requires = "out")]
        check: bool,
    },
}

fn parse_var(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("\"{text}\" is not NAME=VALUE"))?;
    if name.is_empty() {
        return Err(format!("\"{text}\" has no name before its `=`"));
    }
    let value =
        serde_json::from_str(value).unwrap_or_else(|_| serde_json::Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

fn parse_threads(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (1..=1024).contains(&n) => Ok(n),
        _ => Err("a number from 1 to 1024 is expected".to_owned()),
    }
}

/// A date or a time of day on one, in UTC.
fn parse_instant(text: &str) -> Option<NaiveDateTime> {
    let text = text.trim();
    let text = text.strip_suffix('Z').unwrap_or(text);
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return date.and_hms_opt(0, 0, 0);
    }
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
}

fn parse_interval(text: &str) -> Result<Interval, String> {
    const FORM: &str = "write it as 2026-10-01..2026-10-04, or 2026-10-01 for one day";
    let wrong = || format!("\"{text}\" is not a span of time: {FORM}");
    let (start, end) = match text.split_once("..") {
        Some((start, end)) => {
            (parse_instant(start).ok_or_else(wrong)?, parse_instant(end).ok_or_else(wrong)?)
        }
        None => {
            let date = NaiveDate::parse_from_str(text.trim(), "%Y-%m-%d").map_err(|_| wrong())?;
            let start = date.and_hms_opt(0, 0, 0).ok_or_else(wrong)?;
            (start, start.checked_add_signed(TimeDelta::days(1)).ok_or_else(wrong)?)
        }
    };
    if start >= end {
        return Err(format!("\"{text}\" is empty: its end is not after its start"));
    }
    Ok(Interval { start, end })
}

fn parse_as_of(text: &str) -> Result<AsOfArg, String> {
    if let Ok(version) = text.trim().parse::<u64>() {
        return Ok(AsOfArg::Version(version));
    }
    parse_instant(text).map(AsOfArg::Time).ok_or_else(|| {
        format!(
            "\"{text}\" is neither a version nor a time: write 12, 2026-10-01 or 2026-10-01T06:00"
        )
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn spans_are_read_or_refused_with_the_form() {
        let day = |text| parse_interval(text).expect(text);
        assert_eq!(day("2026-10-01"), day("2026-10-01..2026-10-02"));
        assert_eq!(
            day("2026-10-01T06:00..2026-10-01 07:00:00").start.to_string(),
            "2026-10-01 06:00:00"
        );
        for wrong in ["", "..", "2026-10-02..2026-10-01", "2026-13-01", "+262143-12-31", "a..b"] {
            assert!(parse_interval(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_as_of("12"), Ok(AsOfArg::Version(12)));
        assert!(matches!(parse_as_of("2026-10-01T06:00Z"), Ok(AsOfArg::Time(_))));
        assert!(parse_as_of("yesterday").is_err());
    }

    #[test]
    fn variables_keep_their_type() {
        assert_eq!(parse_var("n=3"), Ok(("n".into(), 3.into())));
        assert_eq!(parse_var("day=2026-10-01"), Ok(("day".into(), "2026-10-01".into())));
        assert_eq!(parse_var("on=true"), Ok(("on".into(), true.into())));
        assert!(parse_var("novalue").is_err());
        assert!(parse_var("=1").is_err());
    }
}
