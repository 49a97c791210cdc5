//! Corrections of bad records, kept beside the lake: immutable files, one a batch of corrections.
//!
//! `_freshet/overlays/<source>/<sequence>.json` is written with a conditional put, so that two
//! replays at once cannot take the same sequence. A correction holds for every later reading of
//! the content that it belongs to, whatever the file is called by then.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use freshet_core::error::code;
use freshet_core::source::{ContentDigest, Correction, Overlay};
use freshet_core::{Error, Result, ResultExt, SourceId};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

/// Version of the file format.
const FORMAT: u32 = 1;

/// A correction that a user gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCorrection {
    /// Identity of the file's content, as the dead letter has it.
    pub digest: ContentDigest,
    /// Bytes of the file.
    pub size: u64,
    /// Offset of the record, as the dead letter has it.
    pub offset: u64,
    /// The corrected record; empty drops it.
    pub bytes: Vec<u8>,
    /// Whether a correction with the same bytes was given before and rejected, so that it is given
    /// once more, to a contract that was mended.
    pub again: bool,
}

/// A correction as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// When; `None` of the first corrections that were kept, which did not say.
    pub at: Option<DateTime<Utc>>,
    /// The corrected record; empty where it is dropped.
    pub bytes: Vec<u8>,
}

impl Given {
    /// Whether it was rejected: the dead letter that holds `raw` was written at `at`.
    pub fn is_rejected_by(&self, raw: &[u8], at: DateTime<Utc>) -> bool {
        self.bytes == raw && self.at.is_some_and(|given| at > given)
    }
}

/// The corrections of a source that hold, by content and offset.
pub type AllGiven = BTreeMap<(ContentDigest, u64), Given>;

#[derive(Debug, Serialize, Deserialize)]
struct BatchFile {
    format: u32,
    source: SourceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<DateTime<Utc>>,
    corrections: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    digest: ContentDigest,
    size: u64,
    #[serde(flatten)]
    correction: Correction,
}

fn folder(source: &SourceId) -> Path {
    Path::from_iter(["_freshet", "overlays", source.as_str()])
}

/// Reads all corrections of a source. Later ones replace earlier ones of the same record.
pub async fn load(store: &Arc<dyn ObjectStore>, source: &SourceId) -> Result<Overlay> {
    let mut overlay = Overlay::default();
    for entry in read(store, source).await?.into_iter().flat_map(|batch| batch.corrections) {
        let (_, corrections) =
            overlay.contents.entry(entry.digest).or_insert((entry.size, BTreeMap::new()));
        corrections.insert(entry.correction.offset, entry.correction);
    }
    Ok(overlay)
}

/// Reads when each correction of a source that holds was given.
pub async fn given(store: &Arc<dyn ObjectStore>, source: &SourceId) -> Result<AllGiven> {
    let mut given = AllGiven::new();
    for batch in read(store, source).await? {
        given.extend(batch.corrections.into_iter().map(|entry| {
            let Correction { offset, bytes, .. } = entry.correction;
            ((entry.digest, offset), Given { at: batch.at, bytes })
        }));
    }
    Ok(given)
}

/// All batches in the order in which they were given.
async fn read(store: &Arc<dyn ObjectStore>, source: &SourceId) -> Result<Vec<BatchFile>> {
    let what = || format!("could not read the corrections of source \"{source}\"");
    let mut files: Vec<_> =
        store.list(Some(&folder(source))).try_collect().await.or_code(code::LAKE, what)?;
    files.sort_by(|a, b| a.location.cmp(&b.location));
    let mut batches = Vec::with_capacity(files.len());
    for file in files {
        let bytes = store
            .get(&file.location)
            .await
            .or_code(code::LAKE, what)?
            .bytes()
            .await
            .or_code(code::LAKE, what)?;
        let batch: BatchFile = serde_json::from_slice(&bytes).or_code(code::LAKE, || {
            format!("could not read corrections file \"{}\"", file.location)
        })?;
        if batch.format != FORMAT {
            return Err(Error::new(
                code::LAKE,
                format!("corrections file \"{}\" has format {}", file.location, batch.format),
            )
            .hint("it was written by a newer Freshet; use that version"));
        }
        batches.push(batch);
    }
    Ok(batches)
}

/// Adds corrections; those that the overlay holds already, to the byte, are left out, so that
/// replaying twice changes nothing. Returns how many were new.
pub async fn add(
    store: &Arc<dyn ObjectStore>,
    source: &SourceId,
    at: DateTime<Utc>,
    corrections: Vec<NewCorrection>,
) -> Result<usize> {
    let overlay = load(store, source).await?;
    let fresh: Vec<_> = corrections
        .into_iter()
        .filter(|new| {
            overlay
                .contents
                .get(&new.digest)
                .and_then(|(_, corrections)| corrections.get(&new.offset))
                .is_none_or(|old| old.bytes != new.bytes || new.again)
        })
        .collect();
    if fresh.is_empty() {
        return Ok(0);
    }
    let sequence = overlay.last_sequence() + 1;
    let count = fresh.len();
    let batch = BatchFile {
        format: FORMAT,
        source: source.clone(),
        at: Some(at),
        corrections: fresh
            .into_iter()
            .map(|new| Entry {
                digest: new.digest,
                size: new.size,
                correction: Correction { sequence, offset: new.offset, bytes: new.bytes },
            })
            .collect(),
    };
    let path = folder(source).join(format!("{sequence:020}.json"));
    let bytes = serde_json::to_vec(&batch)
        .map_err(|error| Error::internal("could not write corrections").caused_by(error))?;
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    store.put_opts(&path, bytes.into(), options).await.map_err(|error| {
        let taken = matches!(error, object_store::Error::AlreadyExists { .. });
        let ours =
            Error::new(code::LAKE, format!("could not write corrections of source \"{source}\""))
                .caused_by(error);
        if taken { ours.hint("another replay was faster; run it again").retryable() } else { ours }
    })?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn correction(offset: u64, bytes: &[u8]) -> NewCorrection {
        NewCorrection {
            digest: ContentDigest("d1".into()),
            size: 100,
            offset,
            bytes: bytes.to_vec(),
            again: false,
        }
    }

    #[tokio::test]
    async fn replaying_twice_adds_nothing() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let source = SourceId::of("pos", "sales");
        let given = vec![correction(7, b"a,b"), correction(20, b"\xff,c")];
        assert_eq!(
            add(&store, &source, DateTime::UNIX_EPOCH, given.clone()).await.expect("adds"),
            2
        );
        assert_eq!(add(&store, &source, DateTime::UNIX_EPOCH, given).await.expect("adds"), 0);
        let overlay = load(&store, &source).await.expect("loads");
        assert_eq!(overlay.last_sequence(), 1);
        let (size, corrections) = &overlay.contents[&ContentDigest("d1".into())];
        assert_eq!(*size, 100);
        assert_eq!(corrections[&20].bytes, b"\xff,c");
    }

    #[tokio::test]
    async fn a_later_correction_replaces_an_earlier_one() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let source = SourceId::of("pos", "sales");
        add(&store, &source, DateTime::UNIX_EPOCH, vec![correction(7, b"one")])
            .await
            .expect("adds");
        add(&store, &source, DateTime::UNIX_EPOCH, vec![correction(7, b"two")])
            .await
            .expect("adds");
        let overlay = load(&store, &source).await.expect("loads");
        let (_, corrections) = &overlay.contents[&ContentDigest("d1".into())];
        assert_eq!(corrections[&7].bytes, b"two");
        assert_eq!(corrections[&7].sequence, 2);
    }
}
