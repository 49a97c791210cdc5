//! The nightly files of a retail chain's POS systems: `sales_YYYYMMDD.csv`, one a day.
//!
//! `OUT/truth.jsonl` says what was made wrong on which line, which records were sent twice, and what
//! is particular about each file; `OUT/truth_daily_sales.csv` has the true result by store and day.
//! Neither matches `sales_*.csv`. Every row is a pure function of (seed, file, row number): the
//! number of threads changes nothing, and a row can be made again for the file that repeats it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use chrono::{Days, NaiveDate};
use serde::Serialize;

use super::rng::threshold;

mod file;
mod row;
#[cfg(test)]
mod tests;

use file::FileMaker;
pub use row::Dirt;

/// What to make.
#[derive(Debug, Clone, clap::Args)]
pub struct PosOptions {
    /// Stores, numbered from 1
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub stores: u32,
    /// Days, and so files
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u32).range(1..=3_660))]
    pub days: u32,
    /// Records in all files together; those that are sent twice come on top
    #[arg(long, default_value_t = 20_000_000)]
    pub rows: u64,
    /// Share of records that are made wrong, from 0 to 1
    #[arg(long, default_value_t = 0.005, value_parser = share)]
    pub dirty: f64,
    /// Kinds of faults, each as likely as the others; all where none is given
    #[arg(long, value_delimiter = ',', value_enum)]
    pub kinds: Vec<Dirt>,
    /// Where chance starts: the same seed and options give the same bytes
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// The first day
    #[arg(long, default_value = "2026-10-01")]
    pub start: NaiveDate,
    /// Share of records that carry the previous day's `sale_date`
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    pub late_rows: f64,
    /// Share of records that are sent twice, in the same file or the next
    #[arg(long, default_value_t = 0.002, value_parser = share)]
    pub duplicates: f64,
    /// Send nothing twice
    #[arg(long)]
    pub no_duplicates: bool,
    /// Keep one header all month
    #[arg(long)]
    pub no_header_change: bool,
    /// Leave no file empty
    #[arg(long)]
    pub no_empty_file: bool,
    /// Let no file come late
    #[arg(long)]
    pub no_late_file: bool,
    /// Let every file come
    #[arg(long)]
    pub no_missing_file: bool,
    /// All of the `--no-…` above at once: nothing but bad records is wrong
    #[arg(long)]
    pub clean_files: bool,
    /// Threads; one a core where not given
    #[arg(long)]
    pub threads: Option<usize>,
    /// The folder to write to; made where it is missing
    pub out: PathBuf,
}

/// What became of a day's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileStatus {
    /// It lies in the folder.
    Present,
    /// It lies in the folder and holds no byte.
    Empty,
    /// It lies in `late/`, to be moved up when it is to arrive.
    Late,
    /// It never comes.
    Never,
}

/// What a day's file holds. All counts are of records, the header apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileFacts {
    /// Its name.
    pub file: String,
    /// Its day.
    pub date: NaiveDate,
    /// What became of it.
    pub status: FileStatus,
    /// Bytes.
    pub bytes: u64,
    /// Records, good and bad: every line but the header.
    pub records: u64,
    /// Records without a fault; those that repeat an earlier one included.
    pub good: u64,
    /// Records with a fault.
    pub dead: u64,
    /// Good records that repeat an earlier one.
    pub duplicates: u64,
    /// Good records, repeated ones apart, with the previous day's `sale_date`.
    pub late_rows: u64,
    /// Faults by kind.
    pub dirt: BTreeMap<Dirt, u64>,
    /// The header line.
    pub header: String,
}

