//! Where things lie.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The folder of the workspace.
pub fn root() -> PathBuf {
    // As it is now: a target folder may have been filled from another clone.
    let folder = std::env::var_os("CARGO_MANIFEST_DIR");
    let mut root = PathBuf::from(folder.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()));
    root.pop();
    root
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The folder in which services keep programs and data; it outlives clones of the repository.
///
/// Root's home is closed to the user that Postgres runs as, so root has it elsewhere.
pub fn services() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("FRESHET_SERVICES_DIR") {
        return std::path::absolute(folder).context("FRESHET_SERVICES_DIR is no path");
    }
    if crate::sh::is_root() {
        return Ok(PathBuf::from("/var/lib/freshet/services"));
    }
    let home = std::env::var_os("HOME").context("HOME is not set: set FRESHET_SERVICES_DIR")?;
    Ok(PathBuf::from(home).join(".cache/freshet/services"))
}
