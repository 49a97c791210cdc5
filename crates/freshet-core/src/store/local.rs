//! A folder as an object store whose every write is durable before it is answered.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use crate::error::{Result, ResultExt, code};
use crate::files::{DirEntry, FileSystem};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result as StoreResult, UploadPart,
};
use parking_lot::Mutex;

use super::Settled;

const STORE: &str = "folder";
/// Files with such a name are being written; no listing shows them.
const TEMPORARY: &str = ".freshet-tmp-";
/// Bytes handed out at once when a whole object is streamed.
const CHUNK: u64 = 4 << 20;

/// A folder as an object store.
///
/// An object is written to a temporary file beside its place, synchronised, and given its name by
/// `rename`, or by `hard_link` where it must not exist yet ([`PutMode::Create`]); then the folder is
/// synchronised. So an object is there whole or not at all, and what was answered survives a crash
/// of the machine. What a reader sees may still be lost, where a process was killed between naming an
/// object and synchronising its folder; [`settle`](super::settle) makes it durable. Listings are in
/// the order of paths. An ETag is modification time and size.
#[derive(Debug, Clone)]
pub struct LocalStore {
    folder: Arc<Folder>,
}

#[derive(Debug)]
struct Folder {
    files: Arc<dyn FileSystem>,
    root: PathBuf,
    /// Folders whose names are known to be durable.
    durable: Mutex<HashSet<PathBuf>>,
}

impl LocalStore {
    /// A store in the folder `root`, an absolute path, which is made where it is missing.
    pub fn new(files: Arc<dyn FileSystem>, root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let folder = Folder { files, root, durable: Mutex::default() };
        folder
            .make_root()
            .or_code(code::IO, || format!("could not make folder \"{}\"", folder.root.display()))?;
        Ok(Self { folder: Arc::new(folder) })
    }

    /// The folder.
    pub fn root(&self) -> &FsPath {
        &self.folder.root
    }

    /// Deletes the temporary files that killed processes left and that were last written before
    /// `before`; gives their number. Younger ones may belong to a process that works now.
    pub async fn sweep(&self, before: DateTime<Utc>) -> Result<u64> {
        let before = before.timestamp_micros();
        self.run(move |folder| {
            folder.sweep(before).map_err(|error| generic(&Path::default(), error))
        })
        .await
        .or_code(code::IO, || format!("could not clean {self}"))
    }

    /// Runs blocking work off the async threads, where there are any.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let folder = Arc::clone(&self.folder);
        blocking(move || work(&folder)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> StoreResult<T> + Send + 'static,
) -> StoreResult<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await?,
        Err(_) => work(),
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder \"{}\"", self.folder.root.display())
    }
}

