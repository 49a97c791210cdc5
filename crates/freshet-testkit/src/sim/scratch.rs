//! Scratch files on a disk that can be full.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use freshet_core::{Error, Result, error::code};
use freshet_runtime::state::{MemoryScratch, Scratch, ScratchFile};

/// Scratch files in memory; while the disk is full, nothing can be written.
#[derive(Debug, Default, Clone)]
pub struct SimScratch {
    inner: Arc<MemoryScratch>,
    disk: Arc<Disk>,
}

#[derive(Debug, Default)]
struct Disk {
    is_full: AtomicBool,
    refused: AtomicU64,
}

impl SimScratch {
    /// The disk is full from now on, or is not.
    pub fn fill(&self, is_full: bool) {
        self.disk.is_full.store(is_full, Ordering::SeqCst);
    }

    /// How many writes there was no room for.
    pub fn refused(&self) -> u64 {
        self.disk.refused.load(Ordering::SeqCst)
    }
}

impl Disk {
    fn check(&self) -> Result<()> {
        if !self.is_full.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::SeqCst);
        Err(Error::new(code::IO, "could not write state to a scratch file")
            .caused_by(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"))
            .retryable())
    }
}

impl Scratch for SimScratch {
    fn create(&self) -> Result<Arc<dyn ScratchFile>> {
        self.disk.check()?;
        Ok(Arc::new(File { inner: self.inner.create()?, disk: Arc::clone(&self.disk) }))
    }
}

#[derive(Debug)]
struct File {
    inner: Arc<dyn ScratchFile>,
    disk: Arc<Disk>,
}

impl ScratchFile for File {
    fn append(&self, bytes: &[u8]) -> Result<u64> {
        self.disk.check()?;
        self.inner.append(bytes)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.inner.read(offset, into)
    }
}
