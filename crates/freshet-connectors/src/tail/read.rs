//! Reading one file as it grows.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use freshet_core::error::{Result, ResultExt, code};

use super::TailOptions;
use super::find::{Fingerprint, Pattern, find, fingerprint, read_at};

/// The longest time between two looks at a file, in microseconds.
const LONGEST_LOOK: i64 = 10_000_000;
/// Bytes of a block, unless a line alone is larger.
const BLOCK: usize = 1 << 20;

/// Where reading a file stands. What is read moves with a copy of it, so that whoever is stopped on
/// the way loses nothing.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    print: Fingerprint,
    path: PathBuf,
    file: Option<Arc<File>>,
    /// The first byte that was not given.
    pub offset: u64,
    /// The first lines are still to be passed over, or it is not known whether `offset` is within a
    /// line.
    unsure: bool,
    /// The rest of the line belongs to a record that was given already, as far as it goes.
    within: bool,
    /// The size when it grew last, and when that was.
    grown: (u64, i64),
    /// When it is looked at again: the longer it has not grown, the later.
    pub look: i64,
    /// Where it was looked for and not found: the number of that search.
    pub gone: Option<u64>,
}

fn close_after(options: &TailOptions) -> i64 {
    i64::try_from(options.close_after.0.as_micros()).unwrap_or(i64::MAX)
}

/// Whole lines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lines {
    pub bytes: Bytes,
    /// Of the first byte.
    pub offset: u64,
}

impl Cursor {
    pub fn new(print: Fingerprint, path: PathBuf, offset: u64) -> Self {
        Self {
            print,
            path,
            file: None,
            offset,
            unsure: true,
            within: false,
            grown: (0, i64::MIN),
            look: i64::MIN,
            gone: None,
        }
    }

    /// What it is known by.
    pub fn print(&self) -> Fingerprint {
        self.print
    }

    /// It was found again.
    pub fn revive(&mut self, path: &PathBuf) {
        self.path.clone_from(path);
        self.gone = None;
    }

    /// The next lines, where there are any. `search` is the number of the last search for files.
    pub fn step(
        &mut self,
        pattern: &Pattern,
        options: &TailOptions,
        now: i64,
        search: u64,
    ) -> Result<Option<Lines>> {
        let lines = self.next(pattern, options, now, search)?;
        if lines.is_none() && self.grown.1 != i64::MIN {
            let idle = now.saturating_sub(self.grown.1).max(0);
            self.look = now + (idle / 100).min(LONGEST_LOOK);
            if idle >= close_after(options) {
                // One that was removed is not kept on the disk for our sake.
                self.file = None;
            }
        }
        Ok(lines)
    }

    fn next(
        &mut self,
        pattern: &Pattern,
        options: &TailOptions,
        now: i64,
        search: u64,
    ) -> Result<Option<Lines>> {
        let failure = |path: &PathBuf| format!("could not read \"{}\"", path.display());
        loop {
            let Some(file) = self.open(pattern, options, search)? else { return Ok(None) };
            let size = file.metadata().or_code(code::SOURCE, || failure(&self.path))?.len();
            if size > self.grown.0 || self.grown.1 == i64::MIN {
                self.grown = (size, now);
            }
            if self.unsure {
                self.settle(&file, options).or_code(code::SOURCE, || failure(&self.path))?;
            }
            let there = usize::try_from(size.saturating_sub(self.offset)).unwrap_or(usize::MAX);
            let most = BLOCK.max(options.max_record_bytes.as_usize() + 1);
            let mut bytes = vec![0; there.min(most)];
            let read = read_at(&file, &mut bytes, self.offset);
            bytes.truncate(read.or_code(code::SOURCE, || failure(&self.path))?);
            // Looked at behind the reading: what was read is of the file that begins so.
            let print =
                fingerprint(&file, options).or_code(code::SOURCE, || failure(&self.path))?;
            if size < self.offset || print != Some(self.print) {
                // It was emptied. What it held may be there under another name.
                self.file = None;
                match find(pattern, options)?.get(&self.print) {
                    Some(copy) if copy.size >= self.offset => self.path.clone_from(&copy.path),
                    // It is still being copied.
                    Some(_) => return Ok(None),
                    None => {
                        self.lose(search);
                        return Ok(None);
                    }
                }
                continue;
            }
            return Ok(self.cut(bytes.into(), options, now));
        }
    }

    /// The file, wherever it is now; `None` where it is gone.
    fn open(
        &mut self,
        pattern: &Pattern,
        options: &TailOptions,
        search: u64,
    ) -> Result<Option<Arc<File>>> {
        if let Some(file) = &self.file {
            return Ok(Some(Arc::clone(file)));
        }
        let failure = || format!("could not read \"{}\"", self.path.display());
        let opened = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            file => Some(file.or_code(code::SOURCE, failure)?),
        };
        let same = match &opened {
            Some(file) => {
                fingerprint(file, options).or_code(code::SOURCE, failure)? == Some(self.print)
            }
            None => false,
        };
        if let (Some(file), true) = (opened, same) {
            let file = Arc::new(file);
            self.file = Some(Arc::clone(&file));
            return Ok(Some(file));
        }
        match find(pattern, options)?.get(&self.print) {
            Some(renamed) => {
                self.path.clone_from(&renamed.path);
                // Whatever it is by now is looked at next time.
                Ok(None)
            }
            None => {
                self.lose(search);
                Ok(None)
            }
        }
    }

    /// It is nowhere, unless a later search finds it.
    fn lose(&mut self, search: u64) {
        tracing::info!(file = %self.path.display(), offset = self.offset, "file is gone");
        self.gone = Some(search);
    }

    /// Passes over the lines at the start that are no records, and learns whether it is within one.
    fn settle(&mut self, file: &File, options: &TailOptions) -> io::Result<()> {
        let mut at = 0;
        let mut buffer = vec![0; 64 << 10];
        let mut lines = 0;
        while lines < options.skip_lines {
            let read = read_at(file, &mut buffer, at)?;
            match memchr::memchr(b'\n', &buffer[..read]) {
                Some(end) => {
                    lines += 1;
                    at += end as u64 + 1;
                }
                None if read == 0 => break,
                None => at += read as u64,
            }
        }
        self.offset = self.offset.max(at);
        if self.offset > 0 {
            let mut before = [0];
            let read = read_at(file, &mut before, self.offset - 1)?;
            self.within = read == 1 && before[0] != b'\n';
        }
        self.unsure = false;
        Ok(())
    }

    /// The lines among `bytes`, which lie at `offset`.
    fn cut(&mut self, bytes: Bytes, options: &TailOptions, now: i64) -> Option<Lines> {
        let mut from = 0;
        if self.within {
            match memchr::memchr(b'\n', &bytes) {
                Some(end) => {
                    from = end + 1;
                    self.within = false;
                }
                None => {
                    self.offset += bytes.len() as u64;
                    return None;
                }
            }
        }
        let offset = self.offset + from as u64;
        let rest = &bytes[from..];
        let whole = match memchr::memrchr(b'\n', rest) {
            Some(end) => end + 1,
            // Longer than a record may be, or nobody goes on writing it: it is what it is.
            None if rest.len() > options.max_record_bytes.as_usize()
                || (!rest.is_empty()
                    && now.saturating_sub(self.grown.1) >= close_after(options)) =>
            {
                self.within = true;
                rest.len()
            }
            None => 0,
        };
        self.offset = offset + whole as u64;
        let bytes = bytes.slice(from..from + whole);
        (!bytes.is_empty()).then_some(Lines { bytes, offset })
    }
}
