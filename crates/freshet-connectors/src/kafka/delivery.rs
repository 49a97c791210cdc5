//! Batches that are sent until they are acknowledged, numbered so that a repeated one counts once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use freshet_core::error::{Error, Result, code};

use super::batch::{Stamp, stamp};
use super::client::Cluster;
use super::client::produce::{Producer, Sender};
use super::records::BatchHeader;

/// The longest wait between attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Sends to one topic as one producer, without transactions.
#[derive(Debug)]
pub struct Delivery {
    cluster: Arc<Cluster>,
    sender: Sender,
    producer: Producer,
    /// The next record's number, by partition.
    sequences: BTreeMap<i32, i32>,
}

impl Delivery {
    /// Becomes a producer.
    pub async fn start(cluster: Arc<Cluster>, topic: Arc<str>) -> Result<Self> {
        let producer = cluster.producer(None, Duration::from_secs(60)).await?;
        let sender = Sender::new(Arc::clone(&cluster), topic);
        Ok(Self { cluster, sender, producer, sequences: BTreeMap::new() })
    }

    /// How many partitions the topic has.
    pub async fn partitions(&mut self) -> Result<i32> {
        self.sender.partitions().await
    }

    /// Sends until all are acknowledged, or nothing can help.
    pub async fn send(&mut self, plain: BTreeMap<i32, Bytes>) -> Result<()> {
        let mut wait = Duration::from_millis(50);
        let mut stamped = self.stamped(&plain)?;
        loop {
            let Err(error) = self.sender.send(None, &mut stamped).await else { return Ok(()) };
            let forgotten = error.chain().contains("OutOfOrderSequence")
                || error.chain().contains("UnknownProducerId")
                || error.code() == code::FENCED;
            if forgotten {
                // The cluster does not know us any more: as somebody else we may send twice.
                self.producer = self.cluster.producer(None, Duration::from_secs(60)).await?;
                self.sequences.clear();
                let left = plain.iter().filter(|(partition, _)| stamped.contains_key(partition));
                let left = left.map(|(partition, batch)| (*partition, batch.clone())).collect();
                stamped = self.stamped(&left)?;
            } else if !error.is_retryable() {
                return Err(error);
            }
            tracing::warn!(%error, wait_ms = wait.as_millis() as u64, "kafka is written to again");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    fn stamped(&mut self, plain: &BTreeMap<i32, Bytes>) -> Result<BTreeMap<i32, Bytes>> {
        let mut stamped = BTreeMap::new();
        for (partition, batch) in plain {
            let count = match BatchHeader::parse(batch) {
                Ok(Some(header)) => header.count,
                _ => return Err(Error::internal("a batch on its way to kafka is damaged")),
            };
            let sequence = self.sequences.entry(*partition).or_default();
            let mut bytes = BytesMut::from(&batch[..]);
            stamp(
                &mut bytes,
                &Stamp {
                    producer_id: self.producer.id,
                    producer_epoch: self.producer.epoch,
                    sequence: *sequence,
                    transactional: false,
                },
            );
            *sequence = (i64::from(*sequence) + i64::from(count)).rem_euclid(1 << 31) as i32;
            stamped.insert(*partition, bytes.freeze());
        }
        Ok(stamped)
    }
}
