//! Which `freshet up` run in an environment, and where they listen.
//!
//! Each keeps a note in the folder of local state, under a lock of the operating system that ends
//! with its process however that ends: a note that nobody locks is stale, whatever it says.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use freshet_core::error::code;
use freshet_core::{Result, ResultExt};
use serde::{Deserialize, Serialize};

/// The folder of the notes, in that of local state.
const FOLDER: &str = "up";

/// No note of ours is longer; a file may hold anything.
const LONGEST_NOTE: u64 = 64 << 10;

/// What a process says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The process.
    pub pid: u32,
    /// Since when, in microseconds since 1970.
    pub since: i64,
    /// Where it listens; nowhere where it was told so.
    pub address: Option<SocketAddr>,
    /// The models that it runs.
    pub models: Vec<String>,
}

/// A note that is kept; dropping it takes it away.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    _locked: File,
}

impl Note {
    /// Keeps a note in the environment whose state is in `state_dir`.
    pub fn keep(&self, state_dir: &Path) -> Result<Kept> {
        let folder = state_dir.join(FOLDER);
        let path = folder.join(format!("{}.json", self.pid));
        let write = || -> std::io::Result<File> {
            fs::create_dir_all(&folder)?;
            // It is locked before it has its name: nobody ever finds it unlocked.
            let draft = folder.join(format!("{}.tmp", self.pid));
            let mut file = File::create(&draft)?;
            file.lock()?;
            file.write_all(&serde_json::to_vec(self)?)?;
            fs::rename(&draft, &path)?;
            Ok(file)
        };
        let file =
            write().or_code(code::IO, || format!("could not write \"{}\"", path.display()))?;
        Ok(Kept { path, _locked: file })
    }

    /// The notes of the processes that run now, the oldest first. Those of others are taken away.
    pub fn find(state_dir: &Path) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(state_dir.join(FOLDER)) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        let notes = paths.filter(|path| path.extension().is_some_and(|name| name == "json"));
        let mut found: Vec<Self> = notes.filter_map(|path| read(&path)).collect();
        found.sort_by_key(|note| (note.since, note.pid));
        found
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // What is left is found to be stale.
        let _ = fs::remove_file(&self.path);
    }
}

/// The note at `path`, where its process lives.
fn read(path: &Path) -> Option<Note> {
    let mut file = OpenOptions::new().read(true).write(true).open(path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            let mut text = Vec::new();
            file.rewind().ok()?;
            file.take(LONGEST_NOTE).read_to_end(&mut text).ok()?;
            serde_json::from_slice(&text).ok()
        }
        Ok(()) => {
            tracing::debug!(path = %path.display(), "a note of a process that has ended");
            let _ = fs::remove_file(path);
            None
        }
        Err(TryLockError::Error(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(pid: u32) -> Note {
        Note {
            pid,
            since: i64::from(pid),
            address: Some(([127, 0, 0, 1], 7878).into()),
            models: vec!["m".into()],
        }
    }

    #[test]
    fn notes_of_those_who_live_are_found_and_stale_ones_taken_away() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(Note::find(dir.path()), []);
        let two = note(2).keep(dir.path()).expect("kept");
        let one = note(1).keep(dir.path()).expect("kept");
        let stale = dir.path().join(FOLDER).join("3.json");
        fs::write(&stale, serde_json::to_vec(&note(3)).expect("a note")).expect("written");
        assert_eq!(Note::find(dir.path()), [note(1), note(2)]);
        assert!(!stale.exists());
        drop(one);
        assert_eq!(Note::find(dir.path()), [note(2)]);
        drop(two);
        assert_eq!(Note::find(dir.path()), []);
    }
}