/// What was made. Totals are of the files that lie in the folder; the late one counts only in `files`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PosSummary {
    /// One for each day.
    pub files: Vec<FileFacts>,
    /// Bytes.
    pub bytes: u64,
    /// Records, good and bad.
    pub records: u64,
    /// Records without a fault.
    pub good: u64,
    /// Records with a fault.
    pub dead: u64,
    /// Good records that repeat an earlier one.
    pub duplicates: u64,
    /// Different transactions among the good records: `good - duplicates`.
    pub transactions: u64,
    /// Good records, repeated ones apart, with the previous day's `sale_date`.
    pub late_rows: u64,
    /// Faults by kind.
    pub dirt: BTreeMap<Dirt, u64>,
    /// The file that holds nothing.
    pub empty_file: Option<String>,
    /// The file that comes three days late, under `late/`.
    pub late_file: Option<String>,
    /// The file that never comes.
    pub missing_file: Option<String>,
    /// The first file with the other header.
    pub header_change: Option<String>,
}

/// The figures of one store on one day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sales {
    transactions: u64,
    quantity: u64,
    cents: u64,
}

impl std::ops::AddAssign for Sales {
    fn add_assign(&mut self, other: Self) {
        self.transactions += other.transactions;
        self.quantity += other.quantity;
        self.cents += other.cents;
    }
}

/// What is decided before the first row: the same for all threads.
#[derive(Debug)]
struct Plan {
    stores: u32,
    seed: u64,
    dirty: u64,
    kinds: Vec<Dirt>,
    late_rows: u64,
    duplicates: u64,
    files: Vec<FilePlan>,
}

#[derive(Debug)]
struct FilePlan {
    name: String,
    date: NaiveDate,
    status: FileStatus,
    /// Whether it has the header of the second half of the month.
    wide: bool,
    /// Number of its first transaction.
    first: u64,
    /// Records, without repeated ones.
    rows: u64,
}

/// What one file came to.
struct Made {
    facts: FileFacts,
    /// Its lines of the sidecar.
    truth: Vec<u8>,
    /// By store, first those of the previous day, then those of its own.
    sales: Vec<Sales>,
}

/// Writes the files and their truth.
pub fn run(options: &PosOptions) -> Result<PosSummary> {
    let plan = plan(options)?;
    let out = &options.out;
    fs::create_dir_all(out).with_context(|| format!("could not make folder {}", out.display()))?;
    refuse_strangers(out, &plan)?;
    let has_late = plan.files.iter().any(|file| file.status == FileStatus::Late);
    if has_late {
        let late = out.join("late");
        fs::create_dir_all(&late)
            .with_context(|| format!("could not make folder {}", late.display()))?;
    }

    let made = make_all(&plan, out, options.threads)?;
    let summary = summarise(&plan, &made);
    write_truth(out, &summary, &made)?;
    write_sales(&out.join("truth_daily_sales.csv"), &plan, &made, false)?;
    let with_late = out.join("truth_daily_sales_with_late.csv");
    if has_late {
        write_sales(&with_late, &plan, &made, true)?;
    } else if with_late.exists() {
        fs::remove_file(&with_late)
            .with_context(|| format!("could not remove file {}", with_late.display()))?;
    }
    Ok(summary)
}

