//! Where state goes that does not fit into memory: files that this process alone reads, and that are
//! gone with it. Nothing here is durable; checkpoints are.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use freshet_core::{Error, Result, error::code};
use parking_lot::Mutex;

use super::Budget;

/// Gives files to write to. Calls wait for the disk, on the worker that makes them.
pub trait Scratch: Debug + Send + Sync {
    /// A new, empty file, which is deleted when it is dropped.
    fn create(&self) -> Result<Arc<dyn ScratchFile>>;
}

/// A file that is written at its end and read anywhere.
pub trait ScratchFile: Debug + Send + Sync {
    /// Writes `bytes` behind all others; gives the offset of the first.
    fn append(&self, bytes: &[u8]) -> Result<u64>;

    /// Fills `into` with the bytes from `offset` on, all of which were written.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()>;
}

/// How much memory the state of an operator's instance may take, and where the rest goes.
#[derive(Debug, Clone)]
pub struct SpillOptions {
    /// Bytes of memory. What finds rows (some ten bytes each) counts, and stays in memory in any case.
    pub budget: Budget,
    /// Where rows go that are over it.
    pub scratch: Arc<dyn Scratch>,
}

/// Files in a folder. They have no name there once they are open, so that the operating system
/// deletes them however the process ends.
#[derive(Debug)]
pub struct FolderScratch {
    folder: PathBuf,
    next: AtomicU64,
}

impl FolderScratch {
    /// In `folder`, which is made where it is not there.
    pub fn new(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        std::fs::create_dir_all(&folder).map_err(|error| {
            let folder = folder.display();
            Error::new(code::IO, format!("could not make scratch folder \"{folder}\""))
                .caused_by(error)
        })?;
        Ok(Self { folder, next: AtomicU64::new(0) })
    }
}

impl Scratch for FolderScratch {
    fn create(&self) -> Result<Arc<dyn ScratchFile>> {
        let failed = |error: std::io::Error| {
            let folder = self.folder.display();
            Error::new(code::IO, format!("could not make a file in scratch folder \"{folder}\""))
                .caused_by(error)
                .retryable()
        };
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self.folder.join(format!("{}-{number}.rows", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => {
                    std::fs::remove_file(&path).map_err(failed)?;
                    return Ok(Arc::new(FolderFile { file, len: AtomicU64::new(0) }));
                }
                // Another one of this process: each counts for itself.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

#[derive(Debug)]
struct FolderFile {
    file: File,
    len: AtomicU64,
}

impl ScratchFile for FolderFile {
    fn append(&self, bytes: &[u8]) -> Result<u64> {
        let offset = self.len.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file.write_all_at(bytes, offset).map_err(|error| {
            Error::new(code::IO, "could not write state to a scratch file")
                .caused_by(error)
                .retryable()
        })?;
        Ok(offset)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(into, offset).map_err(|error| {
            Error::new(code::IO, "could not read state from a scratch file")
                .caused_by(error)
                .retryable()
        })
    }
}

/// Files in memory, for tests and simulations.
#[derive(Debug, Default)]
pub struct MemoryScratch {
    written: Arc<AtomicU64>,
}

impl MemoryScratch {
    /// Bytes that were ever written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

impl Scratch for MemoryScratch {
    fn create(&self) -> Result<Arc<dyn ScratchFile>> {
        Ok(Arc::new(MemoryFile { bytes: Mutex::default(), written: Arc::clone(&self.written) }))
    }
}

#[derive(Debug)]
struct MemoryFile {
    bytes: Mutex<Vec<u8>>,
    written: Arc<AtomicU64>,
}

impl ScratchFile for MemoryFile {
    fn append(&self, more: &[u8]) -> Result<u64> {
        let mut bytes = self.bytes.lock();
        let offset = bytes.len() as u64;
        bytes.extend_from_slice(more);
        self.written.fetch_add(more.len() as u64, Ordering::Relaxed);
        Ok(offset)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let bytes = self.bytes.lock();
        let end = offset as usize + into.len();
        let read = bytes.get(offset as usize..end);
        let read = read.ok_or_else(|| Error::internal("nothing was written there"))?;
        into.copy_from_slice(read);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_what_was_written_and_leave_nothing_behind() {
        let folder = std::env::temp_dir().join(format!("freshet-scratch-{}", std::process::id()));
        let scratches: [Box<dyn Scratch>; 3] = [
            Box::new(FolderScratch::new(&folder).expect("it can be made")),
            Box::new(FolderScratch::new(&folder).expect("it is there")),
            Box::<MemoryScratch>::default(),
        ];
        for scratch in &scratches {
            let files = [(); 2].map(|()| scratch.create().expect("there is room"));
            for (number, file) in files.iter().enumerate() {
                assert_eq!(file.append(&[number as u8; 5]).expect("there is room"), 0);
                assert_eq!(file.append(&[7, 8, 9]).expect("there is room"), 5);
            }
            for (number, file) in files.iter().enumerate() {
                let mut read = [0; 4];
                file.read(4, &mut read).expect("it was written");
                assert_eq!(read, [number as u8, 7, 8, 9]);
                assert!(file.read(5, &mut read).is_err(), "more than was written");
            }
            if folder.exists() {
                assert_eq!(std::fs::read_dir(&folder).expect("it is there").count(), 0);
            }
        }
        std::fs::remove_dir(&folder).expect("it is empty");
    }
}
