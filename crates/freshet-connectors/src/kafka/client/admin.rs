//! Making and deleting topics, which set-ups need.

use std::time::Duration;

use freshet_core::error::{Error, Result, code};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest};
use kafka_protocol::protocol::StrBytes;

use super::{Cluster, refused, retrying, topic_name};

/// How long the cluster may take.
const PATIENCE: Duration = Duration::from_secs(30);

impl Cluster {
    /// Makes a topic with these settings, e.g. `cleanup.policy`; the cluster chooses its replicas.
    pub async fn create_topic(
        &self,
        topic: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Result<()> {
        let settings = settings.iter().map(|(name, value)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string((*name).to_owned()))
                .with_value(Some(StrBytes::from_string((*value).to_owned())))
        });
        let wanted = CreatableTopic::default()
            .with_name(topic_name(topic))
            .with_num_partitions(partitions)
            .with_replication_factor(-1)
            .with_configs(settings.collect());
        let request = CreateTopicsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(PATIENCE.as_millis() as i32);
        let answer = self.ask(&request, 5).await?;
        let Some(made) = answer.topics.first() else {
            return Err(Error::new(code::SOURCE, format!("kafka did not make topic \"{topic}\"")));
        };
        match made.error_code {
            0 => Ok(()),
            error => Err(refused(error, || format!("could not make topic \"{topic}\""))),
        }
    }

    /// Makes a topic with so many partitions where it is missing, and waits until they have leaders.
    pub async fn ensure_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        match self.topic(topic).await {
            Err(error) if error.chain().contains("UnknownTopicOrPartition") => {}
            other => return other.map(drop),
        }
        match self.create_topic(topic, partitions, &[]).await {
            // Somebody was faster.
            Err(error) if error.chain().contains("TopicAlreadyExists") => {}
            other => other?,
        }
        // Brokers hear of it one after another.
        retrying(self.options.request_timeout, || async {
            let known = self.topic(topic).await.map_err(Error::retryable)?;
            match known.leaders.iter().find(|(_, leader)| leader.is_none()) {
                None => Ok(()),
                Some((partition, _)) => Err(Error::new(
                    code::SOURCE,
                    format!("partition \"{topic}/{partition}\" has no leader yet"),
                )
                .retryable()),
            }
        })
        .await
    }

    /// Makes a topic have `partitions` in all, more than it has.
    pub async fn add_partitions(&self, topic: &str, partitions: i32) -> Result<()> {
        let wanted = CreatePartitionsTopic::default()
            .with_name(topic_name(topic))
            .with_count(partitions)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(PATIENCE.as_millis() as i32);
        let answer = self.ask(&request, 3).await?;
        match answer.results.first().map_or(-1, |made| made.error_code) {
            0 => Ok(()),
            error => {
                Err(refused(error, || format!("could not add partitions to topic \"{topic}\"")))
            }
        }
    }

    /// Deletes a topic.
    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![topic_name(topic)])
            .with_timeout_ms(PATIENCE.as_millis() as i32);
        let answer = self.ask(&request, 5).await?;
        match answer.responses.first().map_or(-1, |deleted| deleted.error_code) {
            0 => Ok(()),
            error => Err(refused(error, || format!("could not delete topic \"{topic}\""))),
        }
    }
}
