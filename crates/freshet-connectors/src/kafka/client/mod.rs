//! A thin client of Kafka's protocol: which brokers there are, who leads what, who coordinates whom.
//!
//! Requests and answers are `kafka-protocol`'s. Nothing here retries: whoever calls knows how long.

mod admin;
mod connection;
pub mod produce;
pub(super) mod security;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use freshet_core::error::{Error, Result, code};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponse;
use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use parking_lot::Mutex;

pub use connection::{Connection, InFlight};

use super::options::ConnectionOptions;

/// A partition as Kafka names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The number, from 0.
    pub index: i32,
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.index)
    }
}

impl std::str::FromStr for TopicPartition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.rsplit_once('/')
            .and_then(|(topic, index)| {
                Some(Self { topic: topic.into(), index: index.parse().ok().filter(|i| *i >= 0)? })
            })
            .ok_or_else(|| Error::internal(format!("\"{text}\" is no partition of a topic")))
    }
}

/// What kafka says of some topics.
#[derive(Debug, Default)]
pub struct Metadata {
    /// The topics, by name.
    pub topics: BTreeMap<String, Topic>,
}

/// What is known of a topic.
#[derive(Debug)]
pub struct Topic {
    /// Its identity: one that is deleted and made again has another. Zero where the broker is older.
    pub id: u128,
    /// Why it cannot be used; 0 where it can.
    pub error: i16,
    /// The broker that leads each partition, `None` where there is none at the moment.
    pub leaders: BTreeMap<i32, Option<i32>>,
}

/// What somebody coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coordinates {
    /// The offsets of a consumer group.
    Group,
    /// The transactions of an id.
    Transactions,
}

/// A cluster.
#[derive(Debug)]
pub struct Cluster {
    /// How its brokers are connected to.
    pub options: Arc<ConnectionOptions>,
    brokers: Mutex<HashMap<i32, (String, u16)>>,
    /// For questions that any broker answers.
    any: tokio::sync::Mutex<Option<Connection>>,
}

impl Cluster {
    /// A cluster that nobody has asked anything yet.
    pub fn new(options: Arc<ConnectionOptions>) -> Self {
        Self { options, brokers: Mutex::default(), any: tokio::sync::Mutex::default() }
    }

