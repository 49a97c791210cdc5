//! The structure that ARCHITECTURE.md describes, as a test: directions between crates, sizes of files,
//! openings of modules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which crates of ours each crate may import, beside the testkit in its tests.
const MAY_IMPORT: [(&str, &[&str]); 10] = [
    ("freshet-core", &[]),
    ("freshet-project", &["freshet-core"]),
    ("freshet-connectors", &["freshet-core"]),
    ("freshet-runtime", &["freshet-core"]),
    ("freshet-testkit", &["freshet-core", "freshet-runtime"]),
    ("freshet-engine", &["freshet-core", "freshet-project", "freshet-runtime"]),
    ("freshet-serve", &["freshet-core", "freshet-runtime"]),
    (
        "freshet-orchestrator",
        &["freshet-core", "freshet-project", "freshet-runtime", "freshet-engine"],
    ),
    (
        "freshet",
        &[
            "freshet-core",
            "freshet-project",
            "freshet-runtime",
            "freshet-connectors",
            "freshet-engine",
            "freshet-orchestrator",
            "freshet-serve",
        ],
    ),
    ("xtask", &[]),
];

/// Lines of a source file, tests apart, beyond which there is a second room in it.
const LINES: usize = 800;

fn root() -> PathBuf {
    let mut root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    root.pop();
    root
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    metadata["packages"].as_array().expect("packages are a list").clone()
}

/// The names of a package's dependencies, those of tests only where `tests` says so.
fn dependencies(package: &Value, tests: bool) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().expect("dependencies are a list");
    let wanted = all.iter().filter(|one| tests || one["kind"] != "dev");
    wanted.map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    rust_files(&root().join("crates"), &mut files);
    rust_files(&root().join("xtask"), &mut files);
    assert!(files.len() > 50, "the sources were found");
    files
}

#[test]
fn cargo_run_runs_freshet() {
    let packages = packages();
    let runs = packages.iter().filter_map(|package| package["default_run"].as_str());
    assert_eq!(runs.collect::<Vec<_>>(), ["freshet"], "the README's first command names no binary");
}

#[test]
fn crates_import_only_what_is_below_them() {
    let may_import: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    let mut wrong = Vec::new();
    for package in packages() {
        let name = package["name"].as_str().expect("a name").to_owned();
        let Some(allowed) = may_import.get(name.as_str()) else {
            wrong.push(format!(
                "crate {name} is not in the map: add it there and to ARCHITECTURE.md"
            ));
            continue;
        };
        let ours = |one: &String| may_import.contains_key(one.as_str());
        for import in dependencies(&package, false).into_iter().filter(ours) {
            if !allowed.contains(&import.as_str()) {
                wrong.push(format!("crate {name} must not import {import}"));
            }
        }
        // Tests may use the testkit and, in the binary, anything; but no crate above their own.
        for import in dependencies(&package, true).into_iter().filter(ours) {
            if !allowed.contains(&import.as_str()) && import != "freshet-testkit" {
                wrong.push(format!("tests of crate {name} must not import {import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_engine_knows_datafusion() {
    for package in packages() {
        let name = package["name"].as_str().expect("a name");
        let foreign = dependencies(&package, true)
            .into_iter()
            .find(|one| one.starts_with("datafusion") || one.starts_with("deltalake"));
        if let Some(foreign) = foreign {
            assert_eq!(name, "freshet-engine", "crate {name} must not know {foreign}");
        }
    }
}

#[test]
fn a_crate_bears_the_name_of_its_folder() {
    for package in packages() {
        let manifest = PathBuf::from(package["manifest_path"].as_str().expect("a path"));
        let folder = manifest.parent().and_then(Path::file_name).expect("it lies in a folder");
        assert_eq!(package["name"].as_str(), folder.to_str());
    }
}

#[test]
fn files_hold_one_room_each() {
    let mut long = Vec::new();
    for path in sources() {
        let tests = path.components().any(|part| part.as_os_str() == "tests")
            || path.file_name().is_some_and(|name| name == "tests.rs");
        let text = fs::read_to_string(&path).expect("a source file is UTF-8");
        let lines = text.lines().count();
        if lines > LINES && !tests {
            long.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(long.is_empty(), "more than {LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn modules_open_by_saying_what_they_are() {
    let mut silent = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).expect("a source file is UTF-8");
        let opening = text.lines().find(|line| !line.trim().is_empty());
        let tests = path.file_name().is_some_and(|name| name == "tests.rs");
        if !tests && !opening.is_some_and(|line| line.starts_with("//!")) {
            silent.push(path.display().to_string());
        }
    }
    assert!(silent.is_empty(), "these do not open with //!:\n{}", silent.join("\n"));
}

#[test]
fn nothing_is_left_to_do_later_in_silence() {
    // Spelt apart, so that this file does not name them.
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X:"].concat()];
    let mut found = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).expect("a source file is UTF-8");
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                found.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_test_is_ignored() {
    let mark = format!("#[{}", "ignore");
    for path in sources() {
        let text = fs::read_to_string(&path).expect("a source file is UTF-8");
        assert!(!text.contains(&mark), "{}", path.display());
    }
}
