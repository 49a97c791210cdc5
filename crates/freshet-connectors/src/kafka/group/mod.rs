//! Membership in a consumer group: which partitions this source reads is agreed upon with others.
//!
//! The protocol is the one that all brokers know, with the assignor `cooperative-sticky` of Kafka's
//! own clients: partitions that stay are read on while others change hands.

mod assign;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use freshet_core::error::{Error, Result, code};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as Assigned;
use kafka_protocol::messages::consumer_protocol_subscription::TopicPartition as Owned;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, GroupId, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetFetchRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::client::{Cluster, Connection, Coordinates, TopicPartition, refused, topic_name};
use assign::{Assignments, Claimant, assign};

/// What members of such groups call themselves.
const PROTOCOL_TYPE: &str = "consumer";
/// The way of dividing partitions that all members have to know.
const ASSIGNOR: &str = "cooperative-sticky";
/// Versions of what members tell each other: the first with a generation, and the first of all.
const SUBSCRIPTION: i16 = 2;
const ASSIGNMENT: i16 = 1;
/// Waits after failures: the first one, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The longest time between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// How a group is joined.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// The group's name.
    pub group: String,
    /// The topics that are read.
    pub topics: Vec<Arc<str>>,
    /// A member that is not heard of for so long has left.
    pub session_timeout: Duration,
    /// How often it is looked for new partitions.
    pub discovery_interval: Duration,
}

/// What a member was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// The member's id.
    pub member: String,
    /// The generation of the group.
    pub generation: i32,
    /// What it reads now; `None` before the first agreement.
    pub partitions: Option<BTreeSet<TopicPartition>>,
    /// All that it ever read.
    pub ever: BTreeSet<TopicPartition>,
}

/// What is waited for, as others see it: `None` is nothing.
pub type Trouble = Option<String>;

/// A member of a group, until it is dropped.
#[derive(Debug)]
pub struct Membership {
    options: GroupOptions,
    cluster: Arc<Cluster>,
    share: watch::Receiver<Share>,
    task: JoinHandle<()>,
}

impl Membership {
    /// Joins a group. `trouble` hears why it has no share, and when it has one again.
    pub fn start(
        cluster: Arc<Cluster>,
        options: GroupOptions,
        trouble: impl Fn(Trouble) + Send + Sync + 'static,
    ) -> Self {
        let (sender, share) = watch::channel(Share::default());
        let mut member = Member {
            options: options.clone(),
            cluster: Arc::clone(&cluster),
            share: sender,
            owned: BTreeSet::new(),
            member: String::new(),
            generation: -1,
        };
        let task = tokio::spawn(async move { member.run(trouble).await });
        Self { options, cluster, share, task }
    }

    /// What it was given, and what it will be.
    pub fn share(&self) -> watch::Receiver<Share> {
        self.share.clone()
    }

    /// Where the group is in some partitions; those are left out of which it knows nothing.
    pub async fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, i64>> {
        let mut topics: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            topics.entry(&partition.topic).or_default().push(partition.index);
        }
        let topics = topics.into_iter().map(|(topic, indexes)| {
            OffsetFetchRequestTopic::default()
                .with_name(topic_name(topic))
                .with_partition_indexes(indexes)
        });
        let request = OffsetFetchRequest::default()
            .with_group_id(group_id(&self.options.group))
            .with_topics(Some(topics.collect()))
            .with_require_stable(true);
        let mut coordinator =
            self.cluster.coordinator(Coordinates::Group, &self.options.group).await?;
        let timeout = self.cluster.options.request_timeout;
        // From 8 on it is asked for several groups at once, in other fields.
        let answer = coordinator.call(&request, 7, timeout).await?;
        let what = || format!("could not read the positions of group \"{}\"", self.options.group);
        if answer.error_code != 0 {
            return Err(refused(answer.error_code, what));
        }
        let mut committed = BTreeMap::new();
        for topic in answer.topics {
            let name: Arc<str> = topic.name.0.as_str().into();
            for partition in topic.partitions {
                if partition.error_code != 0 {
                    return Err(refused(partition.error_code, what));
                }
                if partition.committed_offset >= 0 {
                    let index = partition.partition_index;
                    let place = TopicPartition { topic: Arc::clone(&name), index };
                    committed.insert(place, partition.committed_offset);
                }
            }
        }
        Ok(committed)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.task.abort();
        let share = self.share.borrow().clone();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if share.member.is_empty() {
            return;
        }
        // Others need not wait until it is not heard of any more.
        let (cluster, group) = (Arc::clone(&self.cluster), self.options.group.clone());
        runtime.spawn(async move {
            let request = LeaveGroupRequest::default()
                .with_group_id(group_id(&group))
                .with_member_id(StrBytes::from_string(share.member));
            let timeout = cluster.options.request_timeout;
            let left = async {
                let mut coordinator = cluster.coordinator(Coordinates::Group, &group).await?;
                coordinator.call(&request, 2, timeout).await
            };
            if let Err(error) = left.await {
                tracing::debug!(group, %error, "group could not be left");
            }
        });
    }
}

