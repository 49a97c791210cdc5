//! Corrections of the bad records of streams, kept beside the lake: immutable files, one a replay.
//!
//! `_freshet/corrections/<source>/<number>.json` is written with a conditional put, where none of its
//! number is. Jobs read them one after another, those that run within seconds (see
//! [`freshet_core::stream::StreamCorrections`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use freshet_core::error::code;
use freshet_core::source::{Correction, Position};
use freshet_core::stream::{Partition, StreamCorrection, StreamCorrections};
use freshet_core::{Error, Result, ResultExt, SourceId};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use crate::overlay::Given;

/// Version of the file format.
const FORMAT: u32 = 1;

/// Bits of a correction's number that say which one of its file it is.
const PLACES: u32 = 20;

/// Corrections of one replay.
pub const MAX_CORRECTIONS: usize = 1 << PLACES;

/// A correction that a user gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCorrection {
    /// The partition of the bad record.
    pub partition: String,
    /// Its position there.
    pub position: u64,
    /// The corrected record; empty drops it.
    pub bytes: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: u32,
    source: SourceId,
    at: DateTime<Utc>,
    corrections: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    partition: String,
    /// Its offset is the record's position.
    #[serde(flatten)]
    correction: Correction,
}

/// The corrections of one source.
#[derive(Debug, Clone)]
pub struct SourceCorrections {
    store: Arc<dyn ObjectStore>,
    source: SourceId,
}

impl SourceCorrections {
    /// Those of `source` beside the lake in `store`.
    pub fn new(store: &Arc<dyn ObjectStore>, source: &SourceId) -> Self {
        Self { store: Arc::clone(store), source: source.clone() }
    }

    fn path(&self, number: u64) -> Path {
        let file = format!("{number:020}.json");
        Path::from_iter(["_freshet", "corrections", self.source.as_str(), &file])
    }

    /// The file of this number, where it is there.
    async fn read(&self, number: u64) -> Result<Option<File>> {
        let what = || format!("could not read the corrections of source \"{}\"", self.source);
        let bytes = match self.store.get(&self.path(number)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            got => got.or_code(code::LAKE, what)?.bytes().await.or_code(code::LAKE, what)?,
        };
        let file: File = serde_json::from_slice(&bytes).or_code(code::LAKE, || {
            format!("could not read corrections file \"{}\"", self.path(number))
        })?;
        if file.format != FORMAT {
            let message =
                format!("corrections file \"{}\" has format {}", self.path(number), file.format);
            return Err(Error::new(code::LAKE, message)
                .hint("it was written by a newer Freshet; use that version"));
        }
        Ok(Some(file))
    }

    /// When each correction that holds was given, by partition and position; and how many files there
    /// are.
    pub async fn given(&self) -> Result<(BTreeMap<(String, u64), Given>, u64)> {
        let (mut given, mut files) = (BTreeMap::new(), 0);
        while let Some(file) = self.read(files + 1).await? {
            files += 1;
            for Entry { partition, correction } in file.corrections {
                let place = (partition, correction.offset);
                given.insert(place, Given { at: Some(file.at), bytes: correction.bytes });
            }
        }
        Ok((given, files))
    }

    /// Keeps corrections, of which there is at least one, behind the `files` that there are.
    pub async fn add(
        &self,
        files: u64,
        at: DateTime<Utc>,
        corrections: Vec<NewCorrection>,
    ) -> Result<()> {
        if corrections.len() > MAX_CORRECTIONS {
            let message = format!("more than {MAX_CORRECTIONS} corrections are given at once");
            return Err(Error::new(code::LIMIT, message).hint("give them in several goes"));
        }
        let number = files + 1;
        let entries = corrections.into_iter().zip(0..).map(|(new, place)| Entry {
            partition: new.partition,
            correction: Correction {
                sequence: number << PLACES | place,
                offset: new.position,
                bytes: new.bytes,
            },
        });
        let corrections = entries.collect();
        let file = File { format: FORMAT, source: self.source.clone(), at, corrections };
        let bytes = serde_json::to_vec(&file)
            .map_err(|error| Error::internal("could not write corrections").caused_by(error))?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.store.put_opts(&self.path(number), bytes.into(), options).await;
        put.map(drop).map_err(|error| {
            let taken = matches!(error, object_store::Error::AlreadyExists { .. });
            let message = format!("could not write corrections of source \"{}\"", self.source);
            let ours = Error::new(code::LAKE, message).caused_by(error);
            if taken {
                ours.hint("another replay was faster; run it again").retryable()
            } else {
                ours
            }
        })
    }
}

#[async_trait]
impl StreamCorrections for SourceCorrections {
    async fn since(&self, after: u64) -> Result<Vec<StreamCorrection>> {
        let mut number = after >> PLACES;
        let mut corrections = Vec::new();
        loop {
            // Whoever was given one of a file was given all of it.
            number += 1;
            let Some(file) = self.read(number).await? else { return Ok(corrections) };
            corrections.extend(file.corrections.into_iter().map(|entry| StreamCorrection {
                sequence: entry.correction.sequence,
                partition: Partition(entry.partition),
                position: Position(entry.correction.offset),
                record: entry.correction.bytes.into(),
                at: file.at.timestamp_micros(),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn new(position: u64, bytes: &[u8]) -> NewCorrection {
        NewCorrection { partition: "0".into(), position, bytes: bytes.to_vec() }
    }

    #[tokio::test]
    async fn each_correction_is_given_once_and_the_latest_of_a_record_holds() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let corrections = SourceCorrections::new(&store, &SourceId::of("shop", "orders"));
        assert_eq!(corrections.since(0).await.expect("there are none"), []);
        let at = DateTime::UNIX_EPOCH;
        corrections.add(0, at, vec![new(7, b"one"), new(9, b"")]).await.expect("it is kept");
        let first = corrections.since(0).await.expect("they are read");
        assert_eq!(first.len(), 2);
        assert!(first[0].sequence < first[1].sequence);
        let last = first[1].sequence;
        assert_eq!(corrections.since(last).await.expect("there are no more"), []);
        corrections.add(0, at, vec![new(7, b"two")]).await.expect_err("the number is taken");
        corrections.add(1, at, vec![new(7, b"\xfftwo")]).await.expect("it is kept");
        let more = corrections.since(last).await.expect("it is read");
        assert_eq!(more.len(), 1);
        assert_eq!(&more[0].record[..], b"\xfftwo");
        let (given, files) = corrections.given().await.expect("they are read");
        assert_eq!((given[&("0".to_owned(), 7)].bytes.as_slice(), files), (&b"\xfftwo"[..], 2));
    }
}
