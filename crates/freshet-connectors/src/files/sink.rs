//! Files of a folder or bucket as a sink without an end.
//!
//! The rows of an epoch are staged beside the job's checkpoints. A commit takes the next number of
//! the folder's record of commits ([`record`]), writes the rows of its epochs as whole files named by
//! that number, and marks the commit as done. What is repeated writes the same files again.

mod encode;
mod record;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use freshet_core::config::ByteSize;
use freshet_core::error::{Error, Result, code};
use freshet_core::registry::{ConnectorContext, StreamSinkSpec};
use freshet_core::rows::Rows;
use freshet_core::sink::Guarantee;
use freshet_core::staging::Staging;
use freshet_core::store::LocalStore;
use freshet_core::stream::{Claim, Generation, PendingCommit, SinkWriter, StreamSink, Token, Wake};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::s3;
use crate::log::os::OsFiles;
pub(super) use encode::{FileCompression, FileFormat};
use record::{Commit, Record};

/// Options of the connector `files` as a sink of streams.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FilesSinkOptions {
    /// The folder: a path relative to the project folder, an absolute one, or `s3://bucket/prefix`
    /// with a connection to S3. Files are named `part-…`; `_freshet` in it is the record of commits.
    pub path: String,
    /// The format: `parquet`, `ndjson` or `csv`, which has a line of names at its top.
    pub format: FileFormat,
    /// How files are compressed: `none`, `gzip` or `zstd`. Default: `zstd` for Parquet, `none` for
    /// the others, whose names then end in `.gz` or `.zst`.
    #[serde(default)]
    pub compression: Option<FileCompression>,
    /// Bytes of rows, before they are encoded, from which on a commit begins another file.
    #[serde(default = "default_file_bytes")]
    pub file_bytes: ByteSize,
}

fn default_file_bytes() -> ByteSize {
    ByteSize::mib(256)
}

impl FilesSinkOptions {
    pub(super) fn read(options: &Value) -> Result<Self> {
        let options: Self = crate::options::parse(options, "")?;
        if options.path.is_empty() || options.path.contains(['*', '?', '{', '[']) {
            return Err(Error::new(
                code::CONFIG,
                format!("option \"path\" is \"{}\", which is no folder", options.path),
            )
            .hint("a sink writes into one folder; it names the files itself"));
        }
        if options.file_bytes.0 == 0 {
            return Err(Error::new(code::CONFIG, "option \"file_bytes\" cannot be 0"));
        }
        if options.path.starts_with("s3://") {
            s3::bucket(&options.path)?;
        }
        Ok(options)
    }
}

/// Where the folder is.
#[derive(Debug, Clone)]
enum Folder {
    Local(PathBuf),
    Bucket(Arc<dyn ObjectStore>),
}

/// A folder that is written.
#[derive(Debug)]
pub(super) struct FilesSink {
    options: FilesSinkOptions,
    folder: Folder,
    /// Tells the files of several jobs in one folder apart.
    job: String,
    staging: Staging,
    store: Mutex<Option<Arc<dyn ObjectStore>>>,
    /// One commit at a time.
    committing: tokio::sync::Mutex<()>,
    swept: Mutex<Option<Generation>>,
}

impl FilesSink {
    pub(super) fn new(
        options: FilesSinkOptions,
        spec: &StreamSinkSpec,
        context: &ConnectorContext,
    ) -> Result<Self> {
        encode::check(options.format, &spec.schema)?;
        let folder = match options.path.strip_prefix("s3://") {
            Some(rest) => {
                let bucket = s3::open(s3::bucket(&options.path)?, &context.connection)?;
                let prefix = rest.split_once('/').map_or("", |(_, prefix)| prefix);
                Folder::Bucket(Arc::new(PrefixStore::new(bucket, prefix.trim_matches('/'))))
            }
            None => Folder::Local(context.project_dir.join(&options.path)),
        };
        let job = blake3::hash(spec.writer.as_bytes()).to_hex()[..8].to_owned();
        Ok(Self {
            options,
            folder,
            job,
            staging: Staging::default(),
            store: Mutex::default(),
            committing: tokio::sync::Mutex::default(),
            swept: Mutex::default(),
        })
    }

