#![allow(clippy::unwrap_used)]

mod crashes;
mod full;
mod service;
mod storage;
mod stream;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use freshet_core::Result;
use freshet_core::clock::{Clock, ManualClock};
use freshet_core::config::ByteSize;
use freshet_core::files::FileSystem;
use freshet_core::ingest::{Appended, IdempotencyKey, Record};
use freshet_testkit::FaultFs;
use tokio::sync::watch;

use super::place::Place;
use super::writer::{Draft, Writer};
use super::{LogOptions, frame, segment};

const ROOT: &str = "/data/log";
/// Microseconds.
const HOUR: i64 = 3_600_000_000;

/// A log on a file system that forgets.
struct Bench {
    files: Arc<FaultFs>,
    clock: Arc<ManualClock>,
    options: LogOptions,
    writer: Option<Writer>,
    turn: u64,
}

impl Bench {
    fn new(seed: u64, options: LogOptions) -> Self {
        Self::over(FaultFs::new(seed), options)
    }

    fn over(files: FaultFs, options: LogOptions) -> Self {
        let clock = Arc::new(ManualClock::new(1_790_000_000_000_000));
        let mut bench = Self { files: Arc::new(files), clock, options, writer: None, turn: 0 };
        let _ = bench.open();
        bench
    }

    /// Starts the process, again where it ran.
    fn open(&mut self) -> Result<()> {
        self.writer = None;
        let files: Arc<dyn FileSystem> = self.files.clone();
        let place = Place::open(files, PathBuf::from(ROOT), self.options.partitions)?;
        let clock: Arc<dyn Clock> = self.clock.clone();
        let told = watch::Sender::new(None);
        self.writer = Some(Writer::open(place, self.options.clone(), clock, told)?);
        Ok(())
    }

    fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().unwrap()
    }

    fn draft(&mut self, records: &[Record], key: Option<&str>) -> Draft {
        self.turn += 1;
        let digest = digest(records);
        let key = key.map(|name| IdempotencyKey { name: name.to_owned(), digest });
        Draft::new(records.to_vec(), key, self.options.partitions, self.turn)
    }

    fn append(&mut self, records: &[Record], key: Option<&str>) -> Result<Appended> {
        let draft = self.draft(records, key);
        self.writer().commit(vec![draft]).pop().unwrap()
    }

    /// All records of a partition with their offsets, as a slow reader finds them.
    fn read(&self, partition: u32) -> std::result::Result<Vec<(u64, Record)>, String> {
        read(&*self.files, &Path::new(ROOT).join(partition.to_string()))
    }

    fn contents(&self) -> std::result::Result<BTreeMap<u32, Vec<(u64, Record)>>, String> {
        (0..self.options.partitions).map(|number| Ok((number, self.read(number)?))).collect()
    }
}

fn digest(records: &[Record]) -> u128 {
    let text = format!("{records:?}");
    xxhash_rust::xxh3::xxh3_128(text.as_bytes())
}

fn options(partitions: u32) -> LogOptions {
    LogOptions {
        partitions,
        segment_bytes: ByteSize(600),
        retention_time: None,
        ..LogOptions::default()
    }
}

fn read(files: &dyn FileSystem, dir: &Path) -> std::result::Result<Vec<(u64, Record)>, String> {
    let (segments, _) = segment::list(files, dir).map_err(|error| error.to_string())?;
    let mut records = Vec::new();
    let mut offset = segments.first().map_or(0, |segment| segment.base);
    for (index, segment) in segments.iter().enumerate() {
        let end = segments.get(index + 1).map_or(u64::MAX, |next| next.base);
        if segment.base != offset {
            return Err(format!("offset {offset} is missing before {}", segment.base));
        }
        let content = files.read(&segment.path, 0, usize::MAX).map_err(|e| e.to_string())?;
        let mut at = 0;
        while offset < end && at < content.len() {
            let header = match frame::check(&content[at..]) {
                Ok(header) => header,
                Err(_) if end == u64::MAX => break,
                Err(bad) => return Err(format!("{bad:?} at {at} of {}", segment.path.display())),
            };
            if header.base != offset {
                return Err(format!("offset {} instead of {offset}", header.base));
            }
            let found =
                frame::Records::new(&content[at..], &header).map_err(|e| format!("{e:?}"))?;
            for (index, range) in found.values().enumerate() {
                let value = Bytes::copy_from_slice(&content[at..][range]);
                let key = found.key(index).map(Bytes::copy_from_slice);
                records.push((offset, Record { value, key }));
                offset += 1;
            }
            at += header.len;
        }
    }
    Ok(records)
}

fn values(records: &[(u64, Record)]) -> Vec<&str> {
    records.iter().map(|(_, record)| std::str::from_utf8(&record.value).unwrap()).collect()
}
