//! Files that grow as a source without an end: each is a partition, named by what it is known by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use freshet_core::clock::Clock;
use freshet_core::error::{Error, Result, code};
use freshet_core::source::Position;
use freshet_core::stream::{Block, BlockDecoder, Fetcher, Partition, Start, StreamSource, Wait};
use parking_lot::Mutex;

use super::decode::{TailDecoder, schema};
use super::find::{Fingerprint, Found, Pattern, find};
use super::read::{Cursor, Lines};
use super::{TailOptions, TailStart};
use crate::log::blocking;
use crate::messages::MessageFormat;

/// Some files, read as they grow.
#[derive(Debug)]
pub(super) struct TailSource {
    shared: Arc<Shared>,
    format: Arc<dyn MessageFormat>,
    schema: SchemaRef,
}

#[derive(Debug)]
struct Shared {
    options: TailOptions,
    pattern: Pattern,
    clock: Arc<dyn Clock>,
    names: Arc<Names>,
    /// Since when there is nothing to read, or why it could not be looked.
    wait: Mutex<Option<Wait>>,
    /// How often it was looked which files there are.
    searches: AtomicU64,
}

/// What is known of each file.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<BTreeMap<Fingerprint, Known>>);

#[derive(Debug, Clone)]
struct Known {
    /// Where it was when it was looked at last.
    found: Found,
    /// Its name when it was found first.
    name: Arc<str>,
    /// How large it was when files were first looked for, where it was there.
    first: Option<u64>,
    /// The search that found it last.
    search: u64,
}

impl Names {
    /// The name of a file when it was found.
    pub fn of(&self, partition: &Partition) -> Arc<str> {
        let known = self.0.lock();
        let print = Fingerprint::from_str_radix(&partition.0, 16).ok();
        print.and_then(|print| known.get(&print)).map_or_else(|| "".into(), |k| Arc::clone(&k.name))
    }
}

fn partition(print: Fingerprint) -> Partition {
    Partition(format!("{print:032x}"))
}

impl TailSource {
    pub fn new(
        options: TailOptions,
        pattern: Pattern,
        format: Arc<dyn MessageFormat>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let schema = schema(&*format)?;
        let shared = Arc::new(Shared {
            options,
            pattern,
            clock,
            names: Arc::default(),
            wait: Mutex::default(),
            searches: AtomicU64::new(0),
        });
        Ok(Self { shared, format, schema })
    }
}

impl Shared {
    /// Looks which files there are.
    fn look(&self) -> Result<Vec<Partition>> {
        let found = find(&self.pattern, &self.options);
        let reason = match &found {
            Ok(found) if !found.is_empty() => None,
            Ok(_) => Some("no file is there, or none has a whole line".to_owned()),
            Err(error) => Some(error.chain()),
        };
        let mut wait = self.wait.lock();
        *wait = reason.map(|reason| Wait {
            what: format!("files \"{}\"", self.pattern.text()),
            reason,
            since: wait.as_ref().map_or_else(|| self.clock.now_micros(), |wait| wait.since),
        });
        drop(wait);
        let found = found?;
        let mut names = self.names.0.lock();
        let search = self.searches.fetch_add(1, Ordering::SeqCst) + 1;
        for (print, found) in found {
            match names.get_mut(&print) {
                Some(known) => (known.found, known.search) = (found, search),
                None => {
                    let name = self.pattern.name(&found.path).into();
                    let first = (search == 1).then_some(found.size);
                    names.insert(print, Known { found, name, first, search });
                }
            }
        }
        Ok(names.keys().map(|print| partition(*print)).collect())
    }
}

#[async_trait]
impl StreamSource for TailSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn partitions(&self) -> Result<Vec<Partition>> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.look()).await
    }

    async fn fetcher(&self) -> Result<Box<dyn Fetcher>> {
        Ok(Box::new(TailFetcher { shared: Arc::clone(&self.shared), cursors: Vec::new(), turn: 0 }))
    }

    fn decoder(&self, projection: &[usize]) -> Result<Box<dyn BlockDecoder>> {
        Ok(Box::new(TailDecoder::new(
            &*self.format,
            &self.schema,
            projection,
            self.shared.options.max_record_bytes.as_usize(),
            Arc::clone(&self.shared.names),
        )?))
    }

    fn block_of(
        &self,
        _partition: &Partition,
        _position: Position,
        record: &[u8],
        _at: i64,
    ) -> Result<Option<Bytes>> {
        if record.contains(&b'\n') {
            return Err(Error::new(code::DEAD_LETTER, "a record of a file is one line"));
        }
        Ok(Some(Bytes::copy_from_slice(record)))
    }

    fn waits(&self) -> Vec<Wait> {
        self.shared.wait.lock().iter().cloned().collect()
    }

    fn discovery_interval(&self) -> Option<Duration> {
        Some(self.shared.options.discovery_interval.0)
    }
}