fn plan(options: &PosOptions) -> Result<Plan> {
    ensure!(options.stores > 0 && options.days > 0, "at least one store and one day are needed");
    let days = options.days;
    // Each of the particular days needs one of its own, with ordinary ones around it.
    let particular = !options.clean_files && days >= 8;
    let at = |wanted: bool, day: u32| (particular && wanted).then_some(day);
    let empty = at(!options.no_empty_file, days / 4);
    let late = at(!options.no_late_file, days * 3 / 5);
    let never = at(!options.no_missing_file, days * 4 / 5);
    let change = at(!options.no_header_change, days / 2);

    let bearing = (0..days).filter(|day| Some(*day) != empty && Some(*day) != never).count() as u64;
    let mut first = 10_000_001;
    let mut nth = 0;
    let mut files = Vec::new();
    for day in 0..days {
        let date = options
            .start
            .checked_add_days(Days::new(u64::from(day)))
            .context("the last day is beyond the calendar")?;
        let status = if Some(day) == empty {
            FileStatus::Empty
        } else if Some(day) == late {
            FileStatus::Late
        } else if Some(day) == never {
            FileStatus::Never
        } else {
            FileStatus::Present
        };
        let rows = if matches!(status, FileStatus::Empty | FileStatus::Never) {
            0
        } else {
            nth += 1;
            options.rows / bearing + u64::from(nth <= options.rows % bearing)
        };
        files.push(FilePlan {
            name: format!("sales_{}.csv", date.format("%Y%m%d")),
            date,
            status,
            wide: change.is_some_and(|change| day >= change),
            first,
            rows,
        });
        first += rows;
    }
    let duplicates =
        if options.clean_files || options.no_duplicates { 0.0 } else { options.duplicates };
    Ok(Plan {
        stores: options.stores,
        seed: options.seed,
        dirty: threshold(options.dirty),
        kinds: if options.kinds.is_empty() { Dirt::ALL.to_vec() } else { options.kinds.clone() },
        late_rows: threshold(options.late_rows),
        duplicates: threshold(duplicates),
        files,
    })
}

/// A file of an earlier call that this one would not replace makes the truth untrue.
fn refuse_strangers(out: &Path, plan: &Plan) -> Result<()> {
    for entry in
        fs::read_dir(out).with_context(|| format!("could not list folder {}", out.display()))?
    {
        let name = entry.with_context(|| format!("could not list folder {}", out.display()))?;
        let name = name.file_name();
        let Some(name) = name.to_str() else { continue };
        let ours = plan.files.iter().any(|file| {
            file.name == name && matches!(file.status, FileStatus::Present | FileStatus::Empty)
        });
        if name.starts_with("sales_") && name.ends_with(".csv") && !ours {
            bail!(
                "folder {} holds file {name}, which these options do not make: remove it or choose another folder",
                out.display()
            );
        }
    }
    Ok(())
}

