//! A topic that records are pushed to: each request is acknowledged before it is answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use freshet_core::clock::Clock;
use freshet_core::error::{Error, Result, code};
use freshet_core::ingest::{AppendRequest, Appended, Ingest, Record};
use freshet_core::registry::{ConnectorContext, SourceSpec};
use tokio::sync::Mutex;

use super::batch::{BatchBuilder, partition_of};
use super::client::Cluster;
use super::delivery::Delivery;
use super::options::KafkaOptions;
use crate::formats::Format;
use crate::messages::{self, Judge};

/// Pushes to the topic of a source. Requests go out one after another.
#[derive(Debug)]
pub struct KafkaIngest {
    options: KafkaOptions,
    cluster: Arc<Cluster>,
    topic: Arc<str>,
    format_name: String,
    judge: Judge,
    clock: Arc<dyn Clock>,
    /// `None` before the first request, and where nobody knows what became of the last.
    delivery: Mutex<Option<Sending>>,
}

#[derive(Debug)]
struct Sending {
    delivery: Delivery,
    partitions: i32,
    /// Where records without a key go next: those of a request stay together.
    turn: i32,
}

impl KafkaIngest {
    /// Pushes to the one topic that `options` name.
    pub fn new(
        options: KafkaOptions,
        spec: &SourceSpec,
        context: &ConnectorContext,
        formats: &[Arc<dyn Format>],
    ) -> Result<Self> {
        let topics = options.topics(&spec.name)?;
        let [topic] = topics.as_slice() else {
            return Err(Error::new(
                code::CONFIG,
                format!("source \"{}\" reads several topics: none can be pushed to", spec.name),
            ));
        };
        let KafkaOptions { format, format_options, max_record_bytes, .. } = &options;
        let format_name = if format == "json" { "ndjson" } else { format }.to_owned();
        let format = messages::open(formats, format, format_options, &spec.contract, context)?;
        Ok(Self {
            cluster: Arc::new(Cluster::new(options.connection(&context.project_dir)?)),
            topic: Arc::clone(topic),
            judge: Judge::new(format, max_record_bytes.as_usize()),
            format_name,
            clock: Arc::clone(&context.clock),
            delivery: Mutex::default(),
            options,
        })
    }

    fn check(&self, request: &AppendRequest) -> Result<()> {
        if request.idempotency.is_some() {
            return Err(Error::new(
                code::CONFIG,
                format!("topic \"{}\" remembers no idempotency keys", self.topic),
            )
            .hint("leave the key out, or push to a source of connector `log`"));
        }
        let most = self.options.max_record_bytes;
        match request.records.iter().position(|record| record.value.len() as u64 > most.0) {
            None => Ok(()),
            Some(number) => Err(Error::new(
                code::LIMIT,
                format!("record {number} has more than `max_record_bytes` ({most})"),
            )),
        }
    }

    async fn start(&self) -> Result<Sending> {
        if let Some(partitions) = self.options.create_partitions {
            self.cluster.ensure_topic(&self.topic, partitions).await?;
        }
        let mut delivery =
            Delivery::start(Arc::clone(&self.cluster), Arc::clone(&self.topic)).await?;
        let partitions = delivery.partitions().await?;
        Ok(Sending { delivery, partitions, turn: 0 })
    }

    /// A batch for each partition.
    fn batches(&self, sending: &mut Sending, records: &[Record]) -> Result<BTreeMap<i32, Bytes>> {
        let now = self.clock.now_micros() / 1_000;
        let unkeyed = sending.turn;
        sending.turn = (sending.turn + 1) % sending.partitions.max(1);
        let mut builders: BTreeMap<i32, BatchBuilder> = BTreeMap::new();
        for Record { key, value } in records {
            let key = key.as_deref();
            let partition = key.map_or(unkeyed, |key| partition_of(key, sending.partitions));
            builders.entry(partition).or_default().push(key, Some(value), &[], now);
        }
        let finish = |(partition, mut builder): (i32, BatchBuilder)| {
            let batch = builder.finish(self.options.compression.into()).map_err(|error| {
                Error::internal("records could not be compressed").caused_by(error)
            })?;
            Ok((partition, Bytes::from(batch)))
        };
        builders.into_iter().map(finish).collect()
    }
}

#[async_trait]
impl Ingest for KafkaIngest {
    fn format(&self) -> &str {
        &self.format_name
    }

    async fn append(&self, request: AppendRequest) -> Result<Appended> {
        self.check(&request)?;
        let (records, rejects) = self.judge.judge(request.records).await?;
        let accepted = (records.len() - rejects.len()) as u64;
        if request.strict && !rejects.is_empty() {
            return Ok(Appended { kept: false, accepted, rejects, ..Appended::default() });
        }
        let mut delivery = self.delivery.lock().await;
        // Taken: where this is given up in the midst, nobody goes on with its numbers.
        let mut sending = match delivery.take() {
            Some(sending) => sending,
            None => self.start().await?,
        };
        let batches = self.batches(&mut sending, &records)?;
        let patience = self.options.request_timeout.0;
        tokio::time::timeout(patience, sending.delivery.send(batches)).await.map_err(|_| {
            Error::new(
                code::CONNECTION,
                format!("kafka did not acknowledge records of topic \"{}\" in time", self.topic),
            )
            .hint("they may be there: sent again, they may be there twice")
            .retryable()
        })??;
        *delivery = Some(sending);
        Ok(Appended { kept: true, accepted, rejects, ..Appended::default() })
    }
}
