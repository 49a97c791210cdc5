//! The manifests and state files of one job, in a store all of whose answers are durable.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use freshet_core::stream::{Epoch, Generation};
use freshet_core::{Error, Result, crash, error::code};
use futures::TryStreamExt;
use futures::lock::Mutex;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::manifest::Manifest;
use crate::state::KeyGroups;

/// The checkpoints of one job.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    pub(super) job: String,
    /// Held while savepoints are made and while files are deleted: what a savepoint is about to need
    /// must not go.
    pub(super) turn: Arc<Mutex<()>>,
}

impl Repository {
    /// Of `job`, whose name is a part of paths.
    pub fn new(store: Arc<dyn ObjectStore>, job: impl Into<String>) -> Self {
        Self { store, job: job.into(), turn: Arc::default() }
    }

    /// Where a manifest lies. Paths ascend with epochs.
    pub(super) fn path(&self, epoch: Epoch) -> String {
        format!("{}/manifests/{:020}.json", self.job, epoch.0)
    }

    /// Where the state file `name` lies.
    pub fn state_path(&self, name: &str) -> String {
        format!("{}/state/{name}", self.job)
    }

    /// The epochs that have a manifest, ascending.
    pub async fn epochs(&self) -> Result<Vec<Epoch>> {
        let names = self.list(&format!("{}/manifests", self.job)).await?;
        let number = |name: &String| name.strip_suffix(".json")?.parse().ok();
        let mut epochs: Vec<_> = names.iter().filter_map(number).map(Epoch).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// The newest checkpoint, if there is any.
    pub async fn newest(&self) -> Result<Option<Manifest>> {
        // One that is deleted between listing and reading is not the newest any more.
        while let Some(epoch) = self.epochs().await?.last().copied() {
            if let Some(manifest) = self.read(epoch).await? {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    /// The checkpoint of an epoch.
    pub async fn read(&self, epoch: Epoch) -> Result<Option<Manifest>> {
        let path = self.path(epoch);
        self.load(&path).await?.map(|bytes| Manifest::decode(&bytes, &path)).transpose()
    }

    /// Takes the job over: writes the manifest after the newest one, with the same content and the
    /// next generation. From then on nobody who came before can write one.
    pub async fn claim(&self, groups: KeyGroups, now: i64) -> Result<Manifest> {
        loop {
            let newest = self.newest().await?;
            let before = newest.unwrap_or_else(|| Manifest::empty(&self.job, groups));
            let claimed = Manifest {
                epoch: before.epoch.next(),
                generation: Generation(before.generation.0 + 1),
                created: now,
                ..before
            };
            // Where somebody else is first, what they wrote is the newest now.
            if self.create(&self.path(claimed.epoch), claimed.encode()).await? {
                return Ok(claimed);
            }
        }
    }

    /// Writes a checkpoint. An error of code [`code::FENCED`] says that another instance has taken
    /// the job over: this one must not commit anything any more.
    pub async fn write(&self, manifest: &Manifest) -> Result<()> {
        let path = self.path(manifest.epoch);
        if self.create(&path, manifest.encode()).await? {
            return Ok(());
        }
        match self.read(manifest.epoch).await? {
            // Our own: the answer to an earlier try was lost.
            Some(there) if there == *manifest => Ok(()),
            there => Err(fenced(&self.job, there.map(|manifest| manifest.generation))),
        }
    }

    /// Writes a state file.
    pub async fn put(&self, path: &str, content: Vec<Bytes>) -> Result<()> {
        let result = self.store.put(&Path::from(path), PutPayload::from_iter(content)).await;
        result.map(|_| ()).map_err(|error| failed("write", path, error))
    }

    /// Reads a part of a state file; fewer bytes where it ends before.
    pub async fn get(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        match self.store.get_range(&Path::from(path), range).await {
            Ok(bytes) => Ok(bytes),
            Err(object_store::Error::NotFound { .. }) => {
                Err(Error::new(code::STATE, format!("state file \"{path}\" is missing"))
                    .hint("restore it from a copy, or start from an older savepoint"))
            }
            Err(error) => Err(failed("read", path, error)),
        }
    }

    /// Begins to write a large state file, part by part: it is there once it is complete.
    pub(super) async fn begin_upload(&self, path: &str) -> Result<Upload> {
        match self.store.put_multipart(&Path::from(path)).await {
            Ok(upload) => Ok(Upload { upload, path: path.to_owned() }),
            Err(error) => Err(failed("write", path, error)),
        }
    }

    /// Deletes the manifests before the newest `keep`, and the state files that neither a manifest nor a
    /// savepoint names and that belong to an epoch before `before`: what is being written is left alone.
    pub async fn collect(&self, keep: usize, before: Epoch) -> Result<()> {
        let _turn = self.turn.lock().await;
        let epochs = self.epochs().await?;
        let (old, kept) = epochs.split_at(epochs.len().saturating_sub(keep.max(1)));
        // Manifests go first: one whose files are gone must not be found.
        for epoch in old {
            self.delete(&self.path(*epoch)).await?;
        }
        if !old.is_empty() {
            crash::point("collect.manifests");
        }
        let mut needed = std::collections::HashSet::new();
        for epoch in kept {
            if let Some(manifest) = self.read(*epoch).await? {
                needed.extend(manifest.files().into_iter().map(str::to_owned));
            }
        }
        for name in self.savepoints().await? {
            if let Some(manifest) = self.savepoint(&name).await? {
                needed.extend(manifest.files().into_iter().map(str::to_owned));
            }
        }
        let mut deleted = false;
        for name in self.list(&format!("{}/state", self.job)).await? {
            let epoch = name.split('-').next().and_then(|number| number.parse().ok()).map(Epoch);
            let path = self.state_path(&name);
            if epoch.is_some_and(|epoch| epoch < before) && !needed.contains(&path) {
                self.delete(&path).await?;
                deleted = true;
            }
        }
        if deleted {
            crash::point("collect.files");
        }
        Ok(())
    }

    /// The names of the objects in a folder.
    pub(super) async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let objects = self.store.list(Some(&Path::from(folder)));
        let objects: Vec<_> =
            objects.try_collect().await.map_err(|error| failed("list", folder, error))?;
        let name = |path: &Path| path.filename().map(str::to_owned);
        Ok(objects.iter().filter_map(|object| name(&object.location)).collect())
    }

    pub(super) async fn load(&self, path: &str) -> Result<Option<Bytes>> {
        let read = async { self.store.get(&Path::from(path)).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("read", path, error)),
        }
    }

    /// Writes an object where there is none; `false` where there is one.
    pub(super) async fn create(&self, path: &str, content: Vec<u8>) -> Result<bool> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&Path::from(path), content.into(), options).await {
            Ok(_) => Ok(true),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(false),
            Err(error) => Err(failed("write", path, error)),
        }
    }

