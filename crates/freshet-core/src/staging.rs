//! Where the rows of an epoch are until they are committed: few of them inside the sink's token, the
//! rest beside the job's checkpoints, as Arrow streams with a digest each.

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result, ResultExt, code};
use crate::latest::kind_column;
use crate::rows::{RowKind, Rows, arrow_error};
use crate::stream::{Epoch, Generation, SinkWriter, Token, Wake};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, UInt8Type};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// What goes into the token itself, where there is a store for the rest.
const INLINE: usize = 8 << 10;
/// Bytes of rows that are gathered before they are written, where no epoch ends before.
const CHUNK: usize = 16 << 20;
/// Chunks of one writer that are being written at once.
const CHUNKS_AT_ONCE: usize = 2;
/// The column that holds the kinds of rows.
const KIND: &str = "_freshet_kind";
const FOLDER: &str = "rows";

/// Keeps rows. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Staging {
    store: Arc<Mutex<Option<Arc<dyn ObjectStore>>>>,
}

/// What a token says. Persisted in manifests: a new field needs a new version.
#[derive(Debug, Serialize, Deserialize)]
struct Staged {
    version: u32,
    chunks: Vec<Chunk>,
}

/// Some rows of an epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Chunk {
    /// Their bytes in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    inline: Option<String>,
    /// The object that holds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    /// BLAKE3 of the bytes.
    digest: String,
}

impl Staging {
    /// From now on rows are kept in `store`, which is as durable as checkpoints. Without one all
    /// goes into tokens.
    pub fn keep_in(&self, store: Arc<dyn ObjectStore>) {
        *self.store.lock() = Some(store);
    }

    /// A writer that stages what it is given; `task` is its place among those of its generation.
    pub fn writer(
        &self,
        generation: Generation,
        task: usize,
        wake: &Arc<dyn Wake>,
    ) -> StagingWriter {
        StagingWriter {
            staging: self.clone(),
            name: format!("{}-{task}", generation.0),
            wake: Arc::clone(wake),
            rows: Vec::new(),
            bytes: 0,
            runtime: Handle::try_current().ok(),
            written: 0,
            under_way: Arc::default(),
            chunks: Vec::new(),
        }
    }

    async fn write(&self, name: String, rows: Vec<Rows>) -> Result<Chunk> {
        let bytes = encode(&rows)?;
        let digest = blake3::hash(&bytes).to_hex().to_string();
        let store = self.store.lock().clone();
        match store {
            Some(store) if bytes.len() > INLINE => {
                let path = format!("{FOLDER}/{name}");
                store
                    .put(&Path::from(path.as_str()), PutPayload::from(bytes))
                    .await
                    .map_err(|error| failed("write", &path, error))?;
                Ok(Chunk { inline: None, object: Some(path), digest })
            }
            _ => Ok(Chunk { inline: Some(STANDARD.encode(&bytes)), object: None, digest }),
        }
    }

    /// The rows behind a token, in the order in which they were written.
    pub async fn read(&self, token: &Token) -> Result<Vec<Rows>> {
        let mut rows = Vec::new();
        for chunk in chunks(token)? {
            let bytes = match (&chunk.inline, &chunk.object) {
                (Some(text), _) => Bytes::from(
                    STANDARD
                        .decode(text)
                        .or_code(code::STATE, || "a token is damaged".to_owned())?,
                ),
                (None, Some(path)) => {
                    let store = self.store.lock().clone().ok_or_else(|| {
                        Error::internal("rows were staged in a store, and none was given")
                    })?;
                    let read = async { store.get(&Path::from(path.as_str())).await?.bytes().await };
                    read.await.map_err(|error| failed("read", path, error))?
                }
                (None, None) => continue,
            };
            if blake3::hash(&bytes).to_hex().as_str() != chunk.digest {
                return Err(Error::new(code::STATE, "rows that were staged are damaged")
                    .hint("go on from an older savepoint"));
            }
            rows.extend(decode(bytes)?);
        }
        Ok(rows)
    }

    /// What is behind these tokens is committed and not needed any more.
    pub async fn forget(&self, tokens: &[&Token]) {
        let store = self.store.lock().clone();
        let Some(store) = store else { return };
        let paths = tokens.iter().flat_map(|token| chunks(token).unwrap_or_default());
        for path in paths.filter_map(|chunk| chunk.object) {
            if let Err(error) = store.delete(&Path::from(path.as_str())).await {
                // It costs room, nothing else.
                tracing::warn!(path, %error, "staged rows could not be deleted");
            }
        }
    }

