//! What a contract says of records before they are kept.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use freshet_core::error::{Error, Result, code};
use freshet_core::format::{Decoding, Message, MessageDecoder, ReadSpec};
use freshet_core::ingest::Record;
use freshet_core::record::{Decoded, Reject};
use parking_lot::Mutex;

use super::MessageFormat;

/// Requests up to this size are looked at where they arrive, larger ones on a thread of their own.
const SMALL: usize = 64 << 10;
/// How often records are looked at that need something which is still being fetched, and the time
/// between: five seconds in all.
const TRIES: usize = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);
/// Decoders that are kept.
const IDLE: usize = 16;

/// Tells good records from bad ones.
#[derive(Clone)]
pub struct Judge {
    format: Arc<dyn MessageFormat>,
    max_record_bytes: usize,
    /// Decoders that wait for the next request.
    idle: Arc<Mutex<Vec<Box<dyn MessageDecoder>>>>,
}

impl Judge {
    /// By the contract of `format`.
    pub fn new(format: Arc<dyn MessageFormat>, max_record_bytes: usize) -> Self {
        Self { format, max_record_bytes, idle: Arc::default() }
    }

    /// Those that the contract does not accept, by their numbers; the records come back.
    pub async fn judge(&self, mut records: Vec<Record>) -> Result<(Vec<Record>, Vec<Reject>)> {
        let bytes: usize = records.iter().map(|record| record.value.len()).sum();
        for _ in 0..=TRIES {
            let looked;
            (looked, records) = if bytes <= SMALL {
                (self.look_at(&records)?, records)
            } else {
                let looking = self.clone();
                crate::log::blocking(move || Ok((looking.look_at(&records)?, records))).await?
            };
            if let Some(rejects) = looked {
                return Ok((records, rejects));
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
        let waits = self.format.waits();
        let reason = waits.first().map_or("something", |wait| wait.what.as_str());
        let message = format!("records cannot be looked at yet: they wait for {reason}");
        Err(Error::new(code::SOURCE, message).retryable())
    }

    /// `None` where it cannot be said yet.
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

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("format", &self.format).finish_non_exhaustive()
    }
}