/// Fetches the lines of some files.
#[derive(Debug)]
struct TailFetcher {
    shared: Arc<Shared>,
    cursors: Vec<Cursor>,
    /// The file that is looked at first.
    turn: usize,
}

#[async_trait]
impl Fetcher for TailFetcher {
    async fn add(&mut self, partition: &Partition, start: Start) -> Result<Option<Position>> {
        let print = Fingerprint::from_str_radix(&partition.0, 16).ok();
        let known = print.and_then(|print| self.shared.names.0.lock().get(&print).cloned());
        let (Some(print), Some(known)) = (print, known) else {
            let message = format!("there is no file \"{}\" to read", partition.0);
            return Err(Error::new(code::SOURCE, message));
        };
        let behind = match (start, self.shared.options.start) {
            (Start::At(position), _) => position.0,
            (Start::Latest, _) => known.found.size,
            // A file that is new is read from its start.
            (Start::Configured, TailStart::Latest) => known.first.unwrap_or(0),
            (Start::Earliest | Start::Configured, _) => 0,
        };
        self.cursors.push(Cursor::new(print, known.found.path, behind));
        Ok(Some(Position(behind)))
    }

    async fn fetch(&mut self) -> Result<Option<Block>> {
        loop {
            let due = self.due();
            if !due.is_empty() {
                let shared = Arc::clone(&self.shared);
                // What is dropped on the way is read again: cursors here move with the block.
                let looked = blocking(move || look_at(&shared, due)).await?;
                for (index, cursor) in looked.cursors {
                    self.turn = index + 1;
                    self.cursors[index] = cursor;
                }
                if let Some((index, lines)) = looked.lines {
                    return Ok(Some(Block {
                        partition: index,
                        next: Position(lines.offset + lines.bytes.len() as u64),
                        bytes: lines.bytes,
                        position: Position(lines.offset),
                        written: None,
                    }));
                }
            }
            tokio::time::sleep(self.shared.options.poll_interval.0).await;
        }
    }
}

/// A cursor and its number.
type Numbered = (usize, Cursor);

/// What looking at files came to.
struct Looked {
    /// Those that were looked at, moved on.
    cursors: Vec<Numbered>,
    /// What the last one of them has.
    lines: Option<(usize, Lines)>,
}

impl TailFetcher {
    /// The files that are to be looked at now, from the one whose turn it is.
    fn due(&mut self) -> Vec<Numbered> {
        let now = self.shared.clock.now_micros();
        let names = self.shared.names.0.lock();
        let mut due = Vec::new();
        for turn in 0..self.cursors.len() {
            let index = (self.turn + turn) % self.cursors.len();
            let cursor = &mut self.cursors[index];
            if let Some(search) = cursor.gone {
                match names.get(&cursor.print()) {
                    Some(known) if known.search > search => cursor.revive(&known.found.path),
                    _ => continue,
                }
            }
            if cursor.look <= now {
                due.push((index, cursor.clone()));
            }
        }
        due
    }
}

/// Looks at files until one has something; all that were looked at are given back.
fn look_at(shared: &Shared, due: Vec<Numbered>) -> Result<Looked> {
    let now = shared.clock.now_micros();
    let search = shared.searches.load(Ordering::SeqCst);
    let mut looked = Looked { cursors: Vec::with_capacity(due.len()), lines: None };
    for (index, mut cursor) in due {
        let lines = cursor.step(&shared.pattern, &shared.options, now, search)?;
        looked.cursors.push((index, cursor));
        if let Some(lines) = lines {
            looked.lines = Some((index, lines));
            break;
        }
    }
    Ok(looked)
}
