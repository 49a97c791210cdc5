//! The folder of a log: what says how it is laid out, and one folder for each partition.
//!
//! ```text
//! <log>/log.json                 version and number of partitions, written once
//! <log>/lock                     held by the process that writes
//! <log>/<partition>/*.seg        segments
//! <log>/consumers/<name>.json    how far named consumers are
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::files::FileSystem;
use serde::{Deserialize, Serialize};

const META: &str = "log.json";
const CONSUMERS: &str = "consumers";
/// Files with such a name are being written.
const TEMPORARY: &str = ".tmp-";
/// The layout that this code reads and writes.
const VERSION: u32 = 1;
/// A file of a few numbers is never longer.
const MAX_SMALL: usize = 1 << 20;

/// The folder of a log.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub files: Arc<dyn FileSystem>,
    pub root: PathBuf,
    pub partitions: u32,
}

/// What `log.json` says.
#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    version: u32,
    partitions: u32,
}

impl Place {
    /// The log in the folder `root`, an absolute path; made with so many partitions where it is not
    /// there yet.
    pub fn open(files: Arc<dyn FileSystem>, root: PathBuf, partitions: u32) -> Result<Self> {
        let place = Self { files, root, partitions };
        let meta = match place.meta()? {
            Some(meta) => meta,
            None => {
                place.make().or_code(code::LOG, || place.message("make"))?;
                place.meta()?.ok_or_else(|| Error::new(code::LOG, place.message("make")))?
            }
        };
        if meta.version != VERSION {
            return Err(Error::new(
                code::CONFIG,
                format!(
                    "event log \"{}\" is of version {}, this program knows version {VERSION}",
                    place.root.display(),
                    meta.version
                ),
            ));
        }
        if meta.partitions != partitions {
            return Err(Error::new(
                code::CONFIG,
                format!(
                    "event log \"{}\" has {} partitions, not {partitions}",
                    place.root.display(),
                    meta.partitions
                ),
            )
            .hint("the number is fixed once a log is made: keys would change their partition"));
        }
        Ok(place)
    }

    fn meta(&self) -> Result<Option<Meta>> {
        let path = self.root.join(META);
        match self.files.read(&path, 0, MAX_SMALL) {
            Ok(content) => serde_json::from_slice(&content)
                .map(Some)
                .or_code(code::LOG_DAMAGED, || format!("could not read \"{}\"", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(error).or_code(code::LOG, || format!("could not read \"{}\"", path.display()))
            }
        }
    }

    /// Makes the folders, durably, and then the file that says that they are there.
    fn make(&self) -> io::Result<()> {
        self.files.create_dir_all(&self.root)?;
        for above in self.root.ancestors().skip(1) {
            match self.files.sync_dir(above) {
                // Some folder up there this user cannot open, and so has made nothing in.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
                synchronised => synchronised?,
            }
        }
        for partition in 0..self.partitions {
            self.files.create_dir_all(&self.dir(partition))?;
        }
        self.files.create_dir_all(&self.consumers())?;
        self.files.sync_dir(&self.root)?;
        let meta = Meta { version: VERSION, partitions: self.partitions };
        let content = serde_json::to_vec(&meta).map_err(io::Error::other)?;
        match self.put(&self.root, META, content, false) {
            // Another process was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.files.sync_dir(&self.root)
            }
            done => done,
        }
    }

    /// Writes a file that is there whole or not at all, durably.
    pub fn put(&self, dir: &Path, name: &str, content: Vec<u8>, replace: bool) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = dir.join(format!("{TEMPORARY}{}-{number}-{name}", std::process::id()));
        let place = dir.join(name);
        match self.files.remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = self
            .files
            .create(&temporary, &[Bytes::from(content)])
            .and_then(|()| self.files.sync_file(&temporary))
            .and_then(|()| match replace {
                true => self.files.rename(&temporary, &place),
                false => self.files.hard_link(&temporary, &place),
            });
        if !replace || written.is_err() {
            let _ = self.files.remove_file(&temporary);
        }
        written?;
        self.files.sync_dir(dir)
    }

    /// Reads a file that [`Self::put`] wrote.
    pub fn get(&self, path: &Path) -> io::Result<Bytes> {
        self.files.read(path, 0, MAX_SMALL)
    }

    /// The folder of a partition.
    pub fn dir(&self, partition: u32) -> PathBuf {
        self.root.join(partition.to_string())
    }

    /// The folder of the consumers.
    pub fn consumers(&self) -> PathBuf {
        self.root.join(CONSUMERS)
    }

    /// The message of a failure at the log as a whole.
    pub fn message(&self, verb: &str) -> String {
        format!("could not {verb} event log \"{}\"", self.root.display())
    }
}
