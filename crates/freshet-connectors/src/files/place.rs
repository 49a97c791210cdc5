//! Places that hold files: a local folder, a bucket of an S3-compatible server.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use freshet_core::error::{Error, Result, code};
use futures::TryStreamExt;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::pattern::PathPattern;

/// A file in a listing.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The path or URL by which it is known.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// Etag, or time and size.
    pub version: String,
    /// When it was last written.
    pub modified: DateTime<Utc>,
}

/// Where files are.
#[async_trait]
pub trait Place: Debug + Send + Sync {
    /// All files below the pattern's base, in no order.
    async fn list(&self, pattern: &PathPattern) -> Result<Vec<Listed>>;

    /// A file of a listing, to be read. `version` guards against reading another one.
    async fn open(&self, id: &str, size: u64, version: &str) -> Result<Arc<dyn Blob>>;
}

/// An open file of a known size.
#[async_trait]
pub trait Blob: Debug + Send + Sync {
    /// Bytes, as listed.
    fn size(&self) -> u64;

    /// The file itself, where it is local and can be read without waiting.
    fn local(&self) -> Option<&LocalBlob>;

    /// Exactly `len` bytes from `offset`; both lie within the size.
    async fn read(&self, offset: u64, len: usize) -> Result<Bytes>;
}

/// A local file.
#[derive(Debug)]
pub struct LocalBlob {
    file: File,
    id: String,
    size: u64,
}

impl LocalBlob {
    /// Reads exactly `into.len()` bytes from `offset`.
    pub fn read_into(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(into, offset).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                changed(&self.id)
            } else {
                unreadable(&self.id, error)
            }
        })
    }

    /// A handle of its own onto the same file.
    pub fn file(&self) -> Result<File> {
        self.file.try_clone().map_err(|error| unreadable(&self.id, error))
    }
}

#[async_trait]
impl Blob for LocalBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn local(&self) -> Option<&LocalBlob> {
        Some(self)
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let mut bytes = vec![0; len];
        self.read_into(offset, &mut bytes)?;
        Ok(bytes.into())
    }
}

fn unreadable(id: &str, error: io::Error) -> Error {
    Error::new(code::SOURCE, format!("could not read file \"{id}\"")).caused_by(error)
}

fn changed(id: &str) -> Error {
    Error::new(code::FILE_BROKEN, format!("file \"{id}\" changed while it was read"))
        .hint("set `settle` so that files which are still being written wait for the next run")
}

/// A folder of this machine.
#[derive(Debug)]
pub struct LocalPlace {
    root: PathBuf,
}

impl LocalPlace {
    /// Relative paths start at `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn list_blocking(root: &Path, pattern: &PathPattern) -> Result<Vec<Listed>> {
        let mut files = Vec::new();
        if !pattern.is_wild() {
            let path = root.join(pattern.as_str());
            let metadata = std::fs::metadata(&path).map_err(|error| missing(pattern, error))?;
            if metadata.is_dir() {
                return Err(Error::new(
                    code::CONFIG,
                    format!("path \"{}\" is a folder", pattern.as_str()),
                )
                .hint(format!(
                    "name the files in it, for example \"{}/*.csv\"",
                    pattern.as_str().trim_end_matches('/')
                )));
            }
            files.push(listed(pattern.as_str().to_owned(), &metadata));
            return Ok(files);
        }
        let base = root.join(pattern.base());
        // The folders above each one, so that a link to one of them does not lead in a circle.
        let mut folders = vec![(base, pattern.base().to_owned(), 0_u32)];
        while let Some((folder, prefix, depth)) = folders.pop() {
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if depth == 0 => return Err(missing(pattern, error)),
                Err(error) => {
                    return Err(Error::new(
                        code::SOURCE,
                        format!("could not list folder \"{prefix}\""),
                    )
                    .caused_by(error));
                }
            };
            for entry in entries {
                let entry = entry.map_err(|error| missing(pattern, error))?;
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                    tracing::warn!(folder = prefix, "a file name that is not UTF-8 is left out");
                    continue;
                };
                // Follows links; what vanished meanwhile, or leads nowhere, is not a file.
                let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
                let id = format!("{prefix}{name}");
                if metadata.is_dir() {
                    if pattern.is_deep() && depth < MAX_DEPTH {
                        folders.push((entry.path(), format!("{id}/"), depth + 1));
                    }
                } else if metadata.is_file() {
                    files.push(listed(id, &metadata));
                }
            }
        }
        Ok(files)
    }
}

/// Folders within folders that are searched: a circle of links ends here.
const MAX_DEPTH: u32 = 32;

fn missing(pattern: &PathPattern, error: io::Error) -> Error {
    let what = if pattern.is_wild() { "folder" } else { "file" };
    let name = if pattern.is_wild() && !pattern.base().is_empty() {
        pattern.base()
    } else {
        pattern.as_str()
    };
    Error::new(code::SOURCE, format!("could not find {what} \"{name}\""))
        .caused_by(error)
        .hint("relative paths start at the project folder")
}

