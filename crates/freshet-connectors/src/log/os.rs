//! The machine's file system as the log uses it: files that grow stay open, and only their data is
//! synchronised, not the time of their last change.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::files::{DirEntry, FileSystem};
use parking_lot::Mutex;

/// Files that stay open.
const OPEN: usize = 64;

/// The operating system's file system.
#[derive(Debug, Default)]
pub(crate) struct OsFiles {
    /// Files that were written to, the latest last.
    open: Mutex<Vec<(PathBuf, Arc<File>)>>,
}

impl OsFiles {
    fn keep(&self, path: &Path, file: File) -> Arc<File> {
        let file = Arc::new(file);
        let mut open = self.open.lock();
        if open.len() == OPEN {
            open.remove(0);
        }
        open.push((path.to_owned(), Arc::clone(&file)));
        file
    }

    fn kept(&self, path: &Path) -> Option<Arc<File>> {
        let open = self.open.lock();
        open.iter().find(|(known, _)| known == path).map(|(_, file)| Arc::clone(file))
    }

    fn forget(&self, path: &Path) {
        self.open.lock().retain(|(known, _)| known != path);
    }
}

impl FileSystem for OsFiles {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path, content: &[Bytes]) -> io::Result<()> {
        self.forget(path);
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        write_all(&self.keep(path, file), content)
    }

    fn append(&self, path: &Path, content: &[Bytes]) -> io::Result<()> {
        let file = match self.kept(path) {
            Some(file) => file,
            None => self.keep(path, OpenOptions::new().append(true).open(path)?),
        };
        write_all(&file, content)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        match self.kept(path) {
            Some(file) => file.sync_data(),
            None => File::open(path)?.sync_data(),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.forget(from);
        self.forget(to);
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.forget(path);
        fs::remove_file(path)
    }

    fn read(&self, path: &Path, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut file = File::open(path)?;
        // A length beyond the end must not make us reserve memory for what is not there.
        let size = file.metadata()?.len().saturating_sub(offset);
        let len = len.min(usize::try_from(size).unwrap_or(usize::MAX));
        if offset > 0 {
            file.seek(SeekFrom::Start(offset))?;
        }
        let mut content = Vec::with_capacity(len);
        file.take(len as u64).read_to_end(&mut content)?;
        Ok(content.into())
    }

    fn metadata(&self, path: &Path) -> io::Result<DirEntry> {
        Ok(entry(path, &fs::metadata(path)?))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for item in fs::read_dir(path)? {
            let path = item?.path();
            match fs::metadata(&path) {
                Ok(metadata) => entries.push(entry(&path, &metadata)),
                // Deleted meanwhile, or a link that leads nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }
}

fn write_all(mut file: &File, content: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = content.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn entry(path: &Path, metadata: &fs::Metadata) -> DirEntry {
    let modified_micros = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| i64::try_from(since.as_micros()).ok())
        .unwrap_or(0);
    DirEntry {
        path: path.to_owned(),
        is_dir: metadata.is_dir(),
        size: metadata.len(),
        modified_micros,
    }
}

/// Held by the one process that writes a log; the system lets go of it when the process ends.
#[derive(Debug)]
pub(super) struct WriterLock(#[allow(dead_code, reason = "it is held, not read")] File);

impl WriterLock {
    /// Takes the lock of the log in the folder `root`, or says that another process has it.
    pub fn take(root: &Path) -> Result<Self> {
        let path = root.join("lock");
        let message = || format!("could not lock event log \"{}\"", root.display());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .or_code(code::LOG, message)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                code::LOCKED,
                format!("event log \"{}\" is written by another process", root.display()),
            )
            .hint("push to that process, or stop it: any number may read a log, one writes it")),
            Err(TryLockError::Error(error)) => Err(error).or_code(code::LOG, message),
        }
    }
}
