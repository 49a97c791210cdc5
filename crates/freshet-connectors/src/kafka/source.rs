//! Topics as a source without an end.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use bytes::Bytes;
use freshet_core::clock::Clock;
use freshet_core::error::{Error, Result, code};
use freshet_core::registry::{ConnectorContext, SourceSpec};
use freshet_core::source::Position;
use freshet_core::stream::{BlockDecoder, Fetcher, Partition, Start, StreamSource, Wait};
use freshet_core::{Contract, ContractColumn};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{BrokerId, GroupId, ListOffsetsRequest, OffsetCommitRequest};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;

use super::batch::BatchBuilder;
use super::client::{
    Cluster, Connection, Coordinates, TopicPartition, refused, retrying, topic_name,
};
use super::decoder::KafkaDecoder;
use super::fetcher::KafkaFetcher;
use super::group::{GroupOptions, Membership};
use super::options::{Assignment, EndAt, Isolation, KafkaOptions, StartFrom, Tombstones};
use super::records::Compression;
use crate::formats::Format;
use crate::messages::{self, MessageFormat};

/// The columns that each message has beside those of its value: partition, offset, time, key, headers.
pub const META: [&str; 5] = ["_partition", "_offset", "_timestamp", "_key", "_headers"];

/// Some topics, read as they grow.
#[derive(Debug)]
pub struct KafkaSource {
    pub(super) shared: Arc<Shared>,
    format: Arc<dyn MessageFormat>,
    /// Of keys, where a message without a value is a delete.
    key: Option<Key>,
    schema: SchemaRef,
}

/// What source and fetchers have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub options: KafkaOptions,
    pub start: StartFrom,
    pub topics: Vec<Arc<str>>,
    pub cluster: Arc<Cluster>,
    pub clock: Arc<dyn Clock>,
    /// What is waited for, and since when.
    pub waits: Arc<Mutex<BTreeMap<String, (String, i64)>>>,
    /// By partition, the offset behind what was given, and how many are there behind what was read.
    pub ends: Mutex<BTreeMap<Partition, (i64, i64)>>,
    /// Of the group, once anything is read.
    membership: OnceLock<Membership>,
}

/// How the key of a message without a value is read.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub format: Arc<dyn MessageFormat>,
    /// The column, where there is one: its key is no object.
    pub only: Option<String>,
}

impl KafkaSource {
    /// A source with these options.
    pub fn new(
        options: KafkaOptions,
        spec: &SourceSpec,
        context: &ConnectorContext,
        formats: &[Arc<dyn Format>],
    ) -> Result<Self> {
        let topics = options.topics(&spec.name)?;
        let connection = options.connection(&context.project_dir)?;
        let KafkaOptions { format, format_options, .. } = &options;
        let format = messages::open(formats, format, format_options, &spec.contract, context)?;
        let key = match options.tombstones {
            Tombstones::Skip => None,
            Tombstones::Delete => Some(key(&options, &spec.contract, formats, context)?),
        };
        let mut fields: Vec<Arc<Field>> = format.schema().fields().iter().cloned().collect();
        for name in META {
            if fields.iter().any(|field| field.name() == name) {
                return Err(Error::new(
                    code::CONFIG,
                    format!(
                        "column \"{name}\" of source \"{}\" is one that kafka gives",
                        spec.name
                    ),
                )
                .hint("give the column another name, and the field's as `source_name`"));
            }
            let data_type = match name {
                "_offset" => DataType::Int64,
                "_timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
                "_key" => DataType::BinaryView,
                _ => DataType::Utf8View,
            };
            fields.push(Arc::new(Field::new(name, data_type, true)));
        }
        Ok(Self {
            shared: Arc::new(Shared {
                start: options.start.understood()?,
                topics,
                cluster: Arc::new(Cluster::new(connection)),
                clock: Arc::clone(&context.clock),
                waits: Arc::default(),
                ends: Mutex::default(),
                membership: OnceLock::new(),
                options,
            }),
            format,
            key,
            schema: Arc::new(Schema::new(fields)),
        })
    }
}

