//! The files of a project folder, sorted by what they are.

use std::path::{Path, PathBuf};

use freshet_core::error::code;
use freshet_core::{Error, Location, Result};

use super::Findings;
use crate::render::slashed;

/// A text file larger than this is no model and no YAML.
const MAX_TEXT: u64 = 16 << 20;
/// Files below one folder, at most.
const MAX_FILES: usize = 200_000;

/// A text file.
#[derive(Debug)]
pub struct Text {
    /// Its path, relative to the project.
    pub path: PathBuf,
    /// The folder of the project file's list that it was found in, relative to the project.
    pub root: PathBuf,
    /// Its content; empty for seeds.
    pub text: String,
    /// Whether it lies in `tests/generic`: it holds rules, not a test.
    pub is_generic: bool,
    /// Hash of the content; only for seeds.
    pub digest: String,
}

/// Folders of each kind, relative to the project.
#[derive(Debug, Clone)]
pub struct Paths {
    pub models: Vec<String>,
    pub seeds: Vec<String>,
    pub macros: Vec<String>,
    pub tests: Vec<String>,
    pub sources: Vec<String>,
}

/// Everything that was read.
#[derive(Debug, Default)]
pub struct Files {
    /// `.sql` below the folders of models.
    pub models: Vec<Text>,
    /// `.csv` below the folders of seeds, without content.
    pub seeds: Vec<Text>,
    /// `.sql` below the folders of macros.
    pub macros: Vec<Text>,
    /// `.sql` below the folders of tests.
    pub tests: Vec<Text>,
    /// `.csv` in `fixtures` folders of tests.
    pub fixtures: Vec<Text>,
    /// `.yml` and `.yaml` anywhere.
    pub yaml: Vec<Text>,
    /// `.md` anywhere.
    pub docs: Vec<Text>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Models,
    Seeds,
    Macros,
    Tests,
    Sources,
}

impl Files {
    /// Reads all files of the folders; a folder that is not there holds nothing.
    pub fn read(dir: &Path, paths: &Paths, findings: &Findings) -> Self {
        let mut files = Self::default();
        let mut seen = std::collections::HashSet::new();
        let folders = [
            (Kind::Models, &paths.models),
            (Kind::Seeds, &paths.seeds),
            (Kind::Macros, &paths.macros),
            (Kind::Tests, &paths.tests),
            (Kind::Sources, &paths.sources),
        ];
        for (kind, roots) in folders {
            for root in roots {
                for path in walk(dir, Path::new(root), findings) {
                    if seen.insert((path.clone(), kind == Kind::Macros)) {
                        files.take(dir, Path::new(root), &path, kind, findings);
                    }
                }
            }
        }
        files
    }

    fn take(&mut self, dir: &Path, root: &Path, path: &Path, kind: Kind, findings: &Findings) {
        let extension =
            path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let within = |name: &str| {
            path.strip_prefix(root)
                .ok()
                .and_then(|rest| rest.components().next())
                .is_some_and(|first| first.as_os_str() == name)
        };
        let is_generic = kind == Kind::Tests && within("generic");
        let list = match (kind, extension.as_str()) {
            (_, "yml" | "yaml") => &mut self.yaml,
            (_, "md") => &mut self.docs,
            (Kind::Models, "sql") => &mut self.models,
            (Kind::Models, "py") => {
                findings.error(
                    Error::new(
                        code::PROJECT,
                        format!("model file \"{}\" is Python", slashed(path)),
                    )
                    .at(Location::file(slashed(path)))
                    .hint("models are SQL; move the file out of the models' folder"),
                );
                return;
            }
            (Kind::Macros, "sql") => &mut self.macros,
            (Kind::Tests, "sql") => &mut self.tests,
            (Kind::Tests, "csv") if within("fixtures") => &mut self.fixtures,
            (Kind::Seeds, "csv") => {
                let digest = match digest(&dir.join(path)) {
                    Ok(digest) => digest,
                    Err(error) => {
                        findings.error(unreadable(path, error));
                        return;
                    }
                };
                self.seeds.push(Text {
                    path: path.to_owned(),
                    root: root.to_owned(),
                    text: String::new(),
                    is_generic,
                    digest,
                });
                return;
            }
            _ => return,
        };
        match read_text(dir, path) {
            Ok(text) => list.push(Text {
                path: path.to_owned(),
                root: root.to_owned(),
                text,
                is_generic,
                digest: String::new(),
            }),
            Err(error) => findings.error(error),
        }
    }
}

fn walk(dir: &Path, root: &Path, findings: &Findings) -> Vec<PathBuf> {
    let start = dir.join(root);
    if !start.is_dir() {
        return Vec::new();
    }
    let mut paths = Vec::new();
    let entries = walkdir::WalkDir::new(&start)
        .follow_links(true)
        .max_depth(32)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| {
            entry.depth() == 0 || !entry.file_name().to_string_lossy().starts_with('.')
        });
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_type().is_file() => {
                if let Ok(path) = entry.path().strip_prefix(dir) {
                    paths.push(path.to_owned());
                }
            }
            Ok(_) => {}
            Err(error) => findings.error(
                Error::new(code::PROJECT, format!("could not read folder \"{}\"", root.display()))
                    .caused_by(error),
            ),
        }
        if paths.len() > MAX_FILES {
            findings.error(
                Error::new(
                    code::LIMIT,
                    format!("folder \"{}\" holds more than {MAX_FILES} files", root.display()),
                )
                .hint("keep data out of the project's own folders"),
            );
            break;
        }
    }
    paths
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    let file = slashed(path);
    Error::new(code::IO, format!("could not read file \"{file}\""))
        .at(Location::file(file))
        .caused_by(error)
}

/// The text of a file of the project.
pub fn read_text(dir: &Path, path: &Path) -> Result<String> {
    let file = slashed(path);
    let full = dir.join(path);
    let size = std::fs::metadata(&full).map_err(|error| unreadable(path, error))?.len();
    if size > MAX_TEXT {
        return Err(Error::new(
            code::LIMIT,
            format!("file \"{file}\" is larger than {} MiB", MAX_TEXT >> 20),
        )
        .at(Location::file(file))
        .hint("keep data out of the folders of models and YAML"));
    }
    let bytes = std::fs::read(&full).map_err(|error| unreadable(path, error))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = &error.as_bytes()[..valid];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::new(code::PROJECT, format!("file \"{file}\" is not UTF-8"))
            .at(Location::line(file.clone(), u32::try_from(line).unwrap_or(0)))
            .hint("save it as UTF-8")
    })?;
    // Windows' editors put a mark before the first line and a carriage return behind each.
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    };
    Ok(if text.contains("\r\n") { text.replace("\r\n", "\n") } else { text })
}

fn digest(path: &Path) -> std::io::Result<String> {
    use sha2::{Digest, Sha256};
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher)?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
