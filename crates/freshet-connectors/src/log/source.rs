//! A log as a source without an end, and as something that records are pushed to.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use freshet_core::error::{Error, Result, code};
use freshet_core::ingest::{AppendRequest, Appended, Ingest, Record};
use freshet_core::source::Position;
use freshet_core::stream::{BlockDecoder, Fetcher, Partition, StreamSource, Wait};
use tokio::sync::watch;

use super::LogOptions;
use super::consumers;
use super::decode::LogDecoder;
use super::frame;
use super::place::Place;
use super::reader::{LogFetcher, blocking};
use super::service::EventLog;
use super::writer::Settled;
use crate::messages::{Judge, MessageFormat};

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

    fn block_of(
        &self,
        partition: &Partition,
        position: Position,
        record: &[u8],
        at: i64,
    ) -> Result<Option<Bytes>> {
        let number = partition.0.parse().map_err(|_| {
            let message = format!("an event log has no partition \"{}\"", partition.0);
            Error::new(code::SOURCE, message)
        })?;
        let record = Record { key: None, value: Bytes::copy_from_slice(record) };
        let mut block = Vec::new();
        frame::encode(number, position.0, position.0, at, &[record], None, &mut block);
        Ok(Some(block.into()))
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
#[derive(Debug)]
pub(super) struct LogIngest {
    pub log: Arc<EventLog>,
    pub judge: Judge,
    /// What sources call its format.
    pub format_name: String,
}

#[async_trait]
impl Ingest for LogIngest {
    fn format(&self) -> &str {
        &self.format_name
    }

    async fn append(&self, mut request: AppendRequest) -> Result<Appended> {
        self.log.check(&request)?;
        let (records, rejects) = self.judge.judge(request.records).await?;
        let accepted = (records.len() - rejects.len()) as u64;
        if request.strict && !rejects.is_empty() {
            return Ok(Appended { kept: false, accepted, rejects, ..Appended::default() });
        }
        request.records = records;
        let appended = self.log.append(request).await?;
        Ok(Appended { accepted, rejects, ..appended })
    }
}
