//! The lock of an environment: one process at a time writes it.
//!
//! It is a lock of the operating system on `<state_dir>/lock`, which ends with its process however
//! that ends. What the file holds only tells people who it is.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use chrono::{DateTime, Utc};
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt, RunId};
use serde::{Deserialize, Serialize};

/// No note of ours is longer; the file may hold anything.
const LONGEST_NOTE: u64 = 4096;

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its run.
    pub run: RunId,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// The lock of an environment; dropping it lets go.
#[derive(Debug)]
pub struct EnvironmentLock {
    _file: File,
}

impl EnvironmentLock {
    /// Takes the lock of the environment whose state is in `state_dir`, or says who holds it.
    pub fn acquire(state_dir: &Path, run: &RunId, now: DateTime<Utc>) -> Result<Self> {
        let path = state_dir.join("lock");
        let what = || format!("could not lock the environment by file \"{}\"", path.display());
        std::fs::create_dir_all(state_dir).or_code(code::IO, what)?;
        let mut file = open(&path).or_code(code::IO, what)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(read_note(&mut file))),
            Err(TryLockError::Error(error)) => {
                return Err(Error::new(code::IO, what()).caused_by(error));
            }
        }
        let note = Holder { pid: std::process::id(), run: run.clone(), since: now };
        write_note(&mut file, &note).or_code(code::IO, what)?;
        Ok(Self { _file: file })
    }

    /// Who holds the lock now, if anybody: for listings. Where it is held but the note cannot be
    /// read, the holder is unknown.
    pub fn is_held(state_dir: &Path) -> Option<Option<Holder>> {
        let mut file = File::open(state_dir.join("lock")).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(read_note(&mut file)),
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn write_note(file: &mut File, note: &Holder) -> std::io::Result<()> {
    let text = serde_json::to_vec(note)?;
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&text)
}

/// The holder may be writing its note at this moment: then there is none.
fn read_note(file: &mut File) -> Option<Holder> {
    let mut text = Vec::new();
    file.take(LONGEST_NOTE).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn locked(holder: Option<Holder>) -> Error {
    let who = match holder {
        Some(Holder { pid, run, since }) => {
            format!(
                "run {run} of process {pid} works on this environment since {}",
                since.format("%Y-%m-%d %H:%M:%S UTC")
            )
        }
        None => "another process works on this environment".to_owned(),
    };
    Error::new(code::LOCKED, who)
        .hint("wait for it to end, or stop that process: the lock ends with it")
        .retryable()
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn now() -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 9, 20, 1, 2, 3).single().expect("a time that exists")
    }

    #[test]
    fn a_second_run_is_told_who_holds_the_lock() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let held = EnvironmentLock::acquire(dir.path(), &"run-1".into(), now()).expect("free");
        let error = EnvironmentLock::acquire(dir.path(), &"run-2".into(), now())
            .expect_err("the first holds it");
        assert_eq!(error.code(), code::LOCKED);
        assert_eq!(
            error.message(),
            format!(
                "run run-1 of process {} works on this environment since 2026-09-20 01:02:03 UTC",
                std::process::id()
            )
        );
        let holder = EnvironmentLock::is_held(dir.path()).flatten().expect("it is held");
        assert_eq!(holder.run, "run-1".into());
        drop(held);
        assert_eq!(EnvironmentLock::is_held(dir.path()), None);
        EnvironmentLock::acquire(dir.path(), &"run-2".into(), now()).expect("free again");
    }

    #[test]
    fn a_note_that_cannot_be_read_hides_nobody() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let _held = EnvironmentLock::acquire(dir.path(), &"run-1".into(), now()).expect("free");
        std::fs::write(dir.path().join("lock"), b"\xff\x00{").expect("the file is writable");
        let error =
            EnvironmentLock::acquire(dir.path(), &"run-2".into(), now()).expect_err("still held");
        assert_eq!(error.message(), "another process works on this environment");
        assert_eq!(EnvironmentLock::is_held(dir.path()), Some(None));
    }
}
