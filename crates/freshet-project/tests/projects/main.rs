//! Whole project folders, loaded as a user's would be.

mod examples;
mod generated;
mod golden;
mod rendering;
mod selectors;

use std::path::Path;

use freshet_core::Result;
use freshet_project::{LoadOptions, Project};

/// A project folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("files lie in the folder"))
            .expect("a folder can be made");
        std::fs::write(path, text).expect("a file can be written");
    }
    dir
}

fn load(dir: &Path) -> Result<Project> {
    Project::load(dir, &LoadOptions::default())
}

/// The project of these files, which is valid.
fn project(files: &[(&str, &str)]) -> Project {
    load(folder(files).path()).expect("the project is valid")
}
