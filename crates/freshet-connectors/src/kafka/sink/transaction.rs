//! Publishing epochs: one transaction each, which holds the records and the mark that says so.
//!
//! The mark is an offset of a consumer group that nobody consumes with: the cluster commits it with
//! the records or not at all. Whatever went wrong, becoming the producer again ends what was left
//! open, and the mark tells whether the epoch is there.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use freshet_core::error::{Error, Result, code};
use freshet_core::stream::{Claim, Epoch, Generation};
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, GroupId, OffsetFetchRequest,
    ProducerId, TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::{Request, StrBytes};
use serde::{Deserialize, Serialize};

use crate::kafka::batch::{Stamp, stamp};
use crate::kafka::client::produce::{Producer, Sender};
use crate::kafka::client::{Cluster, Connection, Coordinates, refused, retrying, topic_name};
use crate::kafka::records::BatchHeader;

/// How often an epoch is published anew before the job is told.
const ATTEMPTS: u32 = 5;

/// What the topic holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Who wrote last.
    pub generation: Generation,
    /// The last epoch; `None` before the first.
    pub epoch: Option<Epoch>,
}

/// Publishes the epochs of one sink.
#[derive(Debug)]
pub struct Publisher {
    cluster: Arc<Cluster>,
    topic: Arc<str>,
    id: String,
    timeout: Duration,
    sender: Sender,
    session: Option<Session>,
}

/// What is known for as long as nothing goes wrong.
#[derive(Debug)]
struct Session {
    producer: Producer,
    mark: Option<Mark>,
    /// The next record's number, by partition.
    sequences: HashMap<i32, i32>,
}

impl Publisher {
    /// Publishes to `topic` under a transactional id.
    pub fn new(cluster: Arc<Cluster>, topic: Arc<str>, id: String, timeout: Duration) -> Self {
        let sender = Sender::new(Arc::clone(&cluster), Arc::clone(&topic));
        Self { cluster, topic, id, timeout, sender, session: None }
    }

    /// How many partitions the topic has.
    pub async fn partitions(&mut self) -> Result<i32> {
        self.sender.partitions().await
    }

    /// Takes over: nothing that an older producer does counts from now on.
    pub async fn open(&mut self, claim: Claim) -> Result<()> {
        self.session = None;
        let generation = claim.generation;
        let epoch = self.begin(generation).await?.mark.and_then(|mark| mark.epoch);
        if let Some(held) = epoch.filter(|held| *held > claim.epoch) {
            return Err(Error::new(
                code::STATE,
                format!(
                    "topic \"{}\" holds epoch {held} of \"{}\", whose checkpoints end at {}",
                    self.topic, self.id, claim.epoch
                ),
            )
            .hint("the job's checkpoints were deleted or set back: restore them, or choose another `transactional_id`"));
        }
        // Those of earlier generations that come late see this.
        self.attempt(Mark { generation, epoch }, &[]).await
    }

