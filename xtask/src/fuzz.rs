//! `cargo fuzz` over the decoders, for a time. Not part of CI.

use std::process::Command;

use anyhow::{Result, bail};
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

/// Runs the targets one after another; the corpus stays in `fuzz/corpus`.
pub fn run(options: &Options) -> Result<()> {
    let folder = paths::root().join("fuzz");
    if !sh::succeeds(Command::new("cargo").args(["fuzz", "--version"])) {
        bail!(
            "cargo fuzz is not installed\nhint: cargo install cargo-fuzz, and a nightly toolchain"
        );
    }
    let fuzz = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        // The sanitizers are options of nightly compilers.
        command.args(["+nightly", "fuzz"]).args(arguments).current_dir(&folder);
        command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
        command
    };
    let listed = sh::read(&mut fuzz(&["list"]))?;
    let targets: Vec<&str> = listed
        .lines()
        .map(str::trim)
        .filter(|target| options.target.as_deref().is_none_or(|wanted| wanted == *target))
        .collect();
    if targets.is_empty() {
        bail!("there is no such fuzz target; there are: {}", listed.replace('\n', " "));
    }
    let limit = format!("-max_total_time={}", options.seconds);
    for target in targets {
        sh::step(target, || {
            sh::run(&mut fuzz(&["run", target, "--", &limit, "-max_len=65536", "-timeout=10"]))
        })?;
    }
    Ok(())
}
