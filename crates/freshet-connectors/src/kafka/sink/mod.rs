//! A topic as a sink without an end.
//!
//! Exactly once: a writer encodes the rows of an epoch and stages them, inside the token where they
//! are few, else in the store of the job's checkpoints; a transaction publishes them once the
//! checkpoint is durable. At least once: batches are sent as they fill up, and an epoch ends when all
//! were acknowledged.

mod encode;
mod send;
mod staged;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use freshet_core::clock::Clock;
use freshet_core::error::{Error, Result, code};
use freshet_core::registry::ConnectorContext;
use freshet_core::rows::Rows;
use freshet_core::sink::Guarantee;
use freshet_core::stream::{
    Changes, Claim, Epoch, Generation, PendingCommit, SinkWriter, StreamSink, Token, Wake,
};
use futures::future::BoxFuture;
use object_store::ObjectStore;
use parking_lot::Mutex;

use super::client::{Cluster, retrying};
use super::options::{KafkaOptions, Promise, Topics};
use crate::avro::{AvroEncoder, AvroOptions, Framing, SchemaRegistry, WrittenSchema};
use encode::RowEncoder;
use send::SendingWriter;
use staged::Stage;
pub use transaction::Mark;
use transaction::Publisher;

/// A topic that is written.
#[derive(Debug)]
pub struct KafkaSink {
    options: KafkaOptions,
    cluster: Arc<Cluster>,
    topic: Arc<str>,
    id: String,
    clock: Arc<dyn Clock>,
    publisher: tokio::sync::Mutex<Publisher>,
    store: Mutex<Option<Arc<dyn ObjectStore>>>,
    avro: Option<AvroTarget>,
}

/// What messages of Avro are written with.
#[derive(Debug)]
struct AvroTarget {
    schema: WrittenSchema,
    framing: Framing,
    /// Where the schema is registered, and under which subject.
    registry: Option<(Arc<SchemaRegistry>, String)>,
}

impl AvroTarget {
    fn new(
        options: &KafkaOptions,
        topic: &str,
        columns: &SchemaRef,
        context: &ConnectorContext,
    ) -> Result<Self> {
        let avro = AvroOptions::read(&options.format_options)?;
        let values: Vec<_> = columns
            .fields()
            .iter()
            .filter(|field| !options.headers.contains(field.name()))
            .cloned()
            .collect();
        let schema = WrittenSchema::of(&Schema::new(values), &avro, context)?;
        let clock = Arc::clone(&context.clock);
        let subject = avro.subject.clone().unwrap_or_else(|| format!("{topic}-value"));
        let framing = avro.framing();
        let registry = match framing {
            Framing::Confluent => SchemaRegistry::new(&avro, &context.project_dir, clock)?,
            Framing::SingleObject | Framing::Plain => None,
        };
        Ok(Self { schema, framing, registry: registry.map(|registry| (registry, subject)) })
    }

    /// Registers the schema, where it is to be.
    async fn id(&self, patience: Duration) -> Result<u32> {
        match &self.registry {
            Some((registry, subject)) => {
                retrying(patience, || registry.register(subject, &self.schema.json)).await
            }
            None => Ok(0),
        }
    }
}

impl KafkaSink {
    /// A sink of rows with these columns.
    pub fn new(
        options: KafkaOptions,
        table: &str,
        columns: &SchemaRef,
        context: &ConnectorContext,
    ) -> Result<Self> {
        let topic: Arc<str> = match &options.topic {
            None => table.into(),
            Some(Topics::One(topic)) => topic.as_str().into(),
            Some(Topics::Several(_)) => {
                return Err(Error::new(
                    code::CONFIG,
                    "a sink writes one topic, and \"topic\" names several",
                ));
            }
        };
        let avro = match options.format.as_str() {
            "avro" => Some(AvroTarget::new(&options, &topic, columns, context)?),
            "ndjson" | "raw" => None,
            format => {
                return Err(Error::new(
                    code::CONFIG,
                    format!("messages cannot be written in format \"{format}\""),
                )
                .hint("formats of a sink are ndjson, avro, raw"));
            }
        };
        let id = options.transactional_id.clone().unwrap_or_else(|| format!("freshet-{topic}"));
        let cluster = Arc::new(Cluster::new(options.connection(&context.project_dir)?));
        let publisher = Publisher::new(
            Arc::clone(&cluster),
            Arc::clone(&topic),
            id.clone(),
            options.transaction_timeout.0,
        );
        Ok(Self {
            cluster,
            topic,
            id,
            clock: Arc::clone(&context.clock),
            publisher: tokio::sync::Mutex::new(publisher),
            store: Mutex::default(),
            options,
            avro,
        })
    }

    /// What the topic holds by its own account.
    pub async fn mark(&self) -> Result<Option<Mark>> {
        self.publisher.lock().await.mark().await
    }