/// The columns that a message's key holds.
fn key(
    options: &KafkaOptions,
    contract: &Arc<Contract>,
    formats: &[Arc<dyn Format>],
    context: &ConnectorContext,
) -> Result<Key> {
    let columns: Result<Vec<ContractColumn>> = options
        .key
        .iter()
        .map(|name| {
            contract.index_of(name).map(|index| contract.columns[index].clone()).ok_or_else(|| {
                Error::new(
                    code::CONFIG,
                    format!("option \"key\" is wrong: there is no column \"{name}\""),
                )
            })
        })
        .collect();
    let contract = Contract { columns: columns?, modes: contract.modes, found: Vec::new() };
    let only = match contract.columns.as_slice() {
        [column] => Some(column.name_in_data().to_owned()),
        _ => None,
    };
    let options = serde_json::Value::Null;
    let format = messages::open(formats, "ndjson", &options, &Arc::new(contract), context)?;
    Ok(Key { format, only })
}

#[async_trait]
impl StreamSource for KafkaSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn partitions(&self) -> Result<Vec<Partition>> {
        let shared = &self.shared;
        if let Some(membership) = shared.membership() {
            return agreed(membership, shared).await;
        }
        let metadata = shared.cluster.metadata(shared.topics.iter().map(AsRef::as_ref)).await?;
        let mut partitions = Vec::new();
        for name in &shared.topics {
            let topic = match metadata.topics.get(&**name) {
                Some(topic) if topic.error == 0 => topic,
                other => {
                    let error = other.map_or(3, |topic| topic.error);
                    return Err(refused(error, || format!("could not read topic \"{name}\"")));
                }
            };
            let wanted = shared.options.partitions.as_ref();
            if let Some(missing) = wanted
                .and_then(|wanted| wanted.iter().find(|index| !topic.leaders.contains_key(index)))
            {
                return Err(Error::new(
                    code::CONFIG,
                    format!("topic \"{name}\" has no partition {missing}"),
                )
                .hint("look at `partitions`"));
            }
            let of_interest = |index: &&i32| wanted.is_none_or(|wanted| wanted.contains(index));
            partitions.extend(topic.leaders.keys().filter(of_interest).map(|index| {
                Partition(TopicPartition { topic: Arc::clone(name), index: *index }.to_string())
            }));
        }
        Ok(partitions)
    }

    async fn fetcher(&self) -> Result<Box<dyn Fetcher>> {
        Ok(Box::new(KafkaFetcher::new(Arc::clone(&self.shared))))
    }

    fn decoder(&self, projection: &[usize]) -> Result<Box<dyn BlockDecoder>> {
        Ok(Box::new(KafkaDecoder::new(
            &self.shared.options,
            &*self.format,
            self.key.as_ref(),
            &self.schema,
            projection,
        )?))
    }

    /// Its key and its headers are not known: they are null.
    fn block_of(
        &self,
        _partition: &Partition,
        position: Position,
        record: &[u8],
        at: i64,
    ) -> Result<Option<Bytes>> {
        let mut batch = BatchBuilder::default();
        batch.push(None, Some(record), &[], at / 1000);
        let mut bytes = batch
            .finish(Compression::None)
            .map_err(|error| Error::internal("a record cannot be a batch").caused_by(error))?;
        // The offset of a batch's first record is not among what its checksum is of.
        bytes[..8].copy_from_slice(&position.0.to_be_bytes());
        Ok(Some(bytes.into()))
    }

    fn waits(&self) -> Vec<Wait> {
        let waits = self.shared.waits.lock();
        let fetching = waits.iter().map(|(what, (reason, since))| Wait {
            what: what.clone(),
            reason: reason.clone(),
            since: *since,
        });
        fetching.chain(self.format.waits()).collect()
    }

    /// As of the last answer to a fetch. What is read and never given, as the marks of transactions
    /// are, is not counted.
    fn ends(&self) -> BTreeMap<Partition, Position> {
        let ends = self.shared.ends.lock();
        let ends = ends.iter().map(|(partition, (given, left))| {
            let end = u64::try_from(given.saturating_add(*left)).unwrap_or_default();
            (partition.clone(), Position(end))
        });
        ends.collect()
    }

    fn discovery_interval(&self) -> Option<Duration> {
        let options = &self.shared.options;
        match options.assignment {
            // Nobody is asked: what the group agreed upon is known.
            Assignment::Group => Some(options.discovery_interval.0.min(AGREED)),
            Assignment::Static => {
                let grows = options.partitions.is_none() && options.end == EndAt::Never;
                grows.then_some(options.discovery_interval.0)
            }
        }
    }

    async fn publish(&self, positions: &BTreeMap<Partition, Position>) -> Result<()> {
        let Some(group) = &self.shared.options.group else { return Ok(()) };
        let mut topics: BTreeMap<Arc<str>, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        let share = self.shared.membership().map(|membership| membership.share().borrow().clone());
        for (partition, position) in positions {
            let partition: TopicPartition = partition.0.parse()?;
            let others = share.as_ref().and_then(|share| share.partitions.as_ref());
            if others.is_some_and(|ours| !ours.contains(&partition)) {
                // Whoever reads it now says how far.
                continue;
            }
            let TopicPartition { topic, index } = partition;
            topics.entry(topic).or_default().push(
                OffsetCommitRequestPartition::default()
                    .with_partition_index(index)
                    .with_committed_offset(i64::try_from(position.0).unwrap_or(i64::MAX))
                    .with_committed_metadata(Some(StrBytes::new())),
            );
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            OffsetCommitRequestTopic::default()
                .with_name(topic_name(&topic))
                .with_partitions(partitions)
        });
        let mut request = OffsetCommitRequest::default()
            .with_group_id(GroupId(StrBytes::from_string(group.clone())))
            .with_topics(topics.collect());
        if let Some(share) = share {
            request = request
                .with_generation_id_or_member_epoch(share.generation)
                .with_member_id(StrBytes::from_string(share.member));
        }
        let cluster = &self.shared.cluster;
        let mut coordinator = cluster.coordinator(Coordinates::Group, group).await?;
        // From 10 on topics go by their identities.
        let answer = coordinator.call(&request, 8, cluster.options.request_timeout).await?;
        let mut codes = answer
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|partition| partition.error_code));
        match codes.find(|code| *code != 0) {
            None => Ok(()),
            Some(code) => Err(refused(code, || {
                format!("could not commit positions to the group \"{group}\"")
            })
            .hint(match self.shared.options.assignment {
                Assignment::Static => {
                    "no consumer may be a member of that group: choose one for this source alone"
                }
                Assignment::Group => "members have changed: the next checkpoint commits again",
            })),
        }
    }
}