fn make_all(plan: &Plan, out: &Path, threads: Option<usize>) -> Result<Vec<Made>> {
    let threads = threads
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1)
        .clamp(1, plan.files.len());
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, Result<Made>>> = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= plan.files.len() {
                        return;
                    }
                    let made = make_file(plan, index, out);
                    let failed = made.is_err();
                    done.lock().expect("no thread panics while it holds this").insert(index, made);
                    if failed {
                        next.store(plan.files.len(), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    done.into_inner().expect("no thread panics while it holds this").into_values().collect()
}

fn make_file(plan: &Plan, index: usize, out: &Path) -> Result<Made> {
    let file = &plan.files[index];
    let path = match file.status {
        FileStatus::Never => return FileMaker::new(plan, index).make(&mut std::io::sink()),
        FileStatus::Late => out.join("late").join(&file.name),
        FileStatus::Present | FileStatus::Empty => out.join(&file.name),
    };
    let partial = path.with_extension("csv.partial");
    let write = || -> Result<Made> {
        let mut target = File::create(&partial)?;
        let made = FileMaker::new(plan, index).make(&mut target)?;
        fs::rename(&partial, &path)?;
        Ok(made)
    };
    write().with_context(|| format!("could not write file {}", path.display()))
}

fn summarise(plan: &Plan, made: &[Made]) -> PosSummary {
    let named =
        |status| plan.files.iter().find(|file| file.status == status).map(|file| file.name.clone());
    let change = plan.files.iter().find(|file| file.wide).map(|file| file.name.clone());
    let mut summary = PosSummary {
        files: made.iter().map(|made| made.facts.clone()).collect(),
        bytes: 0,
        records: 0,
        good: 0,
        dead: 0,
        duplicates: 0,
        transactions: 0,
        late_rows: 0,
        dirt: BTreeMap::new(),
        empty_file: named(FileStatus::Empty),
        late_file: named(FileStatus::Late),
        missing_file: named(FileStatus::Never),
        header_change: change,
    };
    for facts in made.iter().map(|made| &made.facts) {
        if facts.status != FileStatus::Present {
            continue;
        }
        summary.bytes += facts.bytes;
        summary.records += facts.records;
        summary.good += facts.good;
        summary.dead += facts.dead;
        summary.duplicates += facts.duplicates;
        summary.late_rows += facts.late_rows;
        for (kind, count) in &facts.dirt {
            *summary.dirt.entry(*kind).or_default() += count;
        }
    }
    summary.transactions = summary.good - summary.duplicates;
    summary
}

fn write_truth(out: &Path, summary: &PosSummary, made: &[Made]) -> Result<()> {
    #[derive(Serialize)]
    struct Totals<'a> {
        kind: &'static str,
        records: u64,
        good: u64,
        dead: u64,
        duplicates: u64,
        transactions: u64,
        late_rows: u64,
        dirt: &'a BTreeMap<Dirt, u64>,
        header_change: &'a Option<String>,
    }
    #[derive(Serialize)]
    struct Facts<'a> {
        kind: &'static str,
        #[serde(flatten)]
        facts: &'a FileFacts,
        #[serde(skip_serializing_if = "Option::is_none")]
        instructions: Option<String>,
    }
    let write = |path: &Path| -> Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let mut line = |value: serde_json::Result<String>| writeln!(file, "{}", value?);
        line(serde_json::to_string(&Totals {
            kind: "summary",
            records: summary.records,
            good: summary.good,
            dead: summary.dead,
            duplicates: summary.duplicates,
            transactions: summary.transactions,
            late_rows: summary.late_rows,
            dirt: &summary.dirt,
            header_change: &summary.header_change,
        }))?;
        for facts in &summary.files {
            let instructions = match facts.status {
                FileStatus::Late => Some(format!(
                    "move late/{} here after the run that has read {}'s file: it comes three days late",
                    facts.file,
                    facts.date + Days::new(3)
                )),
                FileStatus::Never => Some("it never comes: a run names it".to_owned()),
                FileStatus::Empty => Some("it holds no byte: a run names it".to_owned()),
                FileStatus::Present => None,
            };
            line(serde_json::to_string(&Facts { kind: "file", facts, instructions }))?;
        }
        for made in made {
            file.write_all(&made.truth)?;
        }
        file.flush()?;
        Ok(())
    };
    let path = out.join("truth.jsonl");
    write(&path).with_context(|| format!("could not write file {}", path.display()))
}

/// Writes the figures by day and store over the transactions of the files that lie in the folder,
/// and of the late one where `late` says so.
fn write_sales(path: &Path, plan: &Plan, made: &[Made], late: bool) -> Result<()> {
    let stores = plan.stores as usize;
    let mut all = vec![Sales::default(); stores * (plan.files.len() + 1)];
    for (day, made) in made.iter().enumerate() {
        let counts = match made.facts.status {
            FileStatus::Present => true,
            FileStatus::Late => late,
            FileStatus::Empty | FileStatus::Never => false,
        };
        if counts {
            for (total, sales) in all[day * stores..].iter_mut().zip(&made.sales) {
                *total += *sales;
            }
        }
    }
    let write = || -> Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        writeln!(file, "sale_date,store_id,transactions,quantity,amount")?;
        let first = plan.files[0].date - Days::new(1);
        for (day, stores) in all.chunks(stores).enumerate() {
            let date = first + Days::new(day as u64);
            for (store, sales) in stores.iter().enumerate() {
                if sales.transactions > 0 {
                    writeln!(
                        file,
                        "{date},{},{},{},{}.{:02}",
                        store + 1,
                        sales.transactions,
                        sales.quantity,
                        sales.cents / 100,
                        sales.cents % 100
                    )?;
                }
            }
        }
        file.flush()?;
        Ok(())
    };
    write().with_context(|| format!("could not write file {}", path.display()))
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("\"{text}\" is not a share from 0 to 1")),
    }
}
