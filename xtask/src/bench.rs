//! Freshet's release build against its peers: same machine, same data, alternating runs, and a look
//! at whether all gave the same rows.
//!
//! The data has no unclosed quotes and no bytes that are not UTF-8: with these the peers lose good
//! records or fail, and there would be nothing to compare.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};

use crate::{paths, services, sh};

mod measure;
mod streaming;

use measure::{Measure, measure, median};

/// What to compare.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Files to tables: the sales job, row-level cleaning, a small project, TPC-H
    Batch(Options),
    /// Kafka to Kafka and to nowhere, beside Apache Flink: Nexmark, the food delivery
    Streaming(streaming::Options),
    /// How long events are on their way through a job
    Latency(streaming::latency::Options),
}

/// How.
#[derive(Debug, Args)]
pub struct Options {
    /// Records of the sales job
    #[arg(long, default_value_t = 20_000_000)]
    rows: u64,
    /// Runs of each program, alternating; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Case>,
    /// A binary that is there already; otherwise the release build is made first
    #[arg(long)]
    freshet: Option<PathBuf>,
    /// Scale factor of TPC-H
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    /// 20 million rows, whole contract, bad rows kept, one aggregate
    Job,
    /// The same rows, cleaned one by one into a table
    Clean,
    /// The whole example: the same rows, each transaction once, cleaned, checked, summed
    Full,
    /// 200,000 rows, one model
    Small,
    /// The 22 queries over Parquet
    Tpch,
}

/// One program in a comparison.
struct Contender {
    name: &'static str,
    /// What must be gone before each run.
    reset: Option<PathBuf>,
    command: Box<dyn Fn() -> Command>,
    /// Where its result lies afterwards.
    result: PathBuf,
    /// Whether it must give what the others give.
    comparable: bool,
}

struct Workshop {
    folder: PathBuf,
    freshet: PathBuf,
    python: PathBuf,
    runs: usize,
}

/// Whether some transactions are sent twice.
#[derive(Debug, Clone, Copy)]
enum Repeats {
    None,
    Some,
}

/// Files that the peers' scripts can read, with transactions that are sent twice.
const WHOLE_MONTH: [&str; 4] =
    ["--no-header-change", "--no-empty-file", "--no-late-file", "--no-missing-file"];

const KINDS: &str =
    "negative_amount,bad_amount,impossible_date,missing_column,extra_column,empty_value";

