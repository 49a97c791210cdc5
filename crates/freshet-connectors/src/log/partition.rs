//! The writing side of one partition: frames are appended, made durable, and let go of when nobody
//! needs them.
//!
//! Offsets that were given to records never mean others: what could not be written is kept in memory
//! and written again, in a new segment, because a disk that failed may have lost what it says it has.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use freshet_core::error::{Result, ResultExt, code};
use freshet_core::files::FileSystem;

use super::frame::{self, Header};
use super::segment::{self, Segment};

/// What is let go of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retain {
    /// Segments whose records all arrived before this go.
    pub before: Option<i64>,
    /// Segments go as long as those that stay have at least so many bytes.
    pub bytes: Option<u64>,
    /// What lies at this offset and behind stays.
    pub needed: u64,
}

/// The end of one partition's files.
#[derive(Debug)]
pub(super) struct PartitionLog {
    files: Arc<dyn FileSystem>,
    dir: PathBuf,
    segment_bytes: u64,
    /// Those that count; the last one is written to.
    segments: Vec<Segment>,
    /// Arrival of the first record behind each segment, or nothing where none is known.
    followed: Vec<Option<i64>>,
    /// The offset of the next record.
    end: u64,
    /// What lies before this offset is durable.
    settled: u64,
    /// Arrival of the newest record.
    time: i64,
    /// Frames that are not known to be durable, from `settled` on.
    unsettled: Vec<Bytes>,
    /// Whether the last segment is not to be written to any more.
    closed: bool,
    /// Files that others have replaced, or that could not be written.
    replaced: Vec<PathBuf>,
    next_attempt: u32,
}

impl PartitionLog {
    /// Opens the partition in the folder `dir` and settles what an earlier process left. Tells
    /// `each` whole frame that arrived since `since`.
    pub fn open(
        files: Arc<dyn FileSystem>,
        dir: PathBuf,
        segment_bytes: u64,
        since: i64,
        mut each: impl FnMut(&Header, &[u8]),
    ) -> Result<Self> {
        let message =
            |verb: &str| format!("could not {verb} \"{}\" of the event log", dir.display());
        // A folder that an earlier process filled and did not synchronise before it was killed.
        files.sync_dir(&dir).or_code(code::LOG, || message("synchronise"))?;
        let (segments, replaced) =
            segment::list(&*files, &dir).or_code(code::LOG, || message("list"))?;
        let mut log = Self {
            replaced: replaced.into_iter().map(|segment| segment.path).collect(),
            followed: vec![None; segments.len()],
            segments,
            end: 0,
            settled: 0,
            time: i64::MIN,
            unsettled: Vec::new(),
            closed: true,
            next_attempt: 0,
            files,
            dir: dir.clone(),
            segment_bytes,
        };
        let Some(last) = log.segments.last().cloned() else { return Ok(log) };
        for index in 1..log.segments.len() {
            log.followed[index - 1] = log.first_time(&log.segments[index])?;
        }
        for index in 0..log.segments.len() - 1 {
            // An idle partition may have ended with an empty segment, of which nothing is known.
            if log.followed[index].is_none_or(|time| time >= since) {
                log.pass_over(index, &mut each)?;
            }
        }
        let sound = segment::recover(&*log.files, &last, each)?;
        if sound.torn {
            tracing::warn!(
                file = %last.path.display(),
                offset = sound.end,
                "a write that was cut off is left out"
            );
        }
        log.end = sound.end;
        log.settled = sound.settled;
        log.time = sound.time.unwrap_or(i64::MIN);
        if !sound.unsettled.is_empty() {
            // Whether the last write is durable nobody knows: a disk may have lost it, told it to a
            // process that is no more, and show it all the same. It is written again, elsewhere.
            log.unsettled.push(sound.unsettled);
            log.settle().or_code(code::LOG, || message("settle"))?;
        }
        Ok(log)
    }

    /// The offset of the next record.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// What lies before this offset is durable.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Bytes that wait to become durable.
    pub fn waiting(&self) -> usize {
        self.unsettled.iter().map(Bytes::len).sum()
    }

    /// The time of arrival of records that arrive now: it never goes back.
    pub fn arrival(&mut self, now: i64) -> i64 {
        self.time = self.time.max(now);
        self.time
    }

    /// Takes frames whose records end before the offset `end`; [`Self::settle`] makes them durable.
    pub fn take(&mut self, frames: Vec<u8>, end: u64) {
        self.unsettled.push(frames.into());
        self.end = end;
    }

    /// Writes what waits and makes it durable. Where the disk fails, tries once more elsewhere; what
    /// waits then goes on waiting.
    pub fn settle(&mut self) -> io::Result<()> {
        if self.unsettled.is_empty() {
            return Ok(());
        }
        self.write().or_else(|error| {
            self.closed = true;
            tracing::warn!(folder = %self.dir.display(), %error, "a write to the event log failed");
            self.write()
        })
    }