impl Folder {
    /// Makes the folder, not durably: its name and those above it are synchronised before the
    /// first write, by this process or, where it was killed before that, by the next.
    fn make_root(&self) -> io::Result<()> {
        match self.files.metadata(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.files.create_dir_all(&self.root)
            }
            found => found.map(|_| ()),
        }
    }

    /// Makes a folder whose name, and the names above it, are durable once this returns.
    ///
    /// A folder that was there already may have been made by a process that was killed before it
    /// synchronised, so each folder's parent is synchronised once by each process.
    fn ensure_dir(&self, dir: &FsPath) -> io::Result<()> {
        let mut durable = self.durable.lock();
        if durable.contains(dir) {
            return Ok(());
        }
        if !durable.contains(&self.root) {
            self.ensure_root()?;
            durable.insert(self.root.clone());
        }
        self.files.create_dir_all(dir)?;
        let chain: Vec<_> = dir.ancestors().take_while(|at| !durable.contains(*at)).collect();
        for at in chain.into_iter().rev() {
            if let Some(parent) = at.parent() {
                self.files.sync_dir(parent)?;
            }
            durable.insert(at.to_owned());
        }
        Ok(())
    }

    /// Makes the root's name, and the names above it, durable. Nothing is made in the root before:
    /// where it holds something, that was done.
    fn ensure_root(&self) -> io::Result<()> {
        self.files.create_dir_all(&self.root)?;
        if !self.files.read_dir(&self.root)?.is_empty() {
            return Ok(());
        }
        for above in self.root.ancestors().skip(1) {
            match self.files.sync_dir(above) {
                // Some folder up there this user cannot open, and so has made nothing in.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
                synchronised => synchronised?,
            }
        }
        Ok(())
    }

    /// Makes the names in an object's folder durable, whoever gave them, and the names above it.
    fn settle_names(&self, place: &FsPath) -> io::Result<()> {
        let dir = place.parent().unwrap_or(&self.root);
        self.ensure_dir(dir)?;
        self.files.sync_dir(dir)
    }

    fn place(&self, path: &Path) -> StoreResult<PathBuf> {
        if path.filename().is_none_or(|name| name.starts_with(TEMPORARY)) {
            return Err(generic(path, io::Error::from(io::ErrorKind::InvalidFilename)));
        }
        Ok(self.root.join(path.as_ref()))
    }

    /// Creates a temporary file with some content beside `place`.
    fn create_temporary(&self, place: &FsPath, content: &[Bytes]) -> io::Result<PathBuf> {
        let dir = place.parent().unwrap_or(&self.root);
        self.ensure_dir(dir)?;
        let temporary = dir.join(format!("{TEMPORARY}{}", uuid::Uuid::new_v4().simple()));
        let created = match self.files.create(&temporary, content) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody deleted a folder that we know from before.
                self.durable.lock().retain(|known| !known.starts_with(&self.root));
                self.ensure_dir(dir)?;
                self.files.create(&temporary, content)
            }
            result => result,
        };
        match created {
            Ok(()) => Ok(temporary),
            Err(error) => {
                let _ = self.files.remove_file(&temporary);
                Err(error)
            }
        }
    }

    /// Gives a temporary file its name, durably. It is gone afterwards in any case.
    fn settle(&self, temporary: &FsPath, place: &FsPath, create: bool) -> io::Result<()> {
        let named = self.files.sync_file(temporary).and_then(|()| {
            if create {
                self.files.hard_link(temporary, place)
            } else {
                self.files.rename(temporary, place)
            }
        });
        if create || named.is_err() {
            let _ = self.files.remove_file(temporary);
        }
        named?;
        self.files.sync_dir(place.parent().unwrap_or(&self.root))
    }

    fn put(&self, path: &Path, content: &[Bytes], create: bool) -> StoreResult<PutResult> {
        let place = self.place(path)?;
        let put = |content: &[Bytes]| {
            let temporary = self.create_temporary(&place, content)?;
            self.settle(&temporary, &place, create)
        };
        put(content).map_err(|error| classify(path, error))?;
        self.put_result(path, &place)
    }

    fn put_result(&self, path: &Path, place: &FsPath) -> StoreResult<PutResult> {
        let entry = self.files.metadata(place).map_err(|error| classify(path, error))?;
        Ok(PutResult { e_tag: Some(e_tag(&entry)), version: None })
    }

    fn head(&self, path: &Path) -> StoreResult<ObjectMeta> {
        let place = self.place(path)?;
        let entry = self.files.metadata(&place).map_err(|error| classify(path, error))?;
        if entry.is_dir {
            return Err(classify(path, io::ErrorKind::NotFound.into()));
        }
        Ok(meta(path.clone(), &entry))
    }

    fn read(&self, path: &Path, range: Range<u64>) -> StoreResult<Bytes> {
        let wanted = range.end.saturating_sub(range.start);
        let len = usize::try_from(wanted)
            .map_err(|_| generic(path, io::Error::from(io::ErrorKind::InvalidInput)))?;
        let bytes = self
            .files
            .read(&self.place(path)?, range.start, len)
            .map_err(|error| classify(path, error))?;
        if bytes.len() < len {
            return Err(generic(path, io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        Ok(bytes)
    }

    fn list(&self, prefix: Option<&Path>) -> StoreResult<Vec<ObjectMeta>> {
        let mut objects = Vec::new();
        let mut pending = vec![prefix.cloned().unwrap_or_default()];
        while let Some(folder) = pending.pop() {
            let (dirs, files) = self.children(&folder)?;
            pending.extend(dirs);
            objects.extend(files);
        }
        objects.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        Ok(objects)
    }

    fn sweep(&self, before_micros: i64) -> io::Result<u64> {
        let mut swept = 0;
        let mut pending = vec![self.root.clone()];
        while let Some(folder) = pending.pop() {
            for entry in self.files.read_dir(&folder)? {
                let name = entry.path.file_name().map(|name| name.to_string_lossy().into_owned());
                if entry.is_dir {
                    pending.push(entry.path);
                } else if name.is_some_and(|name| name.starts_with(TEMPORARY))
                    && entry.modified_micros < before_micros
                {
                    self.files.remove_file(&entry.path)?;
                    swept += 1;
                }
            }
        }
        Ok(swept)
    }

    /// The folders and objects directly in a folder.
    fn children(&self, folder: &Path) -> StoreResult<(Vec<Path>, Vec<ObjectMeta>)> {
        let entries = match self.files.read_dir(&self.root.join(folder.as_ref())) {
            Ok(entries) => entries,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Vec::new()
            }
            Err(error) => return Err(generic(folder, error)),
        };
        let (mut dirs, mut files) = (Vec::new(), Vec::new());
        for entry in entries {
            let Some(name) = entry.path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            // A name that no object can have is not one of ours.
            let Ok(relative) = Path::parse(name) else { continue };
            if name.starts_with(TEMPORARY) {
                continue;
            }
            let path: Path = folder.parts().chain(relative.parts()).collect();
            if entry.is_dir {
                dirs.push(path);
            } else {
                files.push(meta(path, &entry));
            }
        }
        Ok((dirs, files))
    }
}

fn meta(location: Path, entry: &DirEntry) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: DateTime::from_timestamp_micros(entry.modified_micros).unwrap_or_default(),
        size: entry.size,
        e_tag: Some(e_tag(entry)),
        version: None,
    }
}

