//! The `kafka` connector: topics as streams that are read and written.
//!
//! - [`client`]: a thin client of the protocol; messages are `kafka-protocol`'s.
//! - [`records`], [`compression`]: batches of records without an object each.
//! - [`batch`]: batches on their way out.
//! - [`source`], [`fetcher`], [`decoder`]: reading. Brokers' bytes become blocks as they are; a
//!   worker checks, decompresses and decodes them.
//! - [`group`]: reading together with others.
//! - [`sink`]: writing, by transactions or at once; [`delivery`]: sending until it is acknowledged.
//! - [`ingest`]: records that are pushed.

pub mod batch;
pub mod client;
pub mod compression;
pub mod decoder;
pub mod delivery;
pub mod fetcher;
pub mod group;
pub mod ingest;
pub mod options;
pub mod records;
pub mod sink;
pub mod source;

use std::sync::Arc;

use freshet_core::error::Result;
use freshet_core::ingest::Ingest;
use freshet_core::registry::{
    Connector, ConnectorContext, ConnectorInfo, Role, SourceSpec, StreamSinkSpec,
};
use freshet_core::sink::Guarantee;
use freshet_core::stream::{StreamSink, StreamSource};
use serde_json::Value;

use crate::formats::Format;
use ingest::KafkaIngest;
use options::{KafkaOptions, Topics};
use sink::KafkaSink;
use source::KafkaSource;

/// The connector.
#[derive(Debug)]
pub struct KafkaConnector {
    formats: Vec<Arc<dyn Format>>,
}

impl KafkaConnector {
    /// A connector whose messages are of one of these formats.
    pub fn new(formats: Vec<Arc<dyn Format>>) -> Self {
        Self { formats }
    }
}

impl Connector for KafkaConnector {
    fn info(&self) -> ConnectorInfo {
        ConnectorInfo {
            name: "kafka",
            roles: &[Role::Stream, Role::StreamSink, Role::Ingest],
            summary: "Reads and writes topics of Apache Kafka: keys, headers, transactions, upserts.",
            guarantee: Some(Guarantee::ExactlyOnce),
            options: schemars::schema_for!(KafkaOptions),
        }
    }

    fn validate(&self, options: &Value) -> Result<()> {
        KafkaOptions::read(options, &serde_json::Map::new()).map(drop)
    }

    fn stream(
        &self,
        options: &Value,
        spec: SourceSpec,
        context: &ConnectorContext,
    ) -> Result<Arc<dyn StreamSource>> {
        let options = KafkaOptions::read(options, &context.connection)?;
        Ok(Arc::new(KafkaSource::new(options, &spec, context, &self.formats)?))
    }

    fn ingest(
        &self,
        options: &Value,
        spec: SourceSpec,
        context: &ConnectorContext,
    ) -> Result<Arc<dyn Ingest>> {
        let options = KafkaOptions::read(options, &context.connection)?;
        Ok(Arc::new(KafkaIngest::new(options, &spec, context, &self.formats)?))
    }

    fn stream_sink(
        &self,
        options: &Value,
        spec: &StreamSinkSpec,
        context: &ConnectorContext,
    ) -> Result<Arc<dyn StreamSink>> {
        let mut options = KafkaOptions::read(options, &context.connection)?;
        if options.upsert && options.key.is_empty() {
            options.key.clone_from(&spec.unique_key);
        }
        options.require_key()?;
        for (option, columns) in [("key", &options.key), ("headers", &options.headers)] {
            columns.iter().try_for_each(|column| spec.check_column(option, column))?;
        }
        if options.transactional_id.is_none() {
            let topic = match &options.topic {
                Some(Topics::One(topic)) => topic.as_str(),
                _ => spec.table.as_str(),
            };
            // Two jobs that write the same topic must not fence each other.
            let id = format!("freshet-{}-{topic}", spec.writer.replace('/', "-"));
            options.transactional_id = Some(id);
        }
        Ok(Arc::new(KafkaSink::new(options, &spec.table, &spec.schema, context)?))
    }
}

#[cfg(test)]
mod tests;
