//! libFuzzer over the decoders, for a time. Not part of CI.
//!
//! A stable compiler will do: which code an input reaches is told by a pass of LLVM, which needs no
//! unstable option. There is no address sanitizer; what is looked for is panics, broken assertions
//! and input that takes forever.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{paths, sh};

/// What to fuzz.
#[derive(Debug, Args)]
pub struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this target
    target: Option<String>,
}

/// The flags that `cargo fuzz` compiles with when it uses no sanitizer.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// The targets: one of each file of `fuzz/fuzz_targets`.
const TARGETS: [&str; 3] = ["csv", "json", "parquet"];

/// Runs the targets one after another. Inputs of `fuzz/corpus` are where they start; what they find
/// beyond lies in `fuzz/target/corpus`, and an input that fails in `fuzz/artifacts`.
pub fn run(options: &Options) -> Result<()> {
    let chosen: Vec<&str> = TARGETS
        .into_iter()
        .filter(|target| options.target.as_deref().is_none_or(|wanted| wanted == *target))
        .collect();
    if chosen.is_empty() {
        bail!("there is no such fuzz target\nhint: there are {}", TARGETS.join(", "));
    }
    let folder = paths::root().join("fuzz");
    let target_dir = folder.join("target");
    sh::step("building the fuzz targets", || {
        // With --target, build scripts and macros are compiled without the flags.
        let mut build = Command::new("cargo");
        build.args(["build", "--target", &host()?, "--bins"]).current_dir(&folder);
        build.env("RUSTFLAGS", FLAGS).env("CARGO_TARGET_DIR", &target_dir);
        sh::run(&mut build)
    })?;
    let limit = format!("-max_total_time={}", options.seconds);
    let binaries = target_dir.join(host()?).join("debug");
    for target in chosen {
        let found = target_dir.join("corpus").join(target);
        let artifacts = folder.join("artifacts").join(target);
        for made in [&found, &artifacts] {
            std::fs::create_dir_all(made)
                .with_context(|| format!("could not make folder {}", made.display()))?;
        }
        let mut fuzzer = Command::new(binaries.join(target));
        fuzzer.arg(&found).arg(folder.join("corpus").join(target)).arg(&limit);
        fuzzer.args([
            "-max_len=65536",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
        ]);
        fuzzer.arg(prefix(&artifacts)).current_dir(&folder);
        sh::step(target, || sh::run(&mut fuzzer))?;
    }
    Ok(())
}

fn prefix(folder: &Path) -> String {
    format!("-artifact_prefix={}/", folder.display())
}

/// The machine that the compiler compiles for.
fn host() -> Result<String> {
    let version = sh::read(&mut sh::command("rustc", &["-vV"]))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say what it compiles for")
}