    fn write(&mut self) -> io::Result<()> {
        let bytes = self.waiting() as u64;
        match self.segments.last_mut() {
            Some(last) if !self.closed && last.bytes < self.segment_bytes => {
                let written = self
                    .files
                    .append(&last.path, &self.unsettled)
                    .and_then(|()| self.files.sync_file(&last.path));
                if written.is_err() {
                    self.closed = true;
                }
                written?;
                last.bytes += bytes;
            }
            _ => self.begin_segment(bytes)?,
        }
        self.settled = self.end;
        self.unsettled.clear();
        self.next_attempt = 0;
        Ok(())
    }

    /// Begins a segment with what waits.
    fn begin_segment(&mut self, bytes: u64) -> io::Result<()> {
        let base = self.settled;
        let same = self.segments.last().filter(|last| last.base == base);
        let attempt = self.next_attempt.max(same.map_or(0, |last| last.attempt + 1));
        self.next_attempt = attempt + 1;
        let path = segment::path(&self.dir, base, attempt);
        // It gets its name when it is durable, because it may replace one that is.
        let temporary = path.with_extension("tmp");
        self.forget(&temporary)?;
        self.files.create(&temporary, &self.unsettled)?;
        self.files.sync_file(&temporary)?;
        self.replaced.push(path.clone());
        self.files.rename(&temporary, &path)?;
        self.files.sync_dir(&self.dir)?;
        self.replaced.pop();
        if let Some(same) = self.segments.pop_if(|last| last.base == base) {
            self.replaced.push(same.path);
            self.followed.pop();
        }
        if let Some(followed) = self.followed.last_mut() {
            *followed = Some(self.time);
        }
        self.segments.push(Segment { base, attempt, path, bytes });
        self.followed.push(None);
        self.closed = false;
        Ok(())
    }

    /// Removes whole segments as `retain` says, oldest first; how many. The last one only goes by
    /// its age, when an empty one has taken its place.
    pub fn retain(&mut self, retain: Retain) -> Result<usize> {
        let dir = self.dir.clone();
        let message = || format!("could not remove old records in \"{}\"", dir.display());
        let by_age = |time: i64| retain.before.is_some_and(|before| time < before);
        if self.unsettled.is_empty()
            && self.segments.last().is_some_and(|last| last.bytes > 0)
            && by_age(self.time)
            && retain.needed >= self.settled
        {
            self.begin_segment(0).or_code(code::LOG, message)?;
            self.next_attempt = 0;
        }
        let mut bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        let mut gone = 0;
        while self.segments.len() > 1 && self.segments[1].base <= retain.needed {
            let first = &self.segments[0];
            let too_many = retain.bytes.is_some_and(|most| bytes - first.bytes >= most);
            if !too_many && !self.followed[0].is_some_and(by_age) {
                break;
            }
            let (path, freed) = (first.path.clone(), first.bytes);
            // What a later attempt replaced must be gone before that one goes.
            while let Some(old) = self.replaced.last() {
                self.remove(old).or_code(code::LOG, message)?;
                self.replaced.pop();
            }
            // One after the other, durably: a gap between segments would look like damage.
            self.remove(&path).or_code(code::LOG, message)?;
            bytes -= freed;
            self.segments.remove(0);
            self.followed.remove(0);
            gone += 1;
        }
        Ok(gone)
    }

    /// Removes a file, durably; one that is not there is gone.
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.forget(path)?;
        self.files.sync_dir(&self.dir)
    }

    fn forget(&self, path: &Path) -> io::Result<()> {
        match self.files.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// When the first record of a segment arrived.
    fn first_time(&self, segment: &Segment) -> Result<Option<i64>> {
        let head = self.read(segment, 0, frame::HEADER)?;
        Ok(frame::header(&head).ok().map(|header| header.time))
    }

    /// Tells `each` frame of a segment that another follows, of which only the part in front of the
    /// values is looked at; whoever reads its records checks them.
    fn pass_over(&self, index: usize, each: &mut impl FnMut(&Header, &[u8])) -> Result<()> {
        const PIECE: usize = 1 << 20;
        let segment = &self.segments[index];
        let end = self.segments[index + 1].base;
        let mut offset = segment.base;
        let mut at = 0u64;
        let mut piece = Bytes::new();
        let mut piece_at = 0u64;
        while offset < end {
            let from = usize::try_from(at - piece_at).unwrap_or(usize::MAX).min(piece.len());
            let head = &piece[from..];
            let header = match frame::header(head) {
                Ok(header) if header.stamp_end() <= head.len() => header,
                Err(frame::Bad::Damaged(what)) => {
                    return Err(segment::damaged(&segment.path, at, what));
                }
                _ => {
                    let more = self.read(segment, at, PIECE)?;
                    let enough =
                        frame::header(&more).is_ok_and(|header| header.stamp_end() <= more.len());
                    if !enough {
                        return Err(segment::damaged(&segment.path, at, "a frame is missing"));
                    }
                    (piece, piece_at) = (more, at);
                    continue;
                }
            };
            if header.base != offset {
                return Err(segment::damaged(&segment.path, at, "offsets do not follow"));
            }
            each(&header, head);
            offset = header.next();
            at += header.len as u64;
        }
        Ok(())
    }

    fn read(&self, segment: &Segment, at: u64, len: usize) -> Result<Bytes> {
        self.files
            .read(&segment.path, at, len)
            .or_code(code::LOG, || format!("could not read \"{}\"", segment.path.display()))
    }
}