    pub(super) async fn delete(&self, path: &str) -> Result<()> {
        match self.store.delete(&Path::from(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("delete", path, error)),
        }
    }
}

/// A state file that is being written.
#[derive(Debug)]
pub(super) struct Upload {
    upload: Box<dyn MultipartUpload>,
    path: String,
}

impl Upload {
    /// Writes the next part.
    pub(super) async fn put_part(&mut self, part: Bytes) -> Result<()> {
        let put = self.upload.put_part(part.into()).await;
        self.judge(put).await
    }

    /// Ends it: the file is durable.
    pub(super) async fn complete(&mut self) -> Result<()> {
        let completed = self.upload.complete().await.map(|_| ());
        self.judge(completed).await
    }

    /// Gives it up.
    pub(super) async fn abort(&mut self) {
        // What is left over is the store's to forget.
        let _ = self.upload.abort().await;
    }

    async fn judge(&mut self, result: object_store::Result<()>) -> Result<()> {
        if result.is_err() {
            self.abort().await;
        }
        result.map_err(|error| failed("write", &self.path, error))
    }
}

/// Whatever it is (a full disk, a network), it may pass.
fn failed(what: &str, path: &str, error: object_store::Error) -> Error {
    Error::new(code::STATE, format!("could not {what} \"{path}\"")).caused_by(error).retryable()
}

fn fenced(job: &str, by: Option<Generation>) -> Error {
    let by = by.map(|generation| format!(" (generation {})", generation.0)).unwrap_or_default();
    Error::new(code::FENCED, format!("another instance{by} has taken over job \"{job}\""))
        .hint("only one instance of a job may run: stop the other one, or let it run")
}