/// How often it is looked what a group agreed upon.
const AGREED: Duration = Duration::from_secs(1);

/// The partitions that this member of a group ever read; it waits for the first agreement.
async fn agreed(membership: &Membership, shared: &Shared) -> Result<Vec<Partition>> {
    let mut share = membership.share();
    let patience = shared.options.session_timeout.0 * 2 + shared.cluster.options.request_timeout;
    let first = share.wait_for(|share| share.partitions.is_some());
    let share = tokio::time::timeout(patience, first).await.map_err(|_| {
        let group = shared.options.group.as_deref().unwrap_or_default();
        let reason = shared.waits.lock().get(&waiting_for(group)).map(|(reason, _)| reason.clone());
        let error = Error::new(
            code::SOURCE,
            format!(
                "group \"{group}\" has not agreed who reads what within {} s",
                patience.as_secs()
            ),
        );
        match reason {
            Some(reason) => error.caused_by(reason).retryable(),
            None => error.retryable(),
        }
    })?;
    let share = share.map_err(|_| Error::internal("a member of a group has ended"))?;
    Ok(share.ever.iter().map(|partition| Partition(partition.to_string())).collect())
}

fn waiting_for(group: &str) -> String {
    format!("group \"{group}\"")
}

impl Shared {
    /// The membership in the group that says what is read, where one does.
    pub fn membership(&self) -> Option<&Membership> {
        let options = &self.options;
        let group = options.group.as_ref().filter(|_| options.assignment == Assignment::Group)?;
        Some(self.membership.get_or_init(|| {
            let of_group = GroupOptions {
                group: group.clone(),
                topics: self.topics.clone(),
                session_timeout: options.session_timeout.0,
                discovery_interval: options.discovery_interval.0,
            };
            let (waits, clock) = (Arc::clone(&self.waits), Arc::clone(&self.clock));
            let what = waiting_for(group);
            Membership::start(Arc::clone(&self.cluster), of_group, move |trouble| {
                let mut waits = waits.lock();
                match trouble {
                    Some(reason) => {
                        let now = clock.now_micros();
                        waits.entry(what.clone()).or_insert_with(|| (String::new(), now)).0 =
                            reason;
                    }
                    None => {
                        waits.remove(&what);
                    }
                }
            })
        }))
    }

