//! Which files there are, and what each is known by.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use freshet_core::error::{Error, Result, ResultExt, code};
use globset::{GlobBuilder, GlobMatcher};
use xxhash_rust::xxh3::xxh3_128;

use super::TailOptions;

/// What a file is known by: the hash of its first lines.
pub(super) type Fingerprint = u128;

/// Bytes of the lines that a file is known by, at most; longer ones are cut.
const MAX_HEAD: usize = 64 << 10;
/// Names that are looked at in all, and folders in folders.
const MAX_NAMES: usize = 1_000_000;
const MAX_DEPTH: usize = 32;
/// What compressed files are called.
const COMPRESSED: [&str; 6] = ["gz", "gzip", "zst", "zstd", "bz2", "xz"];

/// The names of the files that are read.
#[derive(Debug)]
pub(super) struct Pattern {
    /// As it is written.
    text: String,
    /// The folder below which all of them lie.
    base: PathBuf,
    names: GlobMatcher,
    /// How deep below `base`.
    depth: usize,
}

impl Pattern {
    /// The pattern `text`, in `project_dir` where it is relative.
    pub fn new(text: &str, project_dir: &Path) -> Result<Self> {
        let wrong = |why: String| {
            Error::new(code::CONFIG, format!("option \"path\" is wrong: \"{text}\" {why}"))
        };
        let path = Path::new(text);
        if text.is_empty() || path.components().any(|part| part == Component::ParentDir) {
            return Err(wrong("names no files below a folder".to_owned()));
        }
        let special = |part: &Component<'_>| {
            part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{'])
        };
        let parts: Vec<Component<'_>> = path.components().collect();
        // The last part is a name, be it with a pattern or without.
        let fixed = parts.iter().take_while(|part| !special(part)).count().min(parts.len() - 1);
        let base: PathBuf = parts[..fixed].iter().collect();
        let rest: PathBuf = parts[fixed..].iter().collect();
        let rest = rest.to_string_lossy();
        let glob = GlobBuilder::new(&rest).literal_separator(true).build();
        let glob = glob.map_err(|error| wrong(error.kind().to_string()))?;
        let depth = if rest.contains("**") { MAX_DEPTH } else { parts.len() - fixed };
        Ok(Self {
            text: text.to_owned(),
            base: project_dir.join(base),
            names: glob.compile_matcher(),
            depth,
        })
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name of a file as it is shown.
    pub fn name(&self, path: &Path) -> String {
        path.strip_prefix(&self.base).unwrap_or(path).to_string_lossy().into_owned()
    }

    /// The files that there are now, by their names.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut names = 0;
        self.walk(&self.base, 1, &mut names, &mut found)?;
        found.sort_unstable();
        Ok(found)
    }

    fn walk(
        &self,
        folder: &Path,
        depth: usize,
        names: &mut usize,
        found: &mut Vec<PathBuf>,
    ) -> Result<()> {
        let failure = || format!("could not list folder \"{}\"", folder.display());
        let entries = match std::fs::read_dir(folder) {
            // It may come, or is gone already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.or_code(code::SOURCE, failure)?,
        };
        for entry in entries {
            let path = entry.or_code(code::SOURCE, failure)?.path();
            *names += 1;
            if *names > MAX_NAMES {
                let message =
                    format!("\"{}\" has more than {MAX_NAMES} names", self.base.display());
                return Err(Error::new(code::LIMIT, message).hint("tell `path` apart more closely"));
            }
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            if metadata.is_dir() && depth < self.depth {
                self.walk(&path, depth + 1, names, found)?;
            }
            let within = path.strip_prefix(&self.base).unwrap_or(&path);
            let compressed = path.extension().and_then(|ending| ending.to_str());
            let compressed = compressed.is_some_and(|ending| COMPRESSED.contains(&ending));
            if metadata.is_file() && !compressed && self.names.is_match(within) {
                found.push(path);
            }
        }
        Ok(())
    }
}

/// A file that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub path: PathBuf,
    pub size: u64,
}

/// The files that can be read, by what they are known by. Of a file and its copy the longer one
/// counts.
pub(super) fn find(
    pattern: &Pattern,
    options: &TailOptions,
) -> Result<BTreeMap<Fingerprint, Found>> {
    let mut found: BTreeMap<Fingerprint, Found> = BTreeMap::new();
    for path in pattern.files()? {
        let failure = || format!("could not read \"{}\"", path.display());
        let file = match File::open(&path) {
            // It was just renamed or removed; under its new name it is found next time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file.or_code(code::SOURCE, failure)?,
        };
        let size = file.metadata().or_code(code::SOURCE, failure)?.len();
        let Some(print) = fingerprint(&file, options).or_code(code::SOURCE, failure)? else {
            continue;
        };
        if let Some(other) = found.get(&print) {
            let copy = begin_alike(&file, &other.path, size.min(other.size));
            if !copy.or_code(code::SOURCE, failure)? {
                return Err(Error::new(
                    code::SOURCE,
                    format!(
                        "files \"{}\" and \"{}\" begin with the same lines and are not the same",
                        pattern.name(&other.path),
                        pattern.name(&path)
                    ),
                )
                .hint("raise `fingerprint_lines`, so that more lines tell them apart"));
            }
            if other.size >= size {
                continue;
            }
        }
        found.insert(print, Found { path, size });
    }
    if found.len() > options.max_files {
        return Err(Error::new(
            code::LIMIT,
            format!("\"{}\" matches more than `max_files` ({})", pattern.text(), options.max_files),
        )
        .hint("remove old files, match fewer, or raise `max_files`"));
    }
    Ok(found)
}

/// What a file is known by; `None` where it does not have the lines yet.
pub(super) fn fingerprint(file: &File, options: &TailOptions) -> io::Result<Option<Fingerprint>> {
    let lines = options.skip_lines + options.fingerprint_lines;
    let mut head = Vec::new();
    loop {
        let start = head.len();
        let more = if start == 0 { 1024 } else { start };
        head.resize((start + more).min(MAX_HEAD), 0);
        let read = read_at(file, &mut head[start..], start as u64)?;
        head.truncate(start + read);
        if let Some(end) = memchr::memchr_iter(b'\n', &head).nth(lines - 1) {
            return Ok(Some(xxh3_128(&head[..end])));
        }
        if head.len() == MAX_HEAD {
            return Ok(Some(xxh3_128(&head)));
        }
        if read < more {
            return Ok(None);
        }
    }
}

/// Whether the first bytes of two files, as far as they are looked at, are the same.
fn begin_alike(file: &File, other: &Path, size: u64) -> io::Result<bool> {
    let size = usize::try_from(size).unwrap_or(usize::MAX).min(16 * MAX_HEAD);
    let other = match File::open(other) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        other => other?,
    };
    let (mut a, mut b) = (vec![0; size], vec![0; size]);
    let (read_a, read_b) = (read_at(file, &mut a, 0)?, read_at(&other, &mut b, 0)?);
    let both = read_a.min(read_b);
    Ok(a[..both] == b[..both])
}

/// Reads as much as there is, and says how much that was.
pub(super) fn read_at(file: &File, into: &mut [u8], mut at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match file.read_at(&mut into[read..], at) {
            Ok(0) => break,
            Ok(more) => {
                read += more;
                at += more as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
