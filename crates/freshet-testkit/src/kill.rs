//! Starts a real process and kills it, at a named step or after a time.

use std::fs::File;
use std::io;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use freshet_core::crash;

/// When a process is killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Never: it runs to its end.
    Never,
    /// It ends itself at a step of [`crash::STEPS`], the `pass`-th time that it comes there.
    AtStep {
        /// The step.
        step: &'static str,
        /// Counts from 1.
        pass: u64,
    },
    /// From outside, by a signal that cannot be caught, so long after its start.
    After(Duration),
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Whether a signal ended it: the kill came before its end.
    pub killed: bool,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

/// Longer than any process of a test; one that takes longer is killed, and the test fails.
const LIMIT: Duration = Duration::from_secs(300);

/// How often a process is asked whether it has ended.
const POLL: Duration = Duration::from_millis(2);

/// Runs `command` and kills it when `when` says so.
///
/// # Panics
/// Where the process does not end within five minutes.
pub fn run_and_kill(mut command: Command, when: &When) -> io::Result<Ended> {
    let dir = tempfile::tempdir()?;
    // Files, not pipes: a full pipe would stop the process.
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
    match when {
        When::AtStep { step, pass } => command.env(crash::VARIABLE, format!("{step}#{pass}")),
        When::Never | When::After(_) => command.env_remove(crash::VARIABLE),
    };
    let started = Instant::now();
    let mut child = Reaped(command.spawn()?);
    let deadline = match when {
        When::After(time) => Some(*time),
        When::Never | When::AtStep { .. } => None,
    };
    let status = wait(&mut child.0, started, deadline)?;
    Ok(Ended {
        code: status.code(),
        killed: status.code().is_none(),
        stdout: String::from_utf8_lossy(&std::fs::read(&out)?).into_owned(),
        stderr: String::from_utf8_lossy(&std::fs::read(&err)?).into_owned(),
        took: started.elapsed(),
    })
}

fn wait(child: &mut Child, started: Instant, deadline: Option<Duration>) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let passed = started.elapsed();
        if deadline.is_some_and(|deadline| passed >= deadline) {
            child.kill()?;
            return child.wait();
        }
        assert!(passed < LIMIT, "the process did not end within {LIMIT:?}");
        let left = deadline.map_or(POLL, |deadline| deadline.saturating_sub(passed).min(POLL));
        std::thread::sleep(left);
    }
}

/// A process that does not outlive a test that panics.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // Both fail where it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_process_that_ends_in_time_is_left_alone() {
        let ended = run_and_kill(shell("echo out; echo err >&2; exit 3"), &When::Never)
            .expect("there is a shell");
        assert_eq!((ended.code, ended.killed), (Some(3), false));
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\n", "err\n"));
    }

    #[test]
    fn a_process_is_killed_when_its_time_has_come() {
        let when = When::After(Duration::from_millis(20));
        let ended = run_and_kill(shell("exec sleep 60"), &when).expect("there is a shell");
        assert!(ended.killed && ended.code.is_none(), "{ended:?}");
    }

    #[test]
    fn a_step_is_handed_to_the_process() {
        let when = When::AtStep { step: "publish.intent", pass: 2 };
        let ended =
            run_and_kill(shell("echo $FRESHET_CRASH_AT; kill -ABRT $$"), &when).expect("a shell");
        assert!(ended.killed, "{ended:?}");
        assert_eq!(ended.stdout, "publish.intent#2\n");
    }
}