/// The task of a membership.
struct Member {
    options: GroupOptions,
    cluster: Arc<Cluster>,
    share: watch::Sender<Share>,
    owned: BTreeSet<TopicPartition>,
    member: String,
    generation: i32,
}

/// Why a round ended.
enum Ended {
    /// Members or partitions changed.
    Rebalance,
    /// The group does not know us: what we had is others' by now.
    Forgotten,
    /// The broker is gone, or is not the one that coordinates any more.
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Member {
    async fn run(&mut self, trouble: impl Fn(Trouble) + Sync) {
        let mut backoff = BACKOFF.0;
        // When the group was last heard of: it takes us for gone some time after that.
        let mut heard = Instant::now();
        loop {
            let ended =
                match self.cluster.coordinator(Coordinates::Group, &self.options.group).await {
                    Ok(mut coordinator) => {
                        self.take_part(&mut coordinator, &mut heard, &trouble).await
                    }
                    Err(error) => Ended::Failed(error),
                };
            match ended {
                Ended::Rebalance => continue,
                Ended::Forgotten => {
                    tracing::warn!(group = self.options.group, "group has forgotten this member");
                    self.lose();
                }
                Ended::Failed(error) => {
                    tracing::warn!(group = self.options.group, %error, "group cannot be reached");
                    trouble(Some(error.chain()));
                    if heard.elapsed() >= self.options.session_timeout {
                        self.lose();
                    }
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
            if heard.elapsed() < BACKOFF.1 {
                backoff = BACKOFF.0;
            }
        }
    }

    /// What it had may be others' by now.
    fn lose(&mut self) {
        self.owned.clear();
        self.member.clear();
        self.generation = -1;
        self.tell();
    }

    fn tell(&self) {
        self.share.send_modify(|share| {
            share.member.clone_from(&self.member);
            share.generation = self.generation;
            share.ever.extend(self.owned.iter().cloned());
            share.partitions = Some(self.owned.clone());
        });
    }

    /// Joins and stays in until something changes.
    async fn take_part(
        &mut self,
        coordinator: &mut Connection,
        heard: &mut Instant,
        trouble: &(impl Fn(Trouble) + Sync),
    ) -> Ended {
        loop {
            match self.round(coordinator, heard, trouble).await {
                Err(Ended::Rebalance) | Ok(()) => {}
                Err(ended) => return ended,
            }
        }
    }

    /// Joins, is given a share, and shows signs of life until there is a reason to join again.
    async fn round(
        &mut self,
        coordinator: &mut Connection,
        heard: &mut Instant,
        trouble: &(impl Fn(Trouble) + Sync),
    ) -> Result<(), Ended> {
        let joined = self.join(coordinator).await?;
        *heard = Instant::now();
        let mut known = None;
        let mut assignments = Vec::new();
        if joined.leader == joined.member_id {
            let (assigned, partitions) = self.lead(&joined).await?;
            known = Some(partitions);
            for (member, given) in assigned {
                assignments.push(
                    SyncGroupRequestAssignment::default()
                        .with_member_id(StrBytes::from_string(member))
                        .with_assignment(encode_assignment(&given)?),
                );
            }
        }
        let given = self.sync(coordinator, assignments).await?;
        *heard = Instant::now();
        let gives_up = !self.owned.is_subset(&given);
        tracing::info!(
            group = self.options.group,
            generation = self.generation,
            partitions = given.len(),
            "group has agreed"
        );
        self.owned = given;
        self.tell();
        trouble(None);
        if gives_up {
            // What was given up is free for others in the next round.
            return Ok(());
        }
        let mut look = Instant::now() + self.options.discovery_interval;
        let between = HEARTBEAT.min(self.options.session_timeout / 3);
        loop {
            tokio::time::sleep(between).await;
            self.beat(coordinator).await?;
            *heard = Instant::now();
            // Who leads the group looks for partitions that are new.
            if let Some(known) = &known
                && Instant::now() >= look
            {
                look = Instant::now() + self.options.discovery_interval;
                let topics: BTreeSet<Arc<str>> =
                    known.iter().map(|partition| Arc::clone(&partition.topic)).collect();
                let topics = topics.into_iter().chain(self.options.topics.iter().cloned());
                match self.partitions(topics.collect()).await {
                    Ok(now) if now != *known => return Ok(()),
                    Ok(_) => {}
                    // They can wait.
                    Err(error) => tracing::warn!(%error, "could not look for new partitions"),
                }
            }
        }
    }

    async fn join(&mut self, coordinator: &mut Connection) -> Result<JoinGroupResponse, Ended> {
        let millis = |span: Duration| i32::try_from(span.as_millis()).unwrap_or(i32::MAX);
        let rebalance = self.options.session_timeout * 2;
        loop {
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(StrBytes::from_static_str(ASSIGNOR))
                .with_metadata(self.subscription()?);
            let request = JoinGroupRequest::default()
                .with_group_id(group_id(&self.options.group))
                .with_session_timeout_ms(millis(self.options.session_timeout))
                .with_rebalance_timeout_ms(millis(rebalance))
                .with_member_id(StrBytes::from_string(self.member.clone()))
                .with_protocol_type(StrBytes::from_static_str(PROTOCOL_TYPE))
                .with_protocols(vec![protocol]);
            let timeout = rebalance + self.cluster.options.request_timeout;
            let answer = coordinator.call(&request, 7, timeout).await?;
            match ResponseError::try_from_code(answer.error_code) {
                None => {
                    self.member = answer.member_id.to_string();
                    self.generation = answer.generation_id;
                    return Ok(answer);
                }
                // It is told who it is before it may come in.
                Some(ResponseError::MemberIdRequired) => {
                    self.member = answer.member_id.to_string();
                }
                Some(_) => return Err(self.ended(answer.error_code)),
            }
        }
    }

    /// As the group's leader, says who reads what.
    async fn lead(
        &self,
        joined: &JoinGroupResponse,
    ) -> Result<(Assignments, BTreeSet<TopicPartition>), Ended> {
        let mut members = BTreeMap::new();
        for member in &joined.members {
            let claimant = decode_subscription(&member.metadata)?;
            members.insert(member.member_id.to_string(), claimant);
        }
        let topics = members.values().flat_map(|member| member.topics.iter().cloned()).collect();
        let partitions = self.partitions(topics).await?;
        Ok((assign(&members, &partitions), partitions))
    }

    /// The partitions of some topics, as far as these are there.
    async fn partitions(&self, topics: BTreeSet<Arc<str>>) -> Result<BTreeSet<TopicPartition>> {
        let metadata = self.cluster.metadata(topics.iter().map(AsRef::as_ref)).await?;
        let mut partitions = BTreeSet::new();
        for topic in topics {
            let Some(known) = metadata.topics.get(&*topic) else { continue };
            partitions.extend(
                known
                    .leaders
                    .keys()
                    .map(|index| TopicPartition { topic: Arc::clone(&topic), index: *index }),
            );
        }
        Ok(partitions)
    }

    async fn sync(
        &self,
        coordinator: &mut Connection,
        assignments: Vec<SyncGroupRequestAssignment>,
    ) -> Result<BTreeSet<TopicPartition>, Ended> {
        let request = SyncGroupRequest::default()
            .with_group_id(group_id(&self.options.group))
            .with_generation_id(self.generation)
            .with_member_id(StrBytes::from_string(self.member.clone()))
            .with_protocol_type(Some(StrBytes::from_static_str(PROTOCOL_TYPE)))
            .with_protocol_name(Some(StrBytes::from_static_str(ASSIGNOR)))
            .with_assignments(assignments);
        // The leader may take as long as a round.
        let timeout = self.options.session_timeout * 2 + self.cluster.options.request_timeout;
        let answer = coordinator.call(&request, 5, timeout).await?;
        match answer.error_code {
            0 => Ok(decode_assignment(&answer.assignment)?),
            error => Err(self.ended(error)),
        }
    }

    async fn beat(&self, coordinator: &mut Connection) -> Result<(), Ended> {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id(&self.options.group))
            .with_generation_id(self.generation)
            .with_member_id(StrBytes::from_string(self.member.clone()));
        let timeout = self.cluster.options.request_timeout.min(self.options.session_timeout);
        let answer = coordinator.call(&request, 4, timeout).await?;
        match answer.error_code {
            0 => Ok(()),
            error => Err(self.ended(error)),
        }
    }

    fn ended(&self, error: i16) -> Ended {
        match ResponseError::try_from_code(error) {
            Some(ResponseError::RebalanceInProgress) => Ended::Rebalance,
            Some(
                ResponseError::UnknownMemberId
                | ResponseError::IllegalGeneration
                | ResponseError::FencedInstanceId,
            ) => Ended::Forgotten,
            known => {
                let error = refused(error, || {
                    format!("could not take part in group \"{}\"", self.options.group)
                });
                Ended::Failed(match known {
                    Some(ResponseError::InconsistentGroupProtocol) => {
                        error.hint(format!("all members have to know the assignor \"{ASSIGNOR}\""))
                    }
                    Some(ResponseError::InvalidSessionTimeout) => error.hint(
                        "change `session_timeout`: the cluster's group.min.session.timeout.ms and \
                         group.max.session.timeout.ms say what it takes",
                    ),
                    _ => error,
                })
            }
        }
    }

    /// What this member says of itself.
    fn subscription(&self) -> Result<Bytes> {
        let mut owned: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
        for partition in &self.owned {
            owned.entry(&partition.topic).or_default().push(partition.index);
        }
        let owned = owned.into_iter().map(|(topic, partitions)| {
            Owned::default().with_topic(topic_name(topic)).with_partitions(partitions)
        });
        let topics = self.options.topics.iter();
        let subscription = ConsumerProtocolSubscription::default()
            .with_topics(topics.map(|topic| StrBytes::from_string(topic.to_string())).collect())
            .with_owned_partitions(owned.collect())
            .with_generation_id(self.generation);
        let mut bytes = BytesMut::new();
        bytes.put_i16(SUBSCRIPTION);
        subscription.encode(&mut bytes, SUBSCRIPTION).map_err(unwritten)?;
        Ok(bytes.freeze())
    }
}

fn decode_subscription(bytes: &Bytes) -> Result<Claimant> {
    let mut bytes = bytes.clone();
    if bytes.len() < 2 {
        return Err(unread("it is too short"));
    }
    // What is newer begins as the newest that is known here.
    let version = bytes.get_i16().clamp(0, 3);
    let read = ConsumerProtocolSubscription::decode(&mut bytes, version).map_err(unread)?;
    let mut owned = BTreeSet::new();
    for topic in read.owned_partitions {
        let name: Arc<str> = topic.topic.0.as_str().into();
        owned.extend(
            topic
                .partitions
                .iter()
                .map(|index| TopicPartition { topic: Arc::clone(&name), index: *index }),
        );
    }
    Ok(Claimant {
        topics: read.topics.iter().map(|topic| topic.as_str().into()).collect(),
        owned,
        generation: read.generation_id,
    })
}

fn encode_assignment(given: &BTreeSet<TopicPartition>) -> Result<Bytes> {
    let mut topics: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
    for partition in given {
        topics.entry(&partition.topic).or_default().push(partition.index);
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        Assigned::default().with_topic(topic_name(topic)).with_partitions(partitions)
    });
    let assignment =
        ConsumerProtocolAssignment::default().with_assigned_partitions(topics.collect());
    let mut bytes = BytesMut::new();
    bytes.put_i16(ASSIGNMENT);
    assignment.encode(&mut bytes, ASSIGNMENT).map_err(unwritten)?;
    Ok(bytes.freeze())
}

fn decode_assignment(bytes: &Bytes) -> Result<BTreeSet<TopicPartition>> {
    let mut bytes = bytes.clone();
    // Without anything to read there may be nothing at all.
    if bytes.len() < 2 {
        return Ok(BTreeSet::new());
    }
    let version = bytes.get_i16().clamp(0, 3);
    let read = ConsumerProtocolAssignment::decode(&mut bytes, version).map_err(unread)?;
    let mut given = BTreeSet::new();
    for topic in read.assigned_partitions {
        let name: Arc<str> = topic.topic.0.as_str().into();
        given.extend(
            topic
                .partitions
                .iter()
                .map(|index| TopicPartition { topic: Arc::clone(&name), index: *index }),
        );
    }
    Ok(given)
}

fn unread(error: impl std::fmt::Display) -> Error {
    Error::new(code::SOURCE, "could not read what a member of a kafka group says of itself")
        .caused_by(error.to_string())
        .retryable()
}

fn unwritten(error: impl std::fmt::Display) -> Error {
    Error::internal("a message to a kafka group cannot be written").caused_by(error.to_string())
}

fn group_id(group: &str) -> GroupId {
    GroupId(StrBytes::from_string(group.to_owned()))
}
