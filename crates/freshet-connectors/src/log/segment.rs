//! The files of one partition: their names, and what is sound of the last one.
//!
//! A segment is a run of frames. Its name is the offset of its first record and a number that tells
//! attempts apart: where writing failed or was cut off, the next segment begins at the last offset
//! that is sound. **A segment ends where the next one begins**: whatever lies behind that in its
//! file does not count, so that nothing is ever cut off or written over.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use freshet_core::error::{Error, Result, ResultExt, code};
use freshet_core::files::FileSystem;

use super::frame::{self, Header};

/// The ending of a segment's name.
const ENDING: &str = ".seg";

/// One file of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// The offset of its first record.
    pub base: u64,
    /// Ascends among the segments that begin at one offset; only the last of them counts.
    pub attempt: u32,
    pub path: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
}

/// The name of a segment in the folder `dir`.
pub(super) fn path(dir: &Path, base: u64, attempt: u32) -> PathBuf {
    dir.join(format!("{base:020}-{attempt:04}{ENDING}"))
}

fn parse(name: &str) -> Option<(u64, u32)> {
    let (base, attempt) = name.strip_suffix(ENDING)?.split_once('-')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (base.len() == 20 && digits(base) && digits(attempt)).then_some(())?;
    Some((base.parse().ok()?, attempt.parse().ok()?))
}

/// The segments of the folder `dir`, in order, and those that a later attempt replaces.
pub(super) fn list(files: &dyn FileSystem, dir: &Path) -> io::Result<(Vec<Segment>, Vec<Segment>)> {
    let mut segments = Vec::new();
    for entry in files.read_dir(dir)? {
        let name = entry.path.file_name().and_then(|name| name.to_str());
        if let Some((base, attempt)) = name.and_then(parse).filter(|_| !entry.is_dir) {
            segments.push(Segment { base, attempt, path: entry.path, bytes: entry.size });
        }
    }
    segments.sort_unstable_by_key(|segment| (segment.base, segment.attempt));
    let mut counting: Vec<Segment> = Vec::with_capacity(segments.len());
    let mut replaced = Vec::new();
    for segment in segments {
        match counting.last() {
            Some(last) if last.base == segment.base => {
                replaced.extend(counting.pop());
                counting.push(segment);
            }
            _ => counting.push(segment),
        }
    }
    Ok((counting, replaced))
}

/// What is sound of the last segment of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sound {
    /// The offset behind its last whole frame.
    pub end: u64,
    /// The offset up to which frames say that all was durable before they were written.
    pub settled: u64,
    /// The frames from there to the end.
    pub unsettled: Bytes,
    /// Arrival of the newest record.
    pub time: Option<i64>,
    /// Whether something lies behind.
    pub torn: bool,
}

/// Looks at every frame of the last segment, and tells `each` whole one. What follows the last
/// whole frame was being written when the machine stopped; but damage to what had been durable
/// before is an error.
pub(super) fn recover(
    files: &dyn FileSystem,
    segment: &Segment,
    mut each: impl FnMut(&Header, &[u8]),
) -> Result<Sound> {
    let len = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
    let content = files
        .read(&segment.path, 0, len)
        .or_code(code::LOG, || format!("could not read \"{}\"", segment.path.display()))?;
    let mut sound = Sound {
        end: segment.base,
        settled: segment.base,
        unsettled: Bytes::new(),
        time: None,
        torn: false,
    };
    let mut at = 0;
    let mut frames = Vec::new();
    while at < content.len() {
        match frame::check(&content[at..]) {
            Ok(header) if header.base == sound.end => {
                each(&header, &content[at..]);
                frames.push((header.base, at));
                at += header.len;
                sound.end = header.next();
                sound.settled = sound.settled.max(header.settled);
                sound.time = Some(header.time);
            }
            _ => {
                sound.torn = true;
                if durable_behind(&content, at, sound.end) {
                    return Err(damaged(&segment.path, at as u64, "a frame that was durable"));
                }
                break;
            }
        }
    }
    let from = frames.iter().find(|(base, _)| *base >= sound.settled).map_or(at, |(_, at)| *at);
    sound.unsettled = content.slice(from..at);
    Ok(sound)
}

/// Whether a whole frame behind `at` was written when more than `end` was durable.
fn durable_behind(content: &Bytes, at: usize, end: u64) -> bool {
    let found = memchr::memmem::find_iter(&content[at..], b"FLF1");
    found.into_iter().any(|place| {
        frame::check(&content[at + place..])
            .is_ok_and(|header| header.base > end && header.settled > end)
    })
}

/// The error of bytes that are not what was written.
pub(super) fn damaged(path: &Path, at: u64, what: &str) -> Error {
    Error::new(
        code::LOG_DAMAGED,
        format!("file \"{}\" of the event log is damaged at byte {at}: {what}", path.display()),
    )
    .hint("restore the file from a backup, or read on behind the damage")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_as_they_are_written() {
        for (base, attempt) in [(0, 0), (17, 3), (u64::MAX, 12_345)] {
            let path = path(Path::new("/log/0"), base, attempt);
            let name = path.file_name().and_then(|name| name.to_str()).expect("it has a name");
            assert_eq!(parse(name), Some((base, attempt)), "{name}");
        }
        for name in ["1-0.seg", "0000000000000000000x-0000.seg", "00000000000000000001-0000.tmp"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