    /// A connection to whichever of the given brokers answers.
    async fn connect_any(&self) -> Result<Connection> {
        let mut failure = None;
        let mut addresses = self.options.brokers.clone();
        for known in self.brokers.lock().values() {
            if !addresses.contains(known) {
                addresses.push(known.clone());
            }
        }
        for (host, port) in &addresses {
            match Connection::open(&self.options, host, *port).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::new(code::CONFIG, "option \"brokers\" is empty")))
    }

    /// A connection of its own to one broker.
    pub async fn connect(&self, broker: i32) -> Result<Connection> {
        let known = self.brokers.lock().get(&broker).cloned();
        let Some((host, port)) = known else {
            return Err(Error::new(
                code::CONNECTION,
                format!("kafka broker {broker} is not known"),
            )
            .retryable());
        };
        Connection::open(&self.options, &host, port).await
    }

    /// Asks any broker.
    async fn ask<R: kafka_protocol::protocol::Request>(
        &self,
        request: &R,
        highest: i16,
    ) -> Result<R::Response> {
        let mut any = self.any.lock().await;
        if let Some(connection) = any.as_mut() {
            match connection.call(request, highest, self.options.request_timeout).await {
                Ok(answer) => return Ok(answer),
                // It may have been closed for idleness long ago.
                Err(error) if error.is_retryable() => *any = None,
                Err(error) => return Err(error),
            }
        }
        let mut connection = self.connect_any().await?;
        let answer = connection.call(request, highest, self.options.request_timeout).await?;
        *any = Some(connection);
        Ok(answer)
    }

    /// What there is to know of these topics.
    pub async fn metadata<'a>(&self, topics: impl Iterator<Item = &'a str>) -> Result<Metadata> {
        let topics =
            topics.map(|topic| MetadataRequestTopic::default().with_name(Some(topic_name(topic))));
        let request = MetadataRequest::default()
            .with_topics(Some(topics.collect()))
            .with_allow_auto_topic_creation(false);
        // From 10 on topics have identities.
        let answer: MetadataResponse = self.ask(&request, 12).await?;
        let mut brokers = self.brokers.lock();
        brokers.clear();
        for broker in &answer.brokers {
            if let Ok(port) = u16::try_from(broker.port) {
                brokers.insert(broker.node_id.0, (broker.host.to_string(), port));
            }
        }
        let topics = answer.topics.into_iter().filter_map(|topic| {
            let leaders = topic.partitions.iter().map(|partition| {
                let leader = partition.leader_id.0;
                (partition.partition_index, (leader >= 0).then_some(leader))
            });
            let known = Topic {
                id: topic.topic_id.as_u128(),
                error: topic.error_code,
                leaders: leaders.collect(),
            };
            Some((topic.name?.0.to_string(), known))
        });
        Ok(Metadata { topics: topics.collect() })
    }

    /// What there is to know of one topic, which can be used.
    pub async fn topic(&self, name: &str) -> Result<Topic> {
        let mut metadata = self.metadata(std::iter::once(name)).await?;
        match metadata.topics.remove(name) {
            Some(topic) if topic.error == 0 => Ok(topic),
            Some(topic) => Err(refused(topic.error, || format!("could not read topic \"{name}\""))),
            None => {
                Err(Error::new(code::SOURCE, format!("kafka says nothing of topic \"{name}\""))
                    .retryable())
            }
        }
    }

    /// A connection to the broker that coordinates a group or transactional id.
    pub async fn coordinator(&self, what: Coordinates, key: &str) -> Result<Connection> {
        let request = FindCoordinatorRequest::default()
            .with_key(StrBytes::from_string(key.to_owned()))
            .with_key_type(match what {
                Coordinates::Group => 0,
                Coordinates::Transactions => 1,
            });
        // From 4 on it is asked for several at once, in other fields.
        let answer = self.ask(&request, 3).await?;
        if answer.error_code != 0 {
            return Err(refused(answer.error_code, || {
                format!("could not find the kafka broker that coordinates \"{key}\"")
            }));
        }
        let port = u16::try_from(answer.port)
            .map_err(|_| Error::internal("a kafka broker has a port that is none"))?;
        Connection::open(&self.options, &answer.host, port).await
    }
}

/// A topic's name as requests have it.
pub fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// The error behind a code that a broker answered with.
pub fn refused(error: i16, what: impl FnOnce() -> String) -> Error {
    use ResponseError as E;
    let known = ResponseError::try_from_code(error).unwrap_or(E::UnknownServerError);
    let code = match known {
        E::InvalidProducerEpoch | E::ProducerFenced => code::FENCED,
        E::SaslAuthenticationFailed | E::UnsupportedSaslMechanism => code::CONNECTION,
        _ => code::SOURCE,
    };
    let wrapped = Error::new(code, what()).caused_by(format!("kafka says {known} ({error})"));
    let wrapped = match known {
        E::UnknownTopicOrPartition | E::UnknownTopicId => {
            wrapped.hint("make the topic, or look at its name")
        }
        E::TopicAuthorizationFailed
        | E::GroupAuthorizationFailed
        | E::ClusterAuthorizationFailed
        | E::TransactionalIdAuthorizationFailed => {
            wrapped.hint("the user of the connection needs the right to it in the cluster's ACLs")
        }
        E::MessageTooLarge | E::RecordListTooLarge => {
            wrapped.hint("raise the topic's max.message.bytes, or lower `batch_bytes`")
        }
        E::InvalidTransactionTimeout => wrapped
            .hint("lower `transaction_timeout`, or raise the cluster's transaction.max.timeout.ms"),
        E::InvalidProducerEpoch | E::ProducerFenced => {
            wrapped.hint("another instance of the job has opened the sink")
        }
        _ => wrapped,
    };
    // The marks of the transaction before may still be on their way.
    let passing = known.is_retriable() || known == E::ConcurrentTransactions;
    if passing { wrapped.retryable() } else { wrapped }
}

/// Calls again, with growing waits, for as long as the error may pass and patience lasts.
pub async fn retrying<T, F>(patience: Duration, mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let begun = tokio::time::Instant::now();
    let mut wait = Duration::from_millis(20);
    loop {
        match call().await {
            Err(error) if error.is_retryable() && begun.elapsed() + wait < patience => {
                tracing::debug!(%error, "kafka is asked again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(2));
            }
            result => return result,
        }
    }
}
