//! A log as a source without an end, and as something that records are pushed to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use freshet_core::error::{Error, Result, code};
use freshet_core::format::{Decoding, Message, MessageDecoder, ReadSpec};
use freshet_core::ingest::{AppendRequest, Appended, Ingest, Record};
use freshet_core::record::{Decoded, Reject};
use freshet_core::source::Position;
use freshet_core::stream::{BlockDecoder, Fetcher, Partition, StreamSource, Wait};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::LogOptions;
use super::consumers;
use super::decode::LogDecoder;
use super::place::Place;
use super::reader::{LogFetcher, blocking};
use super::service::EventLog;
use super::writer::Settled;
use crate::messages::MessageFormat;

/// A log that is read.
#[derive(Debug)]
pub(super) struct LogSource {
    pub place: Place,
    pub options: LogOptions,
    pub format: Arc<dyn MessageFormat>,
    pub schema: SchemaRef,
    pub told: watch::Sender<Option<Settled>>,
}

#[async_trait]
impl StreamSource for LogSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn partitions(&self) -> Result<Vec<Partition>> {
        Ok((0..self.place.partitions).map(|number| Partition(number.to_string())).collect())
    }

    async fn fetcher(&self) -> Result<Box<dyn Fetcher>> {
        let poll = self.options.poll_interval.0;
        Ok(Box::new(LogFetcher::new(self.place.clone(), self.told.subscribe(), poll)))
    }

    fn decoder(&self, projection: &[usize]) -> Result<Box<dyn BlockDecoder>> {
        let most = self.options.max_record_bytes.as_usize();
        Ok(Box::new(LogDecoder::new(&*self.format, &self.schema, projection, most)?))
    }

    fn waits(&self) -> Vec<Wait> {
        self.format.waits()
    }

    /// Where this process writes the log; how far another one has come nobody tells.
    fn ends(&self) -> BTreeMap<Partition, Position> {
        let told = self.told.borrow();
        let settled = told.as_deref().unwrap_or_default();
        let ends = (0..)
            .zip(settled)
            .map(|(number, end): (u32, &u64)| (Partition(number.to_string()), Position(*end)));
        ends.collect()
    }

    async fn publish(&self, positions: &BTreeMap<Partition, Position>) -> Result<()> {
        let (place, name) = (self.place.clone(), self.options.consumer.clone());
        let positions = positions.clone();
        blocking(move || consumers::commit(&place, &name, &positions)).await
    }
}

/// A log that is pushed to.
pub(super) struct LogIngest {
    pub log: Arc<EventLog>,
    pub format: Arc<dyn MessageFormat>,
    /// What sources call it.
    pub format_name: String,
    pub max_record_bytes: usize,
    /// Decoders that wait for the next request.
    pub idle: Arc<Mutex<Vec<Box<dyn MessageDecoder>>>>,
}

/// Requests up to this size are looked at where they arrive, larger ones on a thread of their own.
const SMALL: usize = 64 << 10;
/// How often records are looked at that need something which is still being fetched, and the time
/// between: five seconds in all.
const TRIES: usize = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);
/// Decoders that are kept.
const IDLE: usize = 16;

#[async_trait]
impl Ingest for LogIngest {
    fn format(&self) -> &str {
        &self.format_name
    }

    async fn append(&self, request: AppendRequest) -> Result<Appended> {
        self.log.check(&request)?;
        let strict = request.strict;
        let records = request.records.len() as u64;
        let bytes: usize = request.records.iter().map(|record| record.value.len()).sum();
        let mut request = request;
        let mut tries = 0;
        let rejects = loop {
            let looked;
            (looked, request) = if bytes <= SMALL {
                (self.look_at(&request.records)?, request)
            } else {
                let looking = Self {
                    log: Arc::clone(&self.log),
                    format: Arc::clone(&self.format),
                    format_name: self.format_name.clone(),
                    max_record_bytes: self.max_record_bytes,
                    idle: Arc::clone(&self.idle),
                };
                blocking(move || Ok((looking.look_at(&request.records)?, request))).await?
            };
            if let Some(rejects) = looked {
                break rejects;
            }
            tries += 1;
            if tries > TRIES {
                let waits = self.format.waits();
                let reason = waits.first().map_or("something", |wait| wait.what.as_str());
                let message = format!("records cannot be looked at yet: they wait for {reason}");
                return Err(Error::new(code::SOURCE, message).retryable());
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        };
        let accepted = records - rejects.len() as u64;
        if strict && !rejects.is_empty() {
            return Ok(Appended { kept: false, accepted, rejects, ..Appended::default() });
        }
        let appended = self.log.append(request).await?;
        Ok(Appended { accepted, rejects, ..appended })
    }
}

impl LogIngest {
    /// What the contract says of records: those that it does not accept, by their numbers. `None`
    /// where that cannot be said yet.
    fn look_at(&self, records: &[Record]) -> Result<Option<Vec<Reject>>> {
        let idle = self.idle.lock().pop();
        let mut decoder = match idle {
            Some(decoder) => decoder,
            None => self.format.decoder(&ReadSpec {
                max_record_bytes: self.max_record_bytes,
                ..ReadSpec::default()
            })?,
        };
        let mut decoded = Decoded::default();
        let mut messages = Vec::with_capacity(records.len());
        let bytes = match records {
            [record] => {
                messages.push(message(0, record.value.len(), 0)?);
                record.value.clone()
            }
            _ => {
                let len = records.iter().map(|record| record.value.len() + 1).sum();
                let mut bytes = BytesMut::with_capacity(len);
                for (number, record) in records.iter().enumerate() {
                    messages.push(message(bytes.len(), record.value.len(), number)?);
                    bytes.extend_from_slice(&record.value);
                    bytes.extend_from_slice(b"\n");
                }
                Bytes::from(bytes)
            }
        };
        // Where the contract freezes, a bad record is an error here, and nothing is kept.
        let decoding = decoder.decode(&bytes, &messages, &mut decoded)?;
        let mut idle = self.idle.lock();
        if idle.len() < IDLE {
            idle.push(decoder);
        }
        Ok((decoding == Decoding::Done).then_some(decoded.rejects))
    }
}

fn message(start: usize, len: usize, number: usize) -> Result<Message> {
    let place = |at: usize| {
        u32::try_from(at).map_err(|_| Error::new(code::LIMIT, "a request has 4 GiB or more"))
    };
    Ok(Message { start: place(start)?, end: place(start + len)?, position: number as u64 })
}

impl fmt::Debug for LogIngest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogIngest").field("log", &self.log).finish_non_exhaustive()
    }
}