fn listed(id: String, metadata: &std::fs::Metadata) -> Listed {
    use std::os::unix::fs::MetadataExt;
    let micros = metadata.mtime() * 1_000_000 + metadata.mtime_nsec() / 1_000;
    Listed {
        id,
        size: metadata.len(),
        version: format!("{micros}-{}", metadata.len()),
        modified: DateTime::from_timestamp_micros(micros).unwrap_or_default(),
    }
}

#[async_trait]
impl Place for LocalPlace {
    async fn list(&self, pattern: &PathPattern) -> Result<Vec<Listed>> {
        Self::list_blocking(&self.root, pattern)
    }

    async fn open(&self, id: &str, size: u64, _version: &str) -> Result<Arc<dyn Blob>> {
        let file = File::open(self.root.join(id)).map_err(|error| unreadable(id, error))?;
        let now = file.metadata().map_err(|error| unreadable(id, error))?.len();
        if now < size {
            return Err(changed(id));
        }
        Ok(Arc::new(LocalBlob { file, id: id.to_owned(), size }))
    }
}

/// A bucket.
#[derive(Debug)]
pub struct ObjectPlace {
    store: Arc<dyn ObjectStore>,
    /// `s3://bucket/`
    root: String,
}

impl ObjectPlace {
    /// The objects of `store`, known as `root` and their key.
    pub fn new(store: Arc<dyn ObjectStore>, root: String) -> Self {
        Self { store, root }
    }

    fn listed(&self, object: ObjectMeta) -> Listed {
        Listed {
            id: format!("{}{}", self.root, object.location),
            size: object.size,
            version: object.e_tag.unwrap_or_else(|| {
                format!("{}-{}", object.last_modified.timestamp_micros(), object.size)
            }),
            modified: object.last_modified,
        }
    }

    fn key(&self, id: &str) -> Result<object_store::path::Path> {
        let key = id.strip_prefix(&self.root).unwrap_or(id);
        object_store::path::Path::parse(key).map_err(|error| {
            Error::new(code::SOURCE, format!("\"{id}\" is not the name of an object"))
                .caused_by(error)
        })
    }
}

/// The error of a request, which may go better the next time unless the object is at fault.
fn request_error(message: String, error: object_store::Error) -> Error {
    use object_store::Error as E;
    let retryable = !matches!(
        error,
        E::NotFound { .. }
            | E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::InvalidPath { .. }
            | E::Precondition { .. }
    );
    let wrapped = Error::new(code::SOURCE, message).caused_by(error);
    if retryable { wrapped.retryable() } else { wrapped }
}

#[async_trait]
impl Place for ObjectPlace {
    async fn list(&self, pattern: &PathPattern) -> Result<Vec<Listed>> {
        if !pattern.is_wild() {
            // One object: whoever may read it need not be allowed to list the bucket.
            let key = self.key(pattern.as_str())?;
            let object = self.store.head(&key).await.map_err(|error| {
                let message = format!("could not find object \"{}\"", pattern.as_str());
                request_error(message, error).hint("a `*` in its name lists what is there")
            })?;
            return Ok(vec![self.listed(object)]);
        }
        let below = pattern.base().strip_prefix(&self.root).unwrap_or_default();
        let prefix = self.key(below.trim_end_matches('/'))?;
        let prefix = (!prefix.as_ref().is_empty()).then_some(prefix);
        let listing = async {
            if pattern.is_deep() {
                self.store.list(prefix.as_ref()).try_collect::<Vec<_>>().await
            } else {
                Ok(self.store.list_with_delimiter(prefix.as_ref()).await?.objects)
            }
        };
        let objects = listing.await.map_err(|error| {
            request_error(format!("could not list \"{}\"", pattern.base()), error)
        })?;
        Ok(objects.into_iter().map(|object| self.listed(object)).collect())
    }

    async fn open(&self, id: &str, size: u64, version: &str) -> Result<Arc<dyn Blob>> {
        Ok(Arc::new(ObjectBlob {
            store: Arc::clone(&self.store),
            key: self.key(id)?,
            id: id.to_owned(),
            size,
            etag: version.starts_with(['"', 'W']).then(|| version.to_owned()),
        }))
    }
}

#[derive(Debug)]
struct ObjectBlob {
    store: Arc<dyn ObjectStore>,
    key: object_store::path::Path,
    id: String,
    size: u64,
    etag: Option<String>,
}

#[async_trait]
impl Blob for ObjectBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn local(&self) -> Option<&LocalBlob> {
        None
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let options = GetOptions {
            if_match: self.etag.clone(),
            range: Some(GetRange::Bounded(offset..offset + len as u64)),
            ..GetOptions::default()
        };
        let request = async { self.store.get_opts(&self.key, options).await?.bytes().await };
        let bytes = request.await.map_err(|error| match error {
            object_store::Error::Precondition { .. } => changed(&self.id),
            error => request_error(format!("could not read file \"{}\"", self.id), error),
        })?;
        if bytes.len() == len { Ok(bytes) } else { Err(changed(&self.id)) }
    }
}
