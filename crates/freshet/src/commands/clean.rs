//! `freshet clean`: removes the local state of an environment, never what data comes from.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use freshet_core::clock::{Clock, SystemClock};
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};
use freshet_orchestrator::lock::EnvironmentLock;
use freshet_orchestrator::run_id;
use freshet_project::Project;

use crate::app::Place;
use crate::cli::CleanArgs;
use crate::exit::{CommandResult, Outcome};
use crate::ui::Ui;

/// Asks, then removes.
pub fn run(args: &CleanArgs, place: &Place, ui: &Ui) -> CommandResult {
    let project = place.project(&freshet_connectors::registry())?;
    let (remove, keep) = targets(&project)?;
    let mut out = io::stdout().lock();
    if remove.is_empty() {
        if !ui.quiet && !ui.json {
            writeln!(out, "nothing to remove")?;
        }
        return Ok(Outcome::Done);
    }
    if !args.yes && !confirmed(&project, &remove)? {
        return Err(Error::new(code::ARGUMENTS, "nothing was removed").into());
    }
    let state = &project.environment.state_dir;
    let now = SystemClock.now();
    // Held until the folder is gone, so that no run begins in between.
    let lock = if state.exists() {
        Some(EnvironmentLock::acquire(state, &run_id(now, u64::from(std::process::id())), now)?)
    } else {
        None
    };
    for folder in &remove {
        std::fs::remove_dir_all(folder)
            .or_code(code::IO, || format!("could not remove folder \"{}\"", folder.display()))?;
    }
    drop(lock);
    if ui.json {
        writeln!(out, "{}", serde_json::json!({ "removed": remove, "kept": keep }))?;
    } else if !ui.quiet {
        for folder in &remove {
            writeln!(out, "removed {}", folder.display())?;
        }
        for place in &keep {
            writeln!(out, "kept {place}: it lies outside of the project folder")?;
        }
    }
    Ok(Outcome::Done)
}

/// Folders to remove, and the lake where it is kept because it is not the project's own.
fn targets(project: &Project) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let real = |path: &Path| path.canonicalize().ok();
    let project_dir = real(&project.dir).unwrap_or_else(|| project.dir.clone());
    let mut remove: Vec<PathBuf> = Vec::new();
    let mut keep = Vec::new();
    let lake = &project.environment.lake;
    let folders = [project.environment.state_dir.clone(), PathBuf::from(lake)];
    for (folder, is_lake) in folders.iter().zip([false, true]) {
        if is_lake && lake.contains("://") {
            keep.push(lake.clone());
            continue;
        }
        let Some(folder) = real(folder) else { continue };
        // A folder that holds the project, its sources or its models is never removed.
        if project_dir.starts_with(&folder) {
            return Err(Error::new(
                code::CONFIG,
                format!("folder \"{}\" holds the project itself", folder.display()),
            )
            .hint("name a folder of their own for `lake` and `state` in freshet.yml"));
        }
        if let Some(inside) =
            held_files(project, &project_dir).into_iter().find(|file| file.starts_with(&folder))
        {
            return Err(Error::new(
                code::CONFIG,
                format!("folder \"{}\" holds \"{}\"", folder.display(), inside.display()),
            )
            .hint("name a folder of their own for `lake` and `state` in freshet.yml"));
        }
        if !folder.starts_with(&project_dir) {
            keep.push(folder.display().to_string());
        } else if !remove.iter().any(|outer| folder.starts_with(outer)) {
            remove.push(folder);
        }
    }
    Ok((remove, keep))
}

/// Files and folders that belong to the user: models, and what sources read.
fn held_files(project: &Project, project_dir: &Path) -> Vec<PathBuf> {
    let nodes = project.nodes.values().map(|node| project_dir.join(&node.path));
    let sources = project.sources.values().filter_map(|source| {
        let path = source.options["path"].as_str()?;
        // The folder above the first part of the path that is a pattern.
        let fixed: PathBuf = Path::new(path)
            .components()
            .take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{']))
            .collect();
        project_dir.join(fixed).canonicalize().ok()
    });
    nodes.chain(sources).collect()
}

fn confirmed(project: &Project, remove: &[PathBuf]) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(Error::new(code::ARGUMENTS, "there is nobody to ask")
            .hint("`freshet clean --yes` removes without asking"));
    }
    let read = || -> io::Result<String> {
        let mut err = io::stderr().lock();
        writeln!(
            err,
            "this removes tables, dead letters and run records of environment \"{}\":",
            project.environment.name
        )?;
        for folder in remove {
            writeln!(err, "  {}", folder.display())?;
        }
        write!(err, "go on? [y/N] ")?;
        err.flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(answer)
    };
    let answer = read().or_code(code::IO, || "could not read the answer".to_owned())?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
