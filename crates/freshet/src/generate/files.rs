//! Folders and files that generators write: whole or not at all, and none that is left of another call.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Makes the folder, and refuses it where it holds a file like ours that this call does not write:
/// data of another call makes the truth untrue.
pub(super) fn claim(
    folder: &Path,
    like_ours: impl Fn(&str) -> bool,
    written: impl Fn(&str) -> bool,
) -> Result<()> {
    let what = || format!("could not list folder {}", folder.display());
    fs::create_dir_all(folder)
        .with_context(|| format!("could not make folder {}", folder.display()))?;
    for entry in fs::read_dir(folder).with_context(what)? {
        let name = entry.with_context(what)?.file_name();
        let Some(name) = name.to_str() else { continue };
        if like_ours(name) && !written(name) {
            bail!(
                "folder {} holds file {name}, which these options do not make: remove it or choose another folder",
                folder.display()
            );
        }
    }
    Ok(())
}

/// Writes a file under another name and gives it its own once it is whole.
pub(super) fn write_whole<T>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<T>,
) -> Result<T> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let make = || -> Result<T> {
        let mut file = File::create(&partial)?;
        let made = write(&mut file)?;
        fs::rename(&partial, path)?;
        Ok(made)
    };
    make().with_context(|| format!("could not write file {}", path.display()))
}
