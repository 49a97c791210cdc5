//! Virtual environments of Python, one for each purpose, made when their list of packages changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::sh;

/// A virtual environment that holds what was asked for.
#[derive(Debug)]
pub struct Environment {
    folder: PathBuf,
}

impl Environment {
    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join("venv/bin").join(name)
    }
}

/// An environment in `folder` with these packages; made where it is missing or has others.
pub fn environment(folder: &Path, packages: &[&str]) -> Result<Environment> {
    let environment = Environment { folder: folder.to_owned() };
    // Written last: says that everything before it went well.
    let stamp = folder.join("packages");
    let wanted = packages.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted)
        && sh::succeeds(Command::new(environment.program("python")).arg("--version"))
    {
        return Ok(environment);
    }
    fs::create_dir_all(folder)
        .with_context(|| format!("could not make folder {}", folder.display()))?;
    let venv = folder.join("venv").display().to_string();
    sh::run_aside(&mut sh::command("python3", &["-m", "venv", "--clear", &venv]))?;
    let mut pip = Command::new(environment.program("python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
    sh::run_aside(&mut pip)?;
    fs::write(&stamp, wanted)?;
    Ok(environment)
}
