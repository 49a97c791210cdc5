//! The record of commits of one job in one folder: a sequence of numbered objects, each written
//! where none of its number is.
//!
//! An entry is a commit of some epochs, or an instance that has taken over and repeats the newest
//! commit: the newest entry tells all. Whoever comes late finds the number taken and looks again, so
//! that all agree on which epochs are which commit, and one that was taken over from sees it.

use std::sync::Arc;

use freshet_core::error::{Error, Result, code};
use freshet_core::stream::{Claim, Generation};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};

/// Entries that are kept: only the newest tell something.
const KEPT: u64 = 64;

/// The record.
#[derive(Debug)]
pub(super) struct Record {
    store: Arc<dyn ObjectStore>,
    folder: String,
}

/// An entry. Persisted: a new field needs a new version.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    version: u32,
    /// Who wrote it.
    generation: u64,
    /// The number of the newest commit: this one's, or that of an entry before.
    commit: u64,
    /// The first epoch of it.
    from: u64,
    /// The last epoch of it.
    to: u64,
}

/// What a commit that is done has written: for readers who want all of a commit or nothing.
#[derive(Debug, Serialize)]
struct Done<'a> {
    version: u32,
    files: &'a [String],
    rows: u64,
    epochs: [u64; 2],
}

/// A commit, as the record has it.
#[derive(Debug, Clone)]
pub(super) struct Commit {
    /// Its number in the record.
    pub(super) number: u64,
    /// Its first epoch.
    pub(super) from: u64,
    /// Its last epoch.
    pub(super) to: u64,
    /// Whether all of its files are there.
    pub(super) done: bool,
}

impl Record {
    pub(super) fn new(store: Arc<dyn ObjectStore>, folder: String) -> Self {
        Self { store, folder }
    }

    fn path(&self, number: u64, end: &str) -> Path {
        Path::from(format!("{}/{number:020}.{end}", self.folder))
    }

    fn failed(&self, what: &str, error: object_store::Error) -> Error {
        Error::new(
            code::LOAD,
            format!("could not {what} the record of commits \"{}\"", self.folder),
        )
        .caused_by(error)
        .retryable()
    }

    /// The numbers of entries, and of those that are done, ascending.
    async fn numbers(&self) -> Result<(Vec<u64>, Vec<u64>)> {
        let listed = self.store.list(Some(&Path::from(self.folder.as_str())));
        let listed: Vec<_> =
            listed.try_collect().await.map_err(|error| self.failed("list", error))?;
        let (mut entries, mut done) = (Vec::new(), Vec::new());
        for object in listed {
            let name = object.location.filename().unwrap_or_default();
            match name.split_once('.').map(|(number, end)| (number.parse(), end)) {
                Some((Ok(number), "json")) => entries.push(number),
                Some((Ok(number), "done")) => done.push(number),
                _ => {}
            }
        }
        entries.sort_unstable();
        done.sort_unstable();
        Ok((entries, done))
    }

