//! Sending batches: to the leader of their partition, acknowledged by all replicas that are in step.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use freshet_core::error::{Error, Result, code};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    InitProducerIdRequest, ProduceRequest, ProducerId, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;

use super::{Cluster, Connection, Coordinates, refused, retrying, topic_name};

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// The id that the cluster gave.
    pub id: i64,
    /// The newest of those that have this id.
    pub epoch: i16,
}

/// Writes to the partitions of one topic. Where a call fails, nothing is known of what it sent.
#[derive(Debug)]
pub struct Sender {
    cluster: Arc<Cluster>,
    topic: Arc<str>,
    /// Milliseconds that replicas have.
    timeout: i32,
    leaders: BTreeMap<i32, Option<i32>>,
    connections: HashMap<i32, Connection>,
}

impl Sender {
    /// Writes to `topic`.
    pub fn new(cluster: Arc<Cluster>, topic: Arc<str>) -> Self {
        let timeout = cluster.options.request_timeout.as_millis();
        Self {
            cluster,
            topic,
            timeout: i32::try_from(timeout).unwrap_or(i32::MAX),
            leaders: BTreeMap::new(),
            connections: HashMap::new(),
        }
    }

    /// How many partitions there are.
    pub async fn partitions(&mut self) -> Result<i32> {
        if self.leaders.is_empty() {
            self.leaders = self.cluster.topic(&self.topic).await?.leaders;
        }
        i32::try_from(self.leaders.len())
            .map_err(|_| Error::internal("a topic has more partitions than there are numbers"))
    }

    /// Sends at most one batch to each partition and waits until all are acknowledged. Those that
    /// were are taken out of `batches`, whatever became of the others.
    pub async fn send(
        &mut self,
        transactional_id: Option<&str>,
        batches: &mut BTreeMap<i32, Bytes>,
    ) -> Result<()> {
        let result = self.try_send(transactional_id, batches).await;
        if result.is_err() {
            // Whoever tries again looks anew, over new connections: no answer is left unread.
            self.leaders.clear();
            self.connections.clear();
        }
        result
    }

    async fn try_send(
        &mut self,
        transactional_id: Option<&str>,
        batches: &mut BTreeMap<i32, Bytes>,
    ) -> Result<()> {
        self.partitions().await?;
        let mut by_leader: BTreeMap<i32, Vec<PartitionProduceData>> = BTreeMap::new();
        for (partition, batch) in batches.iter() {
            let leader = self.leaders.get(partition).copied().flatten().ok_or_else(|| {
                let topic = &self.topic;
                Error::new(code::LOAD, format!("partition \"{topic}/{partition}\" has no leader"))
                    .retryable()
            })?;
            by_leader.entry(leader).or_default().push(
                PartitionProduceData::default()
                    .with_index(*partition)
                    .with_records(Some(batch.clone())),
            );
        }
        let mut sent = Vec::new();
        for (leader, partitions) in by_leader {
            let topic = TopicProduceData::default()
                .with_name(topic_name(&self.topic))
                .with_partition_data(partitions);
            let request = ProduceRequest::default()
                .with_transactional_id(
                    transactional_id
                        .map(|id| TransactionalId(StrBytes::from_string(id.to_owned()))),
                )
                .with_acks(-1)
                .with_timeout_ms(self.timeout)
                .with_topic_data(vec![topic]);
            let connection = match self.connections.entry(leader) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(new) => {
                    new.insert(self.cluster.connect(leader).await?)
                }
            };
            // From 12 on partitions enter a transaction by being written, from 13 on topics go by
            // their identities.
            sent.push((leader, connection.send(&request, 11).await?));
        }
        let mut failure = None;
        for (leader, in_flight) in sent {
            let Some(connection) = self.connections.get_mut(&leader) else { continue };
            let timeout = self.cluster.options.request_timeout * 2;
            let answer = connection.receive::<ProduceRequest>(in_flight);
            let answer = match tokio::time::timeout(timeout, answer).await {
                Ok(answer) => answer?,
                Err(_) => return Err(connection.silent(timeout)),
            };
            for partition in answer.responses.iter().flat_map(|topic| &topic.partition_responses) {
                // A batch that is there already was acknowledged, and the answer lost.
                const DUPLICATE_SEQUENCE: i16 = 46;
                if matches!(partition.error_code, 0 | DUPLICATE_SEQUENCE) {
                    batches.remove(&partition.index);
                } else {
                    let topic = &self.topic;
                    let why = partition.error_message.as_deref().unwrap_or_default();
                    failure = Some(refused(partition.error_code, || {
                        format!(
                            "could not write to partition \"{topic}/{}\" {why}",
                            partition.index
                        )
                        .trim_end()
                        .to_owned()
                    }));
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None if batches.is_empty() => Ok(()),
            None => Err(Error::new(
                code::LOAD,
                format!("kafka did not acknowledge all batches of topic \"{}\"", self.topic),
            )
            .retryable()),
        }
    }
}

impl Cluster {
    /// A producer of its own; with a transactional id the one that all instances of a job share,
    /// whose older ones are fenced by this.
    pub async fn producer(
        &self,
        transactional_id: Option<&str>,
        timeout: std::time::Duration,
    ) -> Result<Producer> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(
                transactional_id.map(|id| TransactionalId(StrBytes::from_string(id.to_owned()))),
            )
            .with_transaction_timeout_ms(i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX))
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        retrying(self.options.request_timeout, || async {
            let answer = match transactional_id {
                None => self.ask(&request, 4).await?,
                Some(id) => {
                    let mut coordinator = self.coordinator(Coordinates::Transactions, id).await?;
                    coordinator.call(&request, 4, self.options.request_timeout).await?
                }
            };
            match answer.error_code {
                0 => Ok(Producer { id: answer.producer_id.0, epoch: answer.producer_epoch }),
                error => {
                    Err(refused(error, || "could not become a producer of kafka's".to_owned()))
                }
            }
        })
        .await
    }
}
