//! The books of one file while workers read its parts: counts, rejects, digest, and its fate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use freshet_core::config::Share;
use freshet_core::contract::Evolution;
use freshet_core::error::{Error, code};
use freshet_core::record::Reject;
use freshet_core::source::{ContentDigest, Split, SplitReport, SplitStatus};
use parking_lot::Mutex;

use super::digest;

/// Records from which on a file can have too many bad ones.
const MIN_RECORDS: u64 = 20;
/// Rejects that are kept of a file that was set aside.
const SAMPLE: usize = 20;

/// What one part of a file came to.
#[derive(Debug, Default)]
pub struct Part {
    /// Good and bad records, and dropped ones.
    pub records: u64,
    /// Records given as rows.
    pub good: u64,
    /// Records that a correction dropped.
    pub dropped: u64,
    /// Values replaced by null.
    pub discarded_values: u64,
    /// Physical lines.
    pub lines: u64,
    /// Bad records; lines count from the part's first, unless `absolute`.
    pub rejects: Vec<Reject>,
    /// What its records need of a contract that evolves.
    pub evolution: Evolution,
    /// Whether the lines of the rejects are those of the file already.
    pub absolute: bool,
    /// Digests of blocks, the first of which has this number.
    pub blocks: Option<(u64, Vec<u128>)>,
}

/// One file that is being read.
#[derive(Debug)]
pub struct SplitBooks {
    split: Split,
    first_line: u64,
    parts: usize,
    parts_left: AtomicUsize,
    given: AtomicBool,
    records: AtomicU64,
    bad: AtomicU64,
    /// Text decoded so far.
    bytes: AtomicU64,
    /// Text that there is, where stored bytes are text.
    text: Option<u64>,
    corrections: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    status: SplitStatus,
    error: Option<Arc<Error>>,
    digest: Option<ContentDigest>,
    parts: BTreeMap<usize, Part>,
}

impl SplitBooks {
    /// The books of a file with so many parts, whose records begin behind `first_line` lines.
    pub fn open(
        split: Split,
        parts: usize,
        first_line: u64,
        text: Option<u64>,
        digest: Option<ContentDigest>,
        corrections: u64,
    ) -> Self {
        Self {
            split,
            first_line,
            parts,
            parts_left: AtomicUsize::new(parts),
            given: AtomicBool::new(false),
            records: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            text,
            corrections,
            inner: Mutex::new(Inner {
                status: SplitStatus::Unfinished,
                error: None,
                digest,
                parts: BTreeMap::new(),
            }),
        }
    }

    /// The books of a file that is not read at all.
    pub fn closed(
        split: Split,
        status: SplitStatus,
        error: Option<Arc<Error>>,
        digest: Option<ContentDigest>,
    ) -> Self {
        let books = Self::open(split, 0, 0, None, digest, 0);
        {
            let mut inner = books.inner.lock();
            inner.status = status;
            inner.error = error;
        }
        books
    }

    /// The file.
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// The number of its parts.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Says that rows of it go to whoever reads.
    pub fn give(&self) {
        self.given.store(true, Ordering::Release);
    }

    /// Whether rows of it have gone.
    pub fn is_given(&self) -> bool {
        self.given.load(Ordering::Acquire)
    }

    /// Whether its fate is sealed, so that reading on is of no use.
    pub fn is_set_aside(&self) -> bool {
        self.inner.lock().status == SplitStatus::SetAside
    }