    /// Makes the batches of an epoch visible, unless they are.
    pub async fn publish(
        &mut self,
        generation: Generation,
        epoch: Epoch,
        batches: &[(i32, Bytes)],
    ) -> Result<()> {
        let mut wait = Duration::from_millis(50);
        for attempt in 1.. {
            let result = async {
                let session = self.begin(generation).await?;
                if session.mark.and_then(|mark| mark.epoch).is_some_and(|held| held >= epoch) {
                    return Ok(());
                }
                self.attempt(Mark { generation, epoch: Some(epoch) }, batches).await
            };
            let error = match result.await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // What came of it the mark will tell.
            let lasting = self.session.is_none() && !error.is_retryable();
            self.session = None;
            if lasting || attempt >= ATTEMPTS {
                return Err(error);
            }
            tracing::warn!(%error, epoch = epoch.0, "epoch is published again");
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        Ok(())
    }

    /// Becomes the producer, which aborts what is open, and reads the mark.
    async fn begin(&mut self, generation: Generation) -> Result<&mut Session> {
        if self.session.is_none() {
            // What an instance that was killed left open is aborted by the producer alone: nobody waits for
            // it before.
            let before = self.look(false).await?;
            self.check(before, generation)?;
            let producer = self.cluster.producer(Some(&self.id), self.timeout).await?;
            // Somebody may have been faster between the two.
            let mark = self.mark().await?;
            self.check(mark, generation)?;
            self.session = Some(Session { producer, mark, sequences: HashMap::new() });
        }
        self.session.as_mut().ok_or_else(|| Error::internal("a session was just made"))
    }

    fn check(&self, mark: Option<Mark>, generation: Generation) -> Result<()> {
        match mark {
            Some(mark) if mark.generation > generation => Err(Error::new(
                code::FENCED,
                format!("topic \"{}\" was opened by generation {} of \"{}\"", self.topic, mark.generation.0, self.id),
            )
            .hint("another instance of the job has taken over; a job that begins anew, without its checkpoints, needs another `transactional_id`")),
            _ => Ok(()),
        }
    }

    /// One transaction.
    async fn attempt(&mut self, mark: Mark, batches: &[(i32, Bytes)]) -> Result<()> {
        let Self { cluster, topic, id, sender, session, .. } = self;
        let session = session.as_mut().ok_or_else(|| Error::internal("nobody has begun"))?;
        let producer = session.producer;
        let patience = cluster.options.request_timeout;
        let transactional_id = || TransactionalId(StrBytes::from_string(id.clone()));
        let mut coordinator = cluster.coordinator(Coordinates::Transactions, id).await?;

        let mut queues: BTreeMap<i32, VecDeque<Bytes>> = BTreeMap::new();
        for (partition, batch) in batches {
            let sequence = session.sequences.entry(*partition).or_default();
            let count = match BatchHeader::parse(batch) {
                Ok(Some(header)) => header.count,
                _ => return Err(Error::internal("a staged batch is damaged")),
            };
            let mut bytes = BytesMut::from(&batch[..]);
            stamp(
                &mut bytes,
                &Stamp {
                    producer_id: producer.id,
                    producer_epoch: producer.epoch,
                    sequence: *sequence,
                    transactional: true,
                },
            );
            // Numbers begin at 0 again behind the highest.
            *sequence = (i64::from(*sequence) + i64::from(count)).rem_euclid(1 << 31) as i32;
            queues.entry(*partition).or_default().push_back(bytes.freeze());
        }
        if !queues.is_empty() {
            let wanted = AddPartitionsToTxnTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(queues.keys().copied().collect());
            let request = AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(transactional_id())
                .with_v3_and_below_producer_id(ProducerId(producer.id))
                .with_v3_and_below_producer_epoch(producer.epoch)
                .with_v3_and_below_topics(vec![wanted]);
            ask(&mut coordinator, &request, patience, topic, |answer| {
                let topics = answer.results_by_topic_v3_and_below.iter();
                let partitions = topics.flat_map(|topic| &topic.results_by_partition);
                first(partitions.map(|partition| partition.partition_error_code))
            })
            .await?;
            while !queues.is_empty() {
                let mut round: BTreeMap<i32, Bytes> = BTreeMap::new();
                queues.retain(|partition, queue| {
                    round.extend(queue.pop_front().map(|batch| (*partition, batch)));
                    !queue.is_empty()
                });
                let mut wait = Duration::from_millis(20);
                while let Err(error) = sender.send(Some(id), &mut round).await {
                    if !error.is_retryable() || wait > patience {
                        return Err(error);
                    }
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
            }
        }

        let group = || GroupId(StrBytes::from_string(id.clone()));
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(transactional_id())
            .with_producer_id(ProducerId(producer.id))
            .with_producer_epoch(producer.epoch)
            .with_group_id(group());
        ask(&mut coordinator, &request, patience, topic, |answer| answer.error_code).await?;
        let metadata = serde_json::to_string(&mark)
            .map_err(|error| Error::internal("could not write a mark").caused_by(error))?;
        let offset = mark.epoch.map_or(0, |epoch| i64::try_from(epoch.0).unwrap_or(i64::MAX));
        let partition = TxnOffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(StrBytes::from_string(metadata)));
        let offsets = TxnOffsetCommitRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(transactional_id())
            .with_group_id(group())
            .with_producer_id(ProducerId(producer.id))
            .with_producer_epoch(producer.epoch)
            .with_topics(vec![offsets]);
        let mut of_group =
            retrying(patience, || cluster.coordinator(Coordinates::Group, id)).await?;
        ask(&mut of_group, &request, patience, topic, |answer| {
            let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            first(partitions.map(|partition| partition.error_code))
        })
        .await?;
        let request = EndTxnRequest::default()
            .with_transactional_id(transactional_id())
            .with_producer_id(ProducerId(producer.id))
            .with_producer_epoch(producer.epoch)
            .with_committed(true);
        ask(&mut coordinator, &request, patience, topic, |answer| answer.error_code).await?;
        session.mark = Some(mark);
        Ok(())
    }

    /// What the topic holds, once no transaction is in the midst of saying so.
    pub async fn mark(&self) -> Result<Option<Mark>> {
        self.look(true).await
    }

    /// What the topic holds; `stable` waits for transactions that are in the midst of saying so.
    async fn look(&self, stable: bool) -> Result<Option<Mark>> {
        let wanted = OffsetFetchRequestTopic::default()
            .with_name(topic_name(&self.topic))
            .with_partition_indexes(vec![0]);
        let request = OffsetFetchRequest::default()
            .with_group_id(GroupId(StrBytes::from_string(self.id.clone())))
            .with_topics(Some(vec![wanted]))
            .with_require_stable(stable);
        let patience = self.cluster.options.request_timeout;
        let failed = |error: i16| {
            refused(error, || format!("could not read what topic \"{}\" holds", self.topic))
        };
        let metadata = retrying(patience, || async {
            let mut group = self.cluster.coordinator(Coordinates::Group, &self.id).await?;
            let answer = group.call(&request, 7, patience).await?;
            if answer.error_code != 0 {
                return Err(failed(answer.error_code));
            }
            let mut partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            match partitions.next() {
                Some(partition) if partition.error_code != 0 => Err(failed(partition.error_code)),
                Some(partition) => Ok(partition.metadata.clone().filter(|text| !text.is_empty())),
                None => Ok(None),
            }
        })
        .await?;
        metadata
            .map(|text| {
                serde_json::from_str(&text).map_err(|error| {
                    Error::new(
                        code::LOAD,
                        format!("group \"{}\" was committed to by somebody else", self.id),
                    )
                    .caused_by(error)
                    .hint("choose a `transactional_id` that no consumer group is called")
                })
            })
            .transpose()
    }
}

/// As [`retrying`], over one connection: an error of the connection ends it. `error` is the code in
/// an answer.
async fn ask<R: Request>(
    connection: &mut Connection,
    request: &R,
    patience: Duration,
    topic: &str,
    error: fn(&R::Response) -> i16,
) -> Result<()> {
    let begun = tokio::time::Instant::now();
    let mut wait = Duration::from_millis(5);
    loop {
        // Up to 3 transactions are told of their partitions beforehand.
        let answer = connection.call(request, 3, patience).await?;
        let code = error(&answer);
        if code == 0 {
            return Ok(());
        }
        let error = refused(code, || format!("could not write a transaction to topic \"{topic}\""));
        // The marks of the transaction before may still be on their way.
        if !error.is_retryable() || begun.elapsed() + wait > patience {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(1));
    }
}

/// The first code that is an error, of several.
fn first(mut codes: impl Iterator<Item = i16>) -> i16 {
    codes.find(|code| *code != 0).unwrap_or(0)
}