fn e_tag(entry: &DirEntry) -> String {
    format!("{:x}-{:x}", entry.modified_micros, entry.size)
}

fn generic(path: &Path, error: io::Error) -> object_store::Error {
    object_store::Error::Generic {
        store: STORE,
        source: format!("object \"{path}\": {error}").into(),
    }
}

fn classify(path: &Path, error: io::Error) -> object_store::Error {
    let name = path.to_string();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            object_store::Error::NotFound { path: name, source: Box::new(error) }
        }
        io::ErrorKind::AlreadyExists => {
            object_store::Error::AlreadyExists { path: name, source: Box::new(error) }
        }
        io::ErrorKind::PermissionDenied => {
            object_store::Error::PermissionDenied { path: name, source: Box::new(error) }
        }
        _ => generic(path, error),
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> StoreResult<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(object_store::Error::NotImplemented {
                    operation: "conditional update".into(),
                    implementer: STORE.into(),
                });
            }
        };
        let path = location.clone();
        self.run(move |folder| {
            let content: Vec<Bytes> = payload.into_iter().collect();
            folder.put(&path, &content, create)
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        let path = location.clone();
        let (place, temporary) = self
            .run(move |folder| {
                let place = folder.place(&path)?;
                let temporary =
                    folder.create_temporary(&place, &[]).map_err(|error| classify(&path, error))?;
                Ok((place, temporary))
            })
            .await?;
        Ok(Box::new(Upload {
            parts: Arc::new(Parts {
                folder: Arc::clone(&self.folder),
                path: location.clone(),
                temporary,
                queue: Mutex::default(),
                failed: Mutex::new(None),
            }),
            place,
            open: true,
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        let path = location.clone();
        let store = self.clone();
        self.run(move |folder| {
            if options.extensions.get::<Settled>().is_some() {
                let place = folder.place(&path)?;
                folder.settle_names(&place).map_err(|error| classify(&path, error))?;
            }
            let meta = folder.head(&path)?;
            options.check_preconditions(&meta)?;
            let range = match &options.range {
                Some(range) => range.as_range(meta.size).map_err(|error| {
                    object_store::Error::Generic { store: STORE, source: Box::new(error) }
                })?,
                None => 0..meta.size,
            };
            let payload = if options.head {
                stream::empty().boxed()
            } else if range.end - range.start <= CHUNK {
                let bytes = folder.read(&path, range.clone())?;
                stream::once(async move { Ok(bytes) }).boxed()
            } else {
                chunks(store, path, range.clone())
            };
            Ok(GetResult {
                payload: GetResultPayload::Stream(payload),
                meta,
                range,
                attributes: Attributes::default(),
            })
        })
        .await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        let path = location.clone();
        let ranges = ranges.to_vec();
        self.run(move |folder| ranges.into_iter().map(|range| folder.read(&path, range)).collect())
            .await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, StoreResult<Path>>,
    ) -> BoxStream<'static, StoreResult<Path>> {
        let store = self.clone();
        locations
            .map(move |location| {
                let store = store.clone();
                async move {
                    let path = location?;
                    store
                        .run(move |folder| {
                            let place = folder.place(&path)?;
                            folder
                                .files
                                .remove_file(&place)
                                .map_err(|error| classify(&path, error))?;
                            Ok(path)
                        })
                        .await
                }
            })
            .buffered(8)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let store = self.clone();
        let prefix = prefix.cloned();
        stream::once(async move { store.run(move |folder| folder.list(prefix.as_ref())).await })
            .flat_map(|listed| match listed {
                Ok(objects) => stream::iter(objects.into_iter().map(Ok)).boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        self.run(move |folder| {
            let (mut common_prefixes, mut objects) = folder.children(&prefix)?;
            common_prefixes.sort_unstable();
            objects.sort_unstable_by(|a, b| a.location.cmp(&b.location));
            Ok(ListResult { common_prefixes, objects })
        })
        .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        let (from, to) = (from.clone(), to.clone());
        self.run(move |folder| {
            let size = folder.head(&from)?.size;
            let place = folder.place(&to)?;
            let temporary =
                folder.create_temporary(&place, &[]).map_err(|error| classify(&to, error))?;
            let mut at = 0;
            while at < size {
                let end = size.min(at + CHUNK);
                let copied = folder.read(&from, at..end).and_then(|bytes| {
                    folder.files.append(&temporary, &[bytes]).map_err(|error| generic(&to, error))
                });
                if let Err(error) = copied {
                    let _ = folder.files.remove_file(&temporary);
                    return Err(error);
                }
                at = end;
            }
            folder
                .settle(&temporary, &place, options.mode == CopyMode::Create)
                .map_err(|error| classify(&to, error))
        })
        .await
    }
}

/// Reads a range piece by piece.
fn chunks(
    store: LocalStore,
    path: Path,
    range: Range<u64>,
) -> BoxStream<'static, StoreResult<Bytes>> {
    stream::try_unfold(range.start, move |at| {
        let (store, path, end) = (store.clone(), path.clone(), range.end);
        async move {
            if at >= end {
                return Ok(None);
            }
            let next = end.min(at + CHUNK);
            let bytes = store.run(move |folder| folder.read(&path, at..next)).await?;
            Ok(Some((bytes, next)))
        }
    })
    .boxed()
}

/// An object that is being written part by part.
#[derive(Debug)]
struct Upload {
    parts: Arc<Parts>,
    place: PathBuf,
    open: bool,
}

#[derive(Debug)]
struct Parts {
    folder: Arc<Folder>,
    path: Path,
    temporary: PathBuf,
    /// Parts that are not written yet, in their order, whatever the order in which their futures
    /// are polled.
    queue: Mutex<VecDeque<PutPayload>>,
    /// Held while parts are written.
    failed: Mutex<Option<String>>,
}

impl Parts {
    fn drain(&self) -> StoreResult<()> {
        let mut failed = self.failed.lock();
        loop {
            if let Some(message) = failed.as_ref() {
                return Err(generic(&self.path, io::Error::other(message.clone())));
            }
            let Some(part) = self.queue.lock().pop_front() else { return Ok(()) };
            let content: Vec<Bytes> = part.into_iter().collect();
            if let Err(error) = self.folder.files.append(&self.temporary, &content) {
                *failed = Some(error.to_string());
            }
        }
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.queue.lock().push_back(data);
        let parts = Arc::clone(&self.parts);
        Box::pin(blocking(move || parts.drain()))
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        if !std::mem::replace(&mut self.open, false) {
            return Err(generic(&self.parts.path, io::Error::other("the upload is closed")));
        }
        let (parts, place) = (Arc::clone(&self.parts), self.place.clone());
        blocking(move || {
            let settled = parts.drain().and_then(|()| {
                parts
                    .folder
                    .settle(&parts.temporary, &place, false)
                    .map_err(|error| classify(&parts.path, error))
            });
            if settled.is_err() {
                let _ = parts.folder.files.remove_file(&parts.temporary);
            }
            settled?;
            parts.folder.put_result(&parts.path, &place)
        })
        .await
    }

    async fn abort(&mut self) -> StoreResult<()> {
        if std::mem::replace(&mut self.open, false) {
            let parts = Arc::clone(&self.parts);
            blocking(move || {
                let _ = parts.folder.files.remove_file(&parts.temporary);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.open {
            let _ = self.parts.folder.files.remove_file(&self.parts.temporary);
        }
    }
}