    /// Counts records as they are decoded, and the text that they were in.
    pub fn count(&self, records: u64, bad: u64, bytes: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bad.fetch_add(bad, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Why it has too many bad records, if no more records come.
    pub fn is_too_bad(&self, max_bad: Share) -> Option<Error> {
        self.judge(max_bad, 0)
    }

    /// Why it has too many bad records, however good the rest is.
    pub fn will_be_too_bad(&self, max_bad: Share) -> Option<Error> {
        let left = self.text?.saturating_sub(self.bytes.load(Ordering::Relaxed));
        // A record is a byte and a line feed at least.
        self.judge(max_bad, left / 2 + 1)
    }

    fn judge(&self, max_bad: Share, more: u64) -> Option<Error> {
        let bad = self.bad.load(Ordering::Relaxed);
        if bad == 0 {
            return None;
        }
        let records = self.records.load(Ordering::Relaxed);
        if records < MIN_RECORDS || bad as f64 <= max_bad.0 * (records + more) as f64 {
            return None;
        }
        Some(
            Error::new(
                code::FILE_TOO_BAD,
                format!(
                    "file \"{}\" has too many bad records: {bad} of {records}, more than {max_bad}",
                    self.split.id
                ),
            )
            .hint("mend the source's options or the file, or raise `max_bad`"),
        )
    }

    /// Sets the file aside; the first reason stays.
    pub fn set_aside(&self, error: Arc<Error>) {
        let mut inner = self.inner.lock();
        if inner.status != SplitStatus::SetAside {
            inner.status = SplitStatus::SetAside;
            inner.error = Some(error);
        }
    }

    /// Enters a part that was read to its end; `true` for the last one.
    pub fn enter(&self, number: usize, part: Part) -> bool {
        self.inner.lock().parts.insert(number, part);
        self.parts_left.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Keeps what a part came to that is not read on, as a sample.
    pub fn abandon(&self, number: usize, part: Part) {
        self.inner.lock().parts.insert(number, part);
    }

    /// Whether any record was bad.
    pub fn has_rejects(&self) -> bool {
        self.inner.lock().parts.values().any(|part| !part.rejects.is_empty())
    }

    /// Whether the digest is known, or its blocks are.
    pub fn has_digest(&self) -> bool {
        let inner = self.inner.lock();
        inner.digest.is_some() || inner.parts.values().any(|part| part.blocks.is_some())
    }

    /// Ends it well, unless it was set aside.
    pub fn close(&self, blocks: Option<Vec<u128>>) {
        let mut inner = self.inner.lock();
        if inner.digest.is_none() {
            let size = self.split.size.unwrap_or(0);
            let blocks = blocks.unwrap_or_else(|| {
                let mut runs: Vec<_> =
                    inner.parts.values_mut().filter_map(|part| part.blocks.take()).collect();
                runs.sort_by_key(|(first, _)| *first);
                runs.into_iter().flat_map(|(_, blocks)| blocks).collect()
            });
            if blocks.len() as u64 == size.div_ceil(digest::BLOCK) {
                inner.digest = Some(digest::combine(&blocks, size));
            }
        }
        if inner.status == SplitStatus::Unfinished {
            inner.status = SplitStatus::Read;
        }
    }

    /// What it came to, as far as it is known.
    pub fn report(&self) -> SplitReport {
        let inner = self.inner.lock();
        let mut report = SplitReport {
            split: self.split.clone(),
            status: inner.status,
            digest: inner.digest.clone(),
            records: 0,
            good: 0,
            dropped: 0,
            discarded_values: 0,
            rejects: Vec::new(),
            corrections: self.corrections,
            error: inner.error.clone(),
        };
        let mut lines = self.first_line;
        for part in inner.parts.values() {
            report.records += part.records;
            report.good += part.good;
            report.dropped += part.dropped;
            report.discarded_values += part.discarded_values;
            let base = if part.absolute { 0 } else { lines };
            report.rejects.extend(part.rejects.iter().map(|reject| {
                let mut reject = reject.clone();
                reject.line += base;
                reject
            }));
            lines += part.lines;
        }
        report.rejects.sort_by_key(|reject| reject.offset);
        if inner.status == SplitStatus::SetAside {
            report.rejects.truncate(SAMPLE);
            report.good = 0;
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use freshet_core::record::Rule;

    fn books(parts: usize) -> SplitBooks {
        let split = Split {
            id: "a.csv".into(),
            size: Some(10),
            version: "1".into(),
            modified: None,
            captured: BTreeMap::new(),
            interval: None,
        };
        SplitBooks::open(split, parts, 1, Some(100), None, 0)
    }

    fn reject(offset: u64, line: u64) -> Reject {
        Reject {
            offset,
            line,
            rule: Rule::Type,
            column: None,
            message: "wrong".into(),
            raw: Box::default(),
        }
    }

    #[test]
    fn lines_are_absolute_whatever_part_ends_first() {
        let books = books(2);
        let second = Part { lines: 3, rejects: vec![reject(60, 2)], ..Part::default() };
        assert!(!books.enter(1, second));
        let first = Part { lines: 10, rejects: vec![reject(5, 1)], ..Part::default() };
        assert!(books.enter(0, first));
        let lines: Vec<_> = books.report().rejects.iter().map(|r| (r.offset, r.line)).collect();
        assert_eq!(lines, [(5, 2), (60, 13)]);
    }

    #[test]
    fn small_files_are_never_too_bad() {
        let books = books(1);
        books.count(19, 19, 40);
        assert!(books.is_too_bad(Share(0.05)).is_none());
        books.count(1, 1, 2);
        assert!(books.is_too_bad(Share(0.05)).is_some());
    }

    #[test]
    fn a_file_is_given_up_early_only_when_nothing_can_save_it() {
        let books = books(1);
        books.count(20, 2, 40);
        assert!(books.will_be_too_bad(Share(0.05)).is_none(), "30 more records may come");
        books.count(10, 1, 50);
        assert!(books.will_be_too_bad(Share(0.05)).is_some(), "6 more may come");
    }
}
