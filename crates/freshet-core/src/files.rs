//! The few operations of a file system on which durability rests, as a trait, so that the testkit
//! can put a file system below that forgets what was not synchronised.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// A file or folder in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its path.
    pub path: PathBuf,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// Bytes.
    pub size: u64,
    /// Last written, microseconds since 1970.
    pub modified_micros: i64,
}

/// A file system. All calls block; a path is absolute. Errors are the system's own.
///
/// Nothing is durable until it was synchronised: a file's content by [`FileSystem::sync_file`], its
/// name by [`FileSystem::sync_dir`] of the folder that holds it.
pub trait FileSystem: Debug + Send + Sync + 'static {
    /// Makes a folder and those above it.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Writes a new file; fails where there is one.
    fn create(&self, path: &Path, content: &[Bytes]) -> io::Result<()>;
    /// Adds to the end of a file.
    fn append(&self, path: &Path, content: &[Bytes]) -> io::Result<()>;
    /// Makes a file's content durable.
    fn sync_file(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Renames, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name; fails with `AlreadyExists` where the name is taken.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Reads `len` bytes from `offset`, fewer at the end of the file.
    fn read(&self, path: &Path, offset: u64, len: usize) -> io::Result<Bytes>;
    /// What a path names.
    fn metadata(&self, path: &Path) -> io::Result<DirEntry>;
    /// What a folder holds, in no order.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
}