    async fn read(&self, number: u64) -> Result<Option<Entry>> {
        let path = self.path(number, "json");
        let read = async { self.store.get(&path).await?.bytes().await };
        let bytes = match read.await {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed("read", error)),
        };
        let damaged = || Error::new(code::STATE, format!("object \"{path}\" is damaged"));
        let entry: Entry =
            serde_json::from_slice(&bytes).map_err(|error| damaged().caused_by(error))?;
        match entry.version {
            1 => Ok(Some(entry)),
            _ => Err(Error::new(code::STATE, format!("object \"{path}\" is of a newer version"))),
        }
    }

    /// The newest entry and its number; an error where a later generation than `generation` wrote it.
    async fn last(&self, generation: Generation) -> Result<Option<(u64, Entry, bool)>> {
        loop {
            let (numbers, done) = self.numbers().await?;
            let Some(number) = numbers.last().copied() else { return Ok(None) };
            // One that is deleted between listing and reading is not the newest any more.
            let Some(entry) = self.read(number).await? else { continue };
            if entry.generation > generation.0 {
                let message = format!(
                    "generation {} of the job has taken over folder \"{}\"",
                    entry.generation, self.folder
                );
                return Err(Error::new(code::FENCED, message).hint("only one instance of a job may run; where the job begins anew, without its checkpoints, write into another folder"));
            }
            let is_done = done.contains(&entry.commit);
            return Ok(Some((number, entry, is_done)));
        }
    }

    /// Takes over from every instance before.
    pub(super) async fn claim(&self, claim: Claim) -> Result<()> {
        loop {
            let last = self.last(claim.generation).await?;
            let (number, before) = match last {
                Some((number, entry, _)) => (number, entry),
                None => (0, Entry { version: 1, generation: 0, commit: 0, from: 1, to: 0 }),
            };
            if before.to > claim.epoch.0 {
                let message = format!(
                    "folder \"{}\" holds epoch {} of this job, whose checkpoints end at {}",
                    self.folder, before.to, claim.epoch
                );
                return Err(Error::new(code::STATE, message).hint("the job's checkpoints were deleted or set back: restore them, or write into another folder"));
            }
            let entry = Entry { generation: claim.generation.0, ..before };
            if self.create(number + 1, &entry).await? {
                return self.prune(number + 1, entry.commit).await;
            }
        }
    }

    /// The newest commit; `None` before the first.
    pub(super) async fn newest(&self, generation: Generation) -> Result<Option<Commit>> {
        let last = self.last(generation).await?;
        Ok(last.filter(|(_, entry, _)| entry.commit > 0).map(|(_, entry, done)| Commit {
            number: entry.commit,
            from: entry.from,
            to: entry.to,
            done,
        }))
    }

    /// Begins a commit of epochs, unless somebody was faster; who asks looks again in any case.
    pub(super) async fn begin(&self, generation: Generation, from: u64, to: u64) -> Result<()> {
        let number = self.last(generation).await?.map_or(1, |(number, ..)| number + 1);
        let entry = Entry { version: 1, generation: generation.0, commit: number, from, to };
        self.create(number, &entry).await?;
        self.prune(number, number).await
    }

    /// All files of a commit are there.
    pub(super) async fn done(&self, commit: &Commit, files: Vec<String>, rows: u64) -> Result<()> {
        let done = Done { version: 1, files: &files, rows, epochs: [commit.from, commit.to] };
        let bytes = serde_json::to_vec(&done)
            .map_err(|error| Error::internal("could not write a record").caused_by(error))?;
        let path = self.path(commit.number, "done");
        self.store
            .put(&path, PutPayload::from(bytes))
            .await
            .map(drop)
            .map_err(|error| self.failed("write", error))
    }

    /// Writes an entry where there is none; `false` where there is one.
    async fn create(&self, number: u64, entry: &Entry) -> Result<bool> {
        let bytes = serde_json::to_vec(entry)
            .map_err(|error| Error::internal("could not write a record").caused_by(error))?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.path(number, "json"), bytes.into(), options).await {
            Ok(_) => Ok(true),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(false),
            Err(error) => Err(self.failed("write", error)),
        }
    }

    /// Deletes entries long before `number`, which nobody looks at; `commit` is the newest commit.
    async fn prune(&self, number: u64, commit: u64) -> Result<()> {
        if !number.is_multiple_of(KEPT) {
            return Ok(());
        }
        let (entries, done) = self.numbers().await?;
        let old = |numbers: Vec<u64>, end: &'static str| {
            let old = numbers.into_iter().filter(move |old| old + KEPT < number && *old != commit);
            old.map(move |old| (old, end))
        };
        for (old, end) in old(entries, "json").chain(old(done, "done")) {
            if let Err(error) = self.store.delete(&self.path(old, end)).await {
                tracing::warn!(%error, folder = self.folder, "an old record could not be deleted");
            }
        }
        Ok(())
    }
}