    /// The folder as a store; a local one is made where it is missing.
    fn store(&self) -> Result<Arc<dyn ObjectStore>> {
        let mut store = self.store.lock();
        if let Some(store) = &*store {
            return Ok(Arc::clone(store));
        }
        let opened: Arc<dyn ObjectStore> = match &self.folder {
            Folder::Bucket(bucket) => Arc::clone(bucket),
            Folder::Local(path) => Arc::new(
                LocalStore::new(Arc::new(OsFiles::default()), path.clone()).map_err(|error| {
                    Error::new(code::LOAD, format!("could not open folder \"{}\"", path.display()))
                        .caused_by(error)
                        .retryable()
                })?,
            ),
        };
        *store = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn record(&self) -> Result<Record> {
        Ok(Record::new(self.store()?, format!("_freshet/{}", self.job)))
    }

    /// Writes the files of a commit, and marks it as done.
    async fn write(
        &self,
        record: &Record,
        commit: &Commit,
        pending: &[PendingCommit],
    ) -> Result<()> {
        let store = self.store()?;
        let (mut names, mut total) = (Vec::new(), 0);
        let mut gathered: Vec<Rows> = Vec::new();
        let mut bytes = 0;
        let within =
            |pending: &&PendingCommit| (commit.from..=commit.to).contains(&pending.epoch.0);
        for part in pending.iter().filter(within).flat_map(|pending| &pending.parts) {
            for rows in self.staging.read(part).await? {
                total += rows.len() as u64;
                bytes += rows.bytes() as u64;
                gathered.push(rows);
                if bytes >= self.options.file_bytes.0 {
                    bytes = 0;
                    self.write_file(&*store, commit, std::mem::take(&mut gathered), &mut names)
                        .await?;
                }
            }
        }
        if !gathered.is_empty() {
            self.write_file(&*store, commit, gathered, &mut names).await?;
        }
        record.done(commit, names, total).await
    }

    async fn write_file(
        &self,
        store: &dyn ObjectStore,
        commit: &Commit,
        rows: Vec<Rows>,
        names: &mut Vec<String>,
    ) -> Result<()> {
        let FilesSinkOptions { format, compression, .. } = self.options;
        let extension = encode::extension(format, compression);
        let name = format!("part-{}-{:020}-{:04}{extension}", self.job, commit.number, names.len());
        let encoding =
            tokio::task::spawn_blocking(move || encode::file(format, compression, &rows));
        let bytes = encoding
            .await
            .map_err(|error| Error::internal("encoding a file ended early").caused_by(error))??;
        store.put(&Path::from(name.as_str()), PutPayload::from(Bytes::from(bytes))).await.map_err(
            |error| {
                let message =
                    format!("could not write file \"{name}\" of \"{}\"", self.options.path);
                Error::new(code::LOAD, message).caused_by(error).retryable()
            },
        )?;
        names.push(name);
        Ok(())
    }
}

#[async_trait]
impl StreamSink for FilesSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn target(&self) -> String {
        format!("folder \"{}\"", self.options.path)
    }

    fn makes_files(&self) -> bool {
        true
    }

    fn stage_in(&self, store: Arc<dyn ObjectStore>) {
        self.staging.keep_in(store);
    }

    async fn open(
        &self,
        claim: Claim,
        wakes: &[Arc<dyn Wake>],
    ) -> Result<Vec<Box<dyn SinkWriter>>> {
        self.record()?.claim(claim).await?;
        let writer = |(task, wake): (usize, &Arc<dyn Wake>)| -> Box<dyn SinkWriter> {
            Box::new(self.staging.writer(claim.generation, task, wake))
        };
        Ok(wakes.iter().enumerate().map(writer).collect())
    }

    async fn commit(&self, generation: Generation, pending: &[PendingCommit]) -> Result<()> {
        let Some(last) = pending.last() else { return Ok(()) };
        let _one_at_a_time = self.committing.lock().await;
        let record = self.record()?;
        loop {
            let newest = record.newest(generation).await?;
            // One that was begun is carried through as it was begun: by whom makes no difference.
            if let Some(begun) = newest.as_ref().filter(|commit| !commit.done) {
                self.write(&record, begun, pending).await?;
                continue;
            }
            let held = newest.map_or(0, |commit| commit.to);
            if last.epoch.0 <= held {
                break;
            }
            let some = pending
                .iter()
                .filter(|pending| pending.epoch.0 > held)
                .any(|pending| pending.parts.iter().any(|part| !part.is_null()));
            if !some {
                break;
            }
            record.begin(generation, held + 1, last.epoch.0).await?;
        }
        let tokens: Vec<&Token> = pending.iter().flat_map(|pending| &pending.parts).collect();
        self.staging.forget(&tokens).await;
        if self.swept.lock().replace(generation) != Some(generation) {
            self.staging.sweep(generation).await;
        }
        Ok(())
    }
}