    /// Deletes what instances before `generation` left that came to an end before their checkpoint
    /// did. To be called once everything of theirs that a checkpoint names is committed, as it is
    /// after the first commit of a generation.
    pub async fn sweep(&self, generation: Generation) {
        let store = self.store.lock().clone();
        let Some(store) = store else { return };
        let swept = async {
            let listed: Vec<_> = store.list(Some(&Path::from(FOLDER))).try_collect().await?;
            for object in listed {
                let number = object.location.filename().and_then(|name| name.split('-').next());
                let number = number.and_then(|number| number.parse().ok()).map(Generation);
                if number.is_some_and(|number| number < generation) {
                    store.delete(&object.location).await?;
                }
            }
            Ok::<_, object_store::Error>(())
        };
        if let Err(error) = swept.await {
            tracing::warn!(%error, "old staged rows could not be deleted");
        }
    }
}

fn chunks(token: &Token) -> Result<Vec<Chunk>> {
    if token.is_null() {
        return Ok(Vec::new());
    }
    let staged = Staged::deserialize(token)
        .or_code(code::STATE, || "could not read the token of a sink".to_owned())?;
    match staged.version {
        1 => Ok(staged.chunks),
        _ => Err(Error::new(code::STATE, "rows were staged by a newer version")),
    }
}

fn failed(what: &str, path: &str, error: object_store::Error) -> Error {
    Error::new(code::STATE, format!("could not {what} staged rows \"{path}\""))
        .caused_by(error)
        .retryable()
}

/// Rows as one Arrow stream, their kinds in a last column.
fn encode(rows: &[Rows]) -> Result<Vec<u8>> {
    let Some(first) = rows.first() else { return Ok(Vec::new()) };
    let with_kinds = rows.iter().any(|rows| rows.kinds().is_some());
    let mut fields: Vec<_> = first.schema().fields().iter().cloned().collect();
    if with_kinds {
        fields.push(Arc::new(Field::new(KIND, DataType::UInt8, true)));
    }
    let schema = Arc::new(Schema::new(fields));
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(arrow_error)?;
    for rows in rows {
        let mut columns = rows.batch().columns().to_vec();
        if with_kinds {
            columns.push(match kind_column(rows) {
                Some(kinds) => Arc::new(kinds),
                None => arrow::array::new_null_array(&DataType::UInt8, rows.len()),
            });
        }
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(arrow_error)?;
        writer.write(&batch).map_err(arrow_error)?;
    }
    writer.into_inner().map_err(arrow_error)
}

fn decode(bytes: Bytes) -> Result<Vec<Rows>> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let damaged = || "could not read staged rows".to_owned();
    let reader = StreamReader::try_new(Cursor::new(bytes), None).or_code(code::STATE, damaged)?;
    let mut all = Vec::new();
    for batch in reader {
        let mut batch = batch.or_code(code::STATE, damaged)?;
        let kinds = batch.schema().index_of(KIND).ok();
        let Some(place) = kinds else {
            all.push(Rows::inserts(batch));
            continue;
        };
        let column = batch.remove_column(place);
        let numbers = column.as_primitive::<UInt8Type>().iter();
        let kinds = numbers.map(|number| RowKind::from_u8(number.unwrap_or(0)));
        let kinds: Option<Vec<_>> = kinds.collect();
        let kinds = kinds.ok_or_else(|| Error::new(code::STATE, damaged()))?;
        all.push(Rows::changes(batch, kinds));
    }
    Ok(all)
}

/// Stages the rows of one task, epoch by epoch.
#[derive(Debug)]
pub struct StagingWriter {
    staging: Staging,
    /// Unique among the writers of all generations.
    name: String,
    wake: Arc<dyn Wake>,
    rows: Vec<Rows>,
    bytes: usize,
    /// Where chunks are written before an epoch ends; without it they are not.
    runtime: Option<Handle>,
    /// Chunks that were ever written.
    written: u64,
    /// Chunks that are being written.
    under_way: Arc<AtomicUsize>,
    chunks: Vec<JoinHandle<Result<Chunk>>>,
}

impl StagingWriter {
    fn next_name(&mut self) -> String {
        self.written += 1;
        format!("{}-{}", self.name, self.written)
    }
}