/// Runs the comparisons; fails where results differ.
pub fn run(bench: &Bench) -> Result<ExitCode> {
    let options = match bench {
        Bench::Batch(options) => options,
        Bench::Streaming(options) => return streaming::run(options),
        Bench::Latency(options) => return streaming::latency::run(options),
    };
    let folder = paths::target().join("bench");
    fs::create_dir_all(&folder)?;
    let freshet = match &options.freshet {
        Some(binary) => std::path::absolute(binary)?,
        None => release_build()?,
    };
    let packages = ["duckdb==2.0.0", "polars==2.1.0", "deltalake==1.6.6", "tpchgen-cli==4.0.0"];
    let environment = services::environment(&folder.join("python"), &packages)?;
    let workshop = Workshop {
        folder,
        freshet,
        python: environment.program("python"),
        runs: options.runs.max(1),
    };
    let wanted = |case| options.only.is_empty() || options.only.contains(&case);
    let mut equal = true;
    println!(
        "| comparison | program | median s | fastest | slowest | peak MiB | time of Freshet's |"
    );
    println!("|---|---|---|---|---|---|---|");
    if wanted(Case::Job) {
        let data = workshop.sales_data(options.rows, 31, Repeats::None)?;
        equal &= workshop.sales("job", "daily_sales_bench", "daily_sales", &data)?;
    }
    if wanted(Case::Clean) {
        let data = workshop.sales_data(options.rows, 31, Repeats::None)?;
        equal &= workshop.sales("clean", "clean", "stg_sales", &data)?;
    }
    if wanted(Case::Full) {
        let data = workshop.sales_data(options.rows, 31, Repeats::Some)?;
        equal &= workshop.sales("full", "../examples/daily_sales", "daily_sales", &data)?;
    }
    if wanted(Case::Small) {
        let data = workshop.sales_data(200_000, 3, Repeats::None)?;
        equal &= workshop.sales("small", "daily_sales_bench", "daily_sales", &data)?;
    }
    if wanted(Case::Tpch) {
        equal &= workshop.tpch(options.scale, &environment.program("tpchgen-cli"))?;
    }
    if !equal {
        eprintln!("error: the results differ");
    }
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Freshet as it is released.
fn release_build() -> Result<PathBuf> {
    sh::run(&mut sh::cargo(&["build", "--release", "-p", "freshet"]))?;
    Ok(paths::target().join("release/freshet"))
}

impl Workshop {
    /// Sales files, made once.
    fn sales_data(&self, rows: u64, days: u32, repeats: Repeats) -> Result<PathBuf> {
        let (suffix, files): (_, &[&str]) = match repeats {
            Repeats::None => ("", &["--clean-files"]),
            Repeats::Some => ("-repeated", &WHOLE_MONTH),
        };
        let data = self.folder.join(format!("sales-{rows}-{days}{suffix}"));
        // The sidecar is written last.
        if !data.join("truth.jsonl").exists() {
            let mut generate = Command::new(&self.freshet);
            generate.args(["generate", "pos", "--kinds", KINDS]).args(files);
            generate.args(["--rows", &rows.to_string(), "--days", &days.to_string()]);
            sh::run_aside(generate.arg(&data))?;
        }
        Ok(data)
    }

    /// A copy of a project of `bench/` with the data beside it.
    fn project(&self, case: &str, project: &str, data: &Path) -> Result<PathBuf> {
        let copy = self.folder.join("projects").join(case);
        if copy.exists() {
            fs::remove_dir_all(&copy)?;
        }
        copy_folder(&paths::root().join("bench").join(project), &copy)?;
        symlink(data, copy.join("data")).context("could not link the data")?;
        Ok(copy)
    }

    fn freshet_run(&self, project: &Path, table: &str) -> Contender {
        let state = project.join(".freshet");
        let (binary, project) = (self.freshet.clone(), project.to_owned());
        Contender {
            name: "freshet",
            result: state.join("dev/lake/main").join(table),
            comparable: true,
            reset: Some(state),
            command: Box::new(move || {
                let mut command = Command::new(&binary);
                command.arg("run").arg(&project).env("NO_COLOR", "1");
                command
            }),
        }
    }

    fn peer(&self, name: &'static str, case: &str, script: &str, data: &Path) -> Result<Contender> {
        let out = self.folder.join("out").join(case).join(script);
        fs::create_dir_all(&out)?;
        // Polars takes records with a column too few or too many for good ones.
        let comparable = script != "polars_drop";
        let script = paths::root().join(format!("bench/peers/{script}.py"));
        let (python, data, result) =
            (self.python.clone(), data.to_owned(), out.join("result.parquet"));
        let stores = paths::root().join("examples/daily_sales/seeds/stores.csv");
        Ok(Contender {
            name,
            reset: Some(result.clone()),
            result,
            comparable,
            command: Box::new(move || {
                let mut command = Command::new(&python);
                command.arg(&script).arg(&data).arg(&out).arg(&stores);
                command
            }),
        })
    }

    fn sales(&self, case: &str, project: &str, table: &str, data: &Path) -> Result<bool> {
        let project = self.project(case, project, data)?;
        let mut contenders = vec![self.freshet_run(&project, table)];
        let peers: &[(&str, &str)] = match case {
            "clean" => &[("polars", "polars_clean"), ("duckdb", "duckdb_clean")],
            "full" => &[("polars", "polars_full"), ("duckdb", "duckdb_full")],
            _ => &[
                ("polars, bad rows kept", "polars_keep"),
                ("duckdb, bad rows kept", "duckdb_keep"),
                ("polars, bad rows dropped", "polars_drop"),
                ("duckdb, bad rows dropped", "duckdb_drop"),
            ],
        };
        for (name, script) in peers {
            contenders.push(self.peer(name, case, script, data)?);
        }
        self.compare(case, &contenders)?;
        let kind = match case {
            "clean" => "rows",
            "full" => "daily",
            _ => "sales",
        };
        let digest = paths::root().join("bench/peers/digest.py");
        let mut digests = Vec::new();
        for contender in contenders.iter().filter(|contender| contender.comparable) {
            let mut command = Command::new(&self.python);
            command.arg(&digest).arg(&contender.result).arg(kind);
            digests.push((contender.name, sh::read(&mut command)?.trim().to_owned()));
        }
        Ok(agree(case, &digests))
    }

    fn tpch(&self, scale: f64, generator: &Path) -> Result<bool> {
        let data = self.folder.join(format!("tpch-{scale}"));
        if !data.join("complete").exists() {
            let mut generate = Command::new(generator);
            generate.args(["parquet", "-s", &scale.to_string(), "--output-dir"]).arg(&data);
            sh::run_aside(&mut generate)?;
            fs::write(data.join("complete"), "")?;
        }
        let project = self.project("tpch", "tpch", &data)?;
        let mut queries: Vec<PathBuf> =
            fs::read_dir(project.join("queries"))?.flatten().map(|entry| entry.path()).collect();
        queries.sort();
        let mut all = String::new();
        for query in &queries {
            all.push_str(fs::read_to_string(query)?.trim_end());
            all.push_str(";\n");
        }
        let script = project.join("all.sql");
        fs::write(&script, all)?;

        let out = self.folder.join("out/tpch");
        fs::create_dir_all(&out)?;
        let (binary, folder) = (self.freshet.clone(), project.clone());
        let sql = move |file: &Path| {
            let mut command = Command::new(&binary);
            command.arg("--project").arg(&folder).args(["sql", "--format", "csv", "-f"]).arg(file);
            command
        };
        let (python, peer) = (self.python.clone(), paths::root().join("bench/peers/tpch.py"));
        let (peer_out, peer_queries) = (out.clone(), queries.clone());
        let freshet_sql = sql.clone();
        let contenders = [
            Contender {
                name: "freshet",
                reset: None,
                result: out.clone(),
                comparable: true,
                command: Box::new(move || freshet_sql(&script)),
            },
            Contender {
                name: "duckdb",
                reset: None,
                result: out.clone(),
                comparable: true,
                command: Box::new(move || {
                    let mut command = Command::new(&python);
                    command.arg(&peer).arg(&data).arg(&peer_out).args(&peer_queries);
                    command
                }),
            },
        ];
        self.compare("tpch", &contenders)?;

        let compare = paths::root().join("bench/peers/compare.py");
        let mut equal = true;
        for query in &queries {
            let name = query.file_stem().context("a query has a name")?.display().to_string();
            let ours = out.join(format!("{name}.freshet.csv"));
            fs::write(&ours, sh::read(&mut sql(query))?)?;
            let mut command = Command::new(&self.python);
            command.arg(&compare).arg(&ours).arg(out.join(format!("{name}.csv")));
            if let Err(error) = sh::read(&mut command) {
                eprintln!("tpch {name}: {error:#}");
                equal = false;
            }
        }
        Ok(equal)
    }

    /// Runs all in turn, as often as asked, and prints a line for each.
    fn compare(&self, case: &str, contenders: &[Contender]) -> Result<()> {
        let mut figures: Vec<Vec<Measure>> = contenders.iter().map(|_| Vec::new()).collect();
        // The first round warms the page cache and does not count.
        for round in 0..=self.runs {
            for (contender, figures) in contenders.iter().zip(&mut figures) {
                if let Some(reset) = &contender.reset {
                    remove(reset)?;
                }
                let log = self.folder.join("log");
                let taken = measure(&mut (contender.command)(), &log)?;
                if round > 0 {
                    figures.push(taken);
                }
            }
        }
        let seconds = |figures: &[Measure]| -> Vec<f64> {
            figures.iter().map(|figure| figure.seconds).collect()
        };
        let ours = median(&seconds(&figures[0]));
        for (contender, figures) in contenders.iter().zip(&figures) {
            let seconds = seconds(figures);
            let peaks: Vec<f64> = figures.iter().map(|figure| figure.peak_mib).collect();
            println!(
                "| {case} | {} | {:.3} | {:.3} | {:.3} | {:.0} | {:.2} |",
                contender.name,
                median(&seconds),
                seconds.iter().copied().fold(f64::INFINITY, f64::min),
                seconds.iter().copied().fold(0.0, f64::max),
                median(&peaks),
                ours / median(&seconds)
            );
        }
        Ok(())
    }
}

fn agree(case: &str, digests: &[(&str, String)]) -> bool {
    let equal = digests.windows(2).all(|pair| pair[0].1 == pair[1].1);
    for (name, digest) in digests.iter().filter(|_| !equal) {
        eprintln!("{case}: {name} gave {digest}");
    }
    equal
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("could not list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