    /// Where reading a partition goes on that the group has just given to us: where the group is or
    /// we were, whichever is further.
    pub async fn first_of_group(
        &self,
        membership: &Membership,
        partition: &TopicPartition,
        start: Start,
    ) -> Result<i64> {
        if matches!(start, Start::Earliest | Start::Latest) {
            return self.first(partition, start).await;
        }
        let committed = membership.committed(std::slice::from_ref(partition)).await?;
        match (committed.get(partition), start) {
            (Some(committed), Start::At(position)) => Ok(offset(position.0)?.max(*committed)),
            (Some(committed), _) => Ok(*committed),
            (None, start) => self.first(partition, start).await,
        }
    }

    /// The isolation level as requests have it.
    pub fn isolation(&self) -> i8 {
        match self.options.isolation {
            Isolation::ReadUncommitted => 0,
            Isolation::ReadCommitted => 1,
        }
    }

    /// The first offset to be read.
    pub async fn first(&self, partition: &TopicPartition, start: Start) -> Result<i64> {
        let timestamp = match start {
            Start::At(position) => return offset(position.0),
            Start::Earliest => -2,
            Start::Latest => -1,
            Start::Configured => match &self.start {
                StartFrom::Earliest => -2,
                StartFrom::Latest => -1,
                StartFrom::Timestamp(millis) => *millis,
                StartFrom::Offsets(offsets) => match offsets.get(&partition.to_string()) {
                    Some(first) => return offset(*first),
                    None => -2,
                },
            },
        };
        let patience = self.cluster.options.request_timeout;
        retrying(patience, || self.at(partition, timestamp)).await
    }

    /// The first offset at `timestamp` or later, asked of whoever leads.
    async fn at(&self, partition: &TopicPartition, timestamp: i64) -> Result<i64> {
        let topic = self.cluster.topic(&partition.topic).await?;
        let leader = topic.leaders.get(&partition.index).copied().flatten().ok_or_else(|| {
            Error::new(code::SOURCE, format!("partition \"{partition}\" has no leader")).retryable()
        })?;
        let mut connection = self.cluster.connect(leader).await?;
        match self.list(&mut connection, partition, timestamp).await? {
            // Nothing is as young as that: what comes will be.
            -1 => self.list(&mut connection, partition, -1).await,
            offset => Ok(offset),
        }
    }

    /// The first offset at `timestamp` or later; -2 is the first of all, -1 the next to come.
    async fn list(
        &self,
        connection: &mut Connection,
        partition: &TopicPartition,
        timestamp: i64,
    ) -> Result<i64> {
        let wanted = ListOffsetsPartition::default()
            .with_partition_index(partition.index)
            .with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default()
            .with_name(topic_name(&partition.topic))
            .with_partitions(vec![wanted]);
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_isolation_level(self.isolation())
            .with_topics(vec![topic]);
        let answer = connection.call(&request, 7, self.cluster.options.request_timeout).await?;
        let found = answer.topics.first().and_then(|topic| topic.partitions.first());
        let found = found.ok_or_else(|| {
            Error::new(code::SOURCE, format!("kafka says no offset of partition \"{partition}\""))
                .retryable()
        })?;
        if found.error_code != 0 {
            return Err(refused(found.error_code, || {
                format!("could not find where to begin in partition \"{partition}\"")
            }));
        }
        Ok(found.offset)
    }
}

fn offset(position: u64) -> Result<i64> {
    i64::try_from(position)
        .map_err(|_| Error::internal(format!("{position} is no offset of a partition")))
}
