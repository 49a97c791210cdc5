//! Corrections of bad records, kept beside the lake: immutable files, one a batch of corrections.
//!
//! `_freshet/overlays/<source>/<sequence>.json` is written with a conditional put, so that two
//! replays at once cannot take the same sequence. A correction holds for every later reading of
//! the content that it belongs to, whatever the file is called by then.

use std::collections::BTreeMap;
use std::sync::Arc;

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
}

#[derive(Debug, Serialize, Deserialize)]
struct BatchFile {
    format: u32,
    source: SourceId,
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
    let what = || format!("could not read the corrections of source \"{source}\"");
    let mut files: Vec<_> =
        store.list(Some(&folder(source))).try_collect().await.or_code(code::LAKE, what)?;
    files.sort_by(|a, b| a.location.cmp(&b.location));
    let mut overlay = Overlay::default();
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
        for entry in batch.corrections {
            let (_, corrections) =
                overlay.contents.entry(entry.digest).or_insert((entry.size, BTreeMap::new()));
            corrections.insert(entry.correction.offset, entry.correction);
        }
    }
    Ok(overlay)
}

/// Adds corrections; those that the overlay holds already, to the byte, are left out, so that
/// replaying twice changes nothing. Returns how many were new.
pub async fn add(
    store: &Arc<dyn ObjectStore>,
    source: &SourceId,
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
                .is_none_or(|old| old.bytes != new.bytes)
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
        }
    }

    #[tokio::test]
    async fn replaying_twice_adds_nothing() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let source = SourceId::of("pos", "sales");
        let given = vec![correction(7, b"a,b"), correction(20, b"\xff,c")];
        assert_eq!(add(&store, &source, given.clone()).await.expect("adds"), 2);
        assert_eq!(add(&store, &source, given).await.expect("adds"), 0);
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
        add(&store, &source, vec![correction(7, b"one")]).await.expect("adds");
        add(&store, &source, vec![correction(7, b"two")]).await.expect("adds");
        let overlay = load(&store, &source).await.expect("loads");
        let (_, corrections) = &overlay.contents[&ContentDigest("d1".into())];
        assert_eq!(corrections[&7].bytes, b"two");
        assert_eq!(corrections[&7].sequence, 2);
    }
}
