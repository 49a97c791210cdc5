//! The machine's own file system.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use freshet_core::files::{DirEntry, FileSystem};

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsFileSystem;

impl FileSystem for OsFileSystem {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path, content: &[Bytes]) -> io::Result<()> {
        write_all(OpenOptions::new().write(true).create_new(true).open(path)?, content)
    }

    fn append(&self, path: &Path, content: &[Bytes]) -> io::Result<()> {
        write_all(OpenOptions::new().append(true).open(path)?, content)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn read(&self, path: &Path, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut file = File::open(path)?;
        if offset > 0 {
            file.seek(SeekFrom::Start(offset))?;
        }
        // A length beyond the end must not make us reserve memory for what is not there.
        let size = file.metadata()?.len().saturating_sub(offset);
        let len = len.min(usize::try_from(size).unwrap_or(usize::MAX));
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

fn write_all(mut file: File, content: &[Bytes]) -> io::Result<()> {
    content.iter().try_for_each(|part| file.write_all(part))
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