    fn stage(&self) -> Stage {
        Stage { store: self.store.lock().clone(), folder: format!("kafka/{}", self.id) }
    }
}

#[async_trait]
impl StreamSink for KafkaSink {
    fn guarantee(&self) -> Guarantee {
        match self.options.guarantee {
            Promise::ExactlyOnce => Guarantee::ExactlyOnce,
            Promise::AtLeastOnce => Guarantee::AtLeastOnce,
        }
    }

    fn changes(&self) -> Changes {
        match self.options.upsert {
            true => Changes::Upsert { key: self.options.key.clone() },
            false => Changes::Append,
        }
    }

    fn target(&self) -> String {
        format!("topic \"{}\"", self.topic)
    }

    fn stage_in(&self, store: Arc<dyn ObjectStore>) {
        *self.store.lock() = Some(store);
    }

    async fn open(
        &self,
        claim: Claim,
        wakes: &[Arc<dyn Wake>],
    ) -> Result<Vec<Box<dyn SinkWriter>>> {
        let generation = claim.generation;
        // A schema that cannot follow those before it is known before anything is written.
        let id = match &self.avro {
            Some(avro) => avro.id(self.cluster.options.request_timeout).await?,
            None => 0,
        };
        let mut publisher = self.publisher.lock().await;
        if let Some(partitions) = self.options.create_partitions {
            self.cluster.ensure_topic(&self.topic, partitions).await?;
        }
        let partitions = publisher.partitions().await?;
        if self.options.guarantee == Promise::ExactlyOnce {
            publisher.open(claim).await?;
        }
        let mut writers: Vec<Box<dyn SinkWriter>> = Vec::with_capacity(wakes.len());
        for (index, wake) in wakes.iter().enumerate() {
            let encoder = RowEncoder::new(
                &self.options,
                partitions,
                i32::try_from(index).unwrap_or(0),
                Arc::clone(&self.clock),
            );
            let encoder = match &self.avro {
                Some(avro) => encoder.of_avro(AvroEncoder::new(&avro.schema, avro.framing, id)?),
                None => encoder,
            };
            writers.push(match self.options.guarantee {
                Promise::ExactlyOnce => Box::new(StagingWriter {
                    encoder,
                    full: Vec::new(),
                    bytes: 0,
                    limit: self.options.max_held_bytes.as_usize(),
                    stage: self.stage(),
                    name: format!("{}-{index}", generation.0),
                }),
                Promise::AtLeastOnce => Box::new(
                    SendingWriter::start(
                        Arc::clone(&self.cluster),
                        Arc::clone(&self.topic),
                        encoder,
                        self.options.max_held_bytes.as_usize(),
                        Arc::clone(wake),
                    )
                    .await?,
                ),
            });
        }
        Ok(writers)
    }

    async fn commit(&self, generation: Generation, pending: &[PendingCommit]) -> Result<()> {
        if self.options.guarantee == Promise::AtLeastOnce {
            return Ok(());
        }
        let stage = self.stage();
        let mut publisher = self.publisher.lock().await;
        for PendingCommit { epoch, parts } in pending {
            let mut batches = Vec::new();
            for part in parts {
                batches.extend(stage.read(part).await?);
            }
            // Nothing to publish is published already.
            if !batches.is_empty() {
                publisher.publish(generation, *epoch, &batches).await?;
            }
            for part in parts {
                stage.forget(part).await;
            }
        }
        Ok(())
    }
}

/// Holds what an epoch wrote until it is cut.
#[derive(Debug)]
struct StagingWriter {
    encoder: RowEncoder,
    full: Vec<(i32, Bytes)>,
    /// Of `full`.
    bytes: usize,
    limit: usize,
    stage: Stage,
    /// Unique among the writers of all generations.
    name: String,
}

impl SinkWriter for StagingWriter {
    fn write(&mut self, rows: Rows) -> Result<()> {
        let full = self.encoder.push(&rows)?;
        self.bytes += full.iter().map(|(_, batch)| batch.len()).sum::<usize>();
        self.full.extend(full);
        if self.bytes > self.limit {
            return Err(Error::new(
                code::LOAD,
                format!(
                    "one epoch of a kafka sink has more than `max_held_bytes` ({}) of messages",
                    self.limit
                ),
            )
            .hint("make checkpoints more often, or raise `max_held_bytes`"));
        }
        Ok(())
    }

    fn cut(&mut self, epoch: Epoch) -> Result<BoxFuture<'static, Result<Token>>> {
        let mut full = std::mem::take(&mut self.full);
        full.extend(self.encoder.finish()?);
        self.bytes = 0;
        let (stage, name) = (self.stage.clone(), format!("{}-{}", epoch.0, self.name));
        Ok(Box::pin(async move { stage.write(&name, &full).await }))
    }
}