impl SinkWriter for StagingWriter {
    fn write(&mut self, rows: Rows) -> Result<()> {
        self.bytes += rows.bytes();
        self.rows.push(rows);
        if let (Some(runtime), true) = (self.runtime.clone(), self.bytes >= CHUNK) {
            self.bytes = 0;
            let name = self.next_name();
            let (staging, rows) = (self.staging.clone(), std::mem::take(&mut self.rows));
            self.under_way.fetch_add(1, Ordering::AcqRel);
            let (under_way, wake) = (Arc::clone(&self.under_way), Arc::clone(&self.wake));
            self.chunks.push(runtime.spawn(async move {
                let written = staging.write(name, rows).await;
                under_way.fetch_sub(1, Ordering::AcqRel);
                wake.wake();
                written
            }));
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.under_way.load(Ordering::Acquire) < CHUNKS_AT_ONCE
    }

    fn cut(&mut self, _epoch: Epoch) -> Result<BoxFuture<'static, Result<Token>>> {
        self.bytes = 0;
        let (name, rest) = (self.next_name(), std::mem::take(&mut self.rows));
        let (staging, chunks) = (self.staging.clone(), std::mem::take(&mut self.chunks));
        Ok(Box::pin(async move {
            let mut staged = Staged { version: 1, chunks: Vec::new() };
            for chunk in chunks {
                staged.chunks.push(chunk.await.map_err(|error| {
                    Error::internal("staging rows ended early").caused_by(error)
                })??);
            }
            if !rest.is_empty() {
                staged.chunks.push(staging.write(name, rest).await?);
            }
            if staged.chunks.is_empty() {
                return Ok(Token::Null);
            }
            serde_json::to_value(staged)
                .map_err(|error| Error::internal("could not write a token").caused_by(error))
        }))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, StringViewArray};
    use object_store::memory::InMemory;

    use super::*;

    #[derive(Debug)]
    struct NoWake;

    impl Wake for NoWake {
        fn wake(&self) {}
    }

    fn rows(ids: &[i64], kinds: Vec<RowKind>) -> Rows {
        let texts: Vec<String> = ids.iter().map(|id| format!("number {id}, at length")).collect();
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef),
            ("text", Arc::new(StringViewArray::from_iter_values(texts))),
        ]);
        Rows::changes(batch.expect("two columns"), kinds)
    }

    fn shown(rows: &[Rows]) -> Vec<String> {
        let show = |rows: &Rows| {
            let ids = rows.batch().column(0).as_primitive::<arrow::datatypes::Int64Type>().clone();
            let of = |row: usize| format!("{} {}", rows.kind(row).short(), ids.value(row));
            (0..rows.len()).map(of).collect::<Vec<_>>()
        };
        rows.iter().flat_map(show).collect()
    }

    #[tokio::test]
    async fn rows_and_their_kinds_are_read_as_they_were_written() {
        use RowKind::{Delete, Insert, UpdateAfter, UpdateBefore};
        let staging = Staging::default();
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        staging.keep_in(Arc::clone(&store));
        let wake: Arc<dyn Wake> = Arc::new(NoWake);
        let mut writer = staging.writer(Generation(1), 0, &wake);
        assert!(writer.cut(Epoch(1)).expect("a cut").await.expect("staged").is_null());
        writer.write(rows(&[1, 2], vec![Insert; 2])).expect("written");
        writer.write(rows(&[1, 1, 2], vec![UpdateBefore, UpdateAfter, Delete])).expect("written");
        let small = writer.cut(Epoch(2)).expect("a cut").await.expect("staged");
        let read = staging.read(&small).await.expect("it is there");
        assert_eq!(shown(&read), ["+I 1", "+I 2", "-U 1", "+U 1", "-D 2"]);
        assert!(read[0].kinds().is_none() && read[1].kinds().is_some());
        // Many go into the store, and into several objects.
        let many: Vec<i64> = (0..100_000).collect();
        for _ in 0..8 {
            writer.write(rows(&many, vec![Insert; many.len()])).expect("written");
        }
        let large = writer.cut(Epoch(3)).expect("a cut").await.expect("staged");
        let objects = large["chunks"].as_array().expect("chunks");
        assert!(objects.len() > 1, "{large}");
        let read = staging.read(&large).await.expect("it is there");
        assert_eq!(read.iter().map(Rows::len).sum::<usize>(), 800_000);
        // One that is damaged is not taken for rows.
        let path = Path::from(objects[0]["object"].as_str().expect("a path"));
        store.put(&path, PutPayload::from_static(b"other")).await.expect("put");
        let error = staging.read(&large).await.expect_err("damaged");
        assert!(error.message().contains("damaged"), "{error:?}");
        staging.forget(&[&large]).await;
        let left: Vec<_> = store.list(None).try_collect().await.expect("a list");
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn what_dead_instances_left_is_swept() {
        let staging = Staging::default();
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        staging.keep_in(Arc::clone(&store));
        let wake: Arc<dyn Wake> = Arc::new(NoWake);
        let many: Vec<i64> = (0..1_000).collect();
        for (generation, epoch) in [(1, 4), (2, 5), (3, 6)] {
            let mut writer = staging.writer(Generation(generation), 0, &wake);
            writer.write(rows(&many, vec![RowKind::Insert; 1_000])).expect("written");
            writer.cut(Epoch(epoch)).expect("a cut").await.expect("staged");
        }
        staging.sweep(Generation(3)).await;
        let left: Vec<_> = store.list(None).try_collect().await.expect("a list");
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
