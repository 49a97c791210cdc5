//! Savepoints: checkpoints that last, under a name, until somebody deletes them.
//!
//! A savepoint is the manifest of a checkpoint, kept beside the sequence of all. The state files that
//! it names are not copied: whoever deletes files spares them.

use std::collections::BTreeSet;

use freshet_core::stream::{Epoch, Generation};
use freshet_core::{Error, Result, error::code};

use super::manifest::Manifest;
use super::repository::Repository;

/// The longest name.
const LONGEST_NAME: usize = 64;

/// What became of a job that was set to a savepoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The savepoint's epoch.
    pub epoch: Epoch,
    /// Whether the job stood exactly there already: nothing was changed.
    pub is_newest: bool,
}

/// Whether a savepoint may have this name, which is a part of paths.
pub fn check_name(name: &str) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let starts_well = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if starts_well && name.len() <= LONGEST_NAME && name.bytes().all(is_plain) {
        return Ok(());
    }
    Err(Error::new(code::ARGUMENTS, format!("a savepoint cannot be called \"{name}\"")).hint(format!(
        "use letters, digits, `_`, `-` and `.`, {LONGEST_NAME} at most, beginning with a letter or digit"
    )))
}

impl Repository {
    fn savepoint_path(&self, name: &str) -> String {
        format!("{}/savepoints/{name}.json", self.job)
    }

    /// The names of the savepoints that there are, ascending.
    pub async fn savepoints(&self) -> Result<Vec<String>> {
        let names = self.list(&format!("{}/savepoints", self.job)).await?;
        let mut names: Vec<String> =
            names.iter().filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The savepoint called `name`.
    pub async fn savepoint(&self, name: &str) -> Result<Option<Manifest>> {
        let path = self.savepoint_path(name);
        self.load(&path).await?.map(|bytes| Manifest::decode(&bytes, &path)).transpose()
    }

    /// Keeps the checkpoint `manifest` under `name`. A name is used once.
    pub async fn save(&self, name: &str, manifest: &Manifest) -> Result<()> {
        check_name(name)?;
        let _turn = self.turn.lock().await;
        let path = self.savepoint_path(name);
        if !self.create(&path, manifest.encode()).await? {
            return match self.savepoint(name).await? {
                // Our own: the answer to an earlier try was lost.
                Some(there) if there == *manifest => Ok(()),
                _ => Err(Error::new(
                    code::CONTROL,
                    format!("job \"{}\" has a savepoint \"{name}\" already", self.job),
                )
                .hint("give it another name")),
            };
        }
        // From here on nobody deletes what it needs; somebody may have done so before.
        let there: BTreeSet<String> = self
            .list(&format!("{}/state", self.job))
            .await?
            .iter()
            .map(|name| self.state_path(name))
            .collect();
        if let Some(missing) = manifest.files().into_iter().find(|file| !there.contains(*file)) {
            let error = Error::new(
                code::STATE,
                format!("state file \"{missing}\" went while a savepoint was made"),
            );
            self.delete(&path).await?;
            return Err(error.hint("try again"));
        }
        Ok(())
    }

    /// Deletes a savepoint; the files that it alone needs go with the next collection.
    pub async fn forget(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.delete(&self.savepoint_path(name)).await
    }

    /// Whether [`Self::restore`] would be refused as things are now; the savepoint and the newest
    /// checkpoint, if there is any.
    pub async fn check_restore(
        &self,
        name: &str,
        allow_duplicates: bool,
    ) -> Result<(Manifest, Option<Manifest>)> {
        let saved = self.savepoint(name).await?.ok_or_else(|| self.unknown(name))?;
        let newest = self.newest().await?;
        match &newest {
            Some(newest) if !allow_duplicates && !newest.is_same_place(&saved) => {
                Err(self.would_double(name, &saved, newest))
            }
            _ => Ok((saved, newest)),
        }
    }

    /// Sets the job to a savepoint: the next manifest of the sequence has its content, and whoever
    /// takes the job over goes on from there. An instance that runs is fenced.
    ///
    /// Where the job has gone on since, its sinks hold what came after: they would get it once more,
    /// so that this is refused unless `allow_duplicates` says otherwise.
    pub async fn restore(&self, name: &str, allow_duplicates: bool, now: i64) -> Result<Restored> {
        let (saved, newest) = self.check_restore(name, allow_duplicates).await?;
        let epoch = saved.epoch;
        if newest.as_ref().is_some_and(|newest| newest.is_same_place(&saved)) {
            return Ok(Restored { epoch, is_newest: true });
        }
        // Where all checkpoints are gone, the sinks say whether they hold more.
        let before = newest.as_ref().unwrap_or(&saved);
        let mut restored = Manifest {
            epoch: before.epoch.next(),
            generation: Generation(before.generation.0 + 1),
            created: now,
            ..saved.clone()
        };
        // What was to be committed then was committed since, unless it is still to be.
        restored.sinks = before.sinks.clone();
        for sink in restored.sinks.values_mut() {
            sink.pending.retain(|pending| pending.epoch <= epoch);
        }
        if !self.create(&self.path(restored.epoch), restored.encode()).await? {
            return Err(Error::new(
                code::CONTROL,
                format!("job \"{}\" went on while it was to be restored", self.job),
            )
            .hint("stop whoever runs it, and try again"));
        }
        Ok(Restored { epoch, is_newest: false })
    }

    fn unknown(&self, name: &str) -> Error {
        Error::new(code::CONTROL, format!("job \"{}\" has no savepoint \"{name}\"", self.job))
            .hint("`freshet job show` lists those that there are")
    }

    fn would_double(&self, name: &str, saved: &Manifest, newest: &Manifest) -> Error {
        Error::new(
            code::CONTROL,
            format!(
                "job \"{}\" has gone on from savepoint \"{name}\" (epoch {}) to epoch {}: its sinks would get what came since once more",
                self.job, saved.epoch, newest.epoch
            ),
        )
        .hint("pass --allow-duplicates where that is meant")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parts_of_paths() {
        for name in ["a", "2026-11-23.before_v2", "X1"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", ".a", "-a", "a/b", "a b", "\u{e9}", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
