//! Wall time, CPU time and peak memory of a whole process.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// What one run of a program took.
#[derive(Debug, Clone, Copy)]
pub struct Measure {
    /// Wall time, start to exit.
    pub seconds: f64,
    /// Most memory that it held at once.
    pub peak_mib: f64,
}

/// What a process used.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Of all of its threads, user and system.
    pub cpu_seconds: f64,
    /// Most memory that it held at once.
    pub peak_mib: f64,
}

/// Runs a program with its output in `log`; an error where it fails.
pub fn measure(command: &mut Command, log: &Path) -> Result<Measure> {
    let text = crate::sh::show(command);
    let file = std::fs::File::create(log)?;
    let start = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("could not start `{text}`"))?;
    let usage = wait_for(child.id(), &text, log)?;
    Ok(Measure { seconds: start.elapsed().as_secs_f64(), peak_mib: usage.peak_mib })
}

/// Waits for a child that nobody else waits for; an error, with what `log` says, where it fails.
pub fn wait_for(child: u32, text: &str, log: &Path) -> Result<Usage> {
    let pid = i32::try_from(child).context("a process id is beyond 31 bits")?;
    let mut status = 0;
    // SAFETY: all zeros is a valid `rusage`, which the call overwrites.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live variables of the right types; `child` is ours and is not
    // waited for anywhere else.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    if waited != pid {
        bail!("could not wait for `{text}`: {}", std::io::Error::last_os_error());
    }
    if !(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0) {
        let said = std::fs::read_to_string(log).unwrap_or_default();
        let tail: Vec<&str> = said.lines().rev().take(30).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        bail!("`{text}` failed (status {status:#x}):\n{}", tail.join("\n"));
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Usage {
        cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        // Linux counts in KiB.
        peak_mib: usage.ru_maxrss as f64 / 1_024.0,
    })
}

/// The middle of some figures.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
    }
}
