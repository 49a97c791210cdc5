//! Records that are read in place of bad ones.
//!
//! A correction says where its record lies. Where that place is still to be read, the bad record is
//! replaced there; where it was read before, the corrected one is read once more, behind what was read
//! since. How many corrections of a partition were taken up is a position like any other, so that each
//! counts once, whatever a job is restored from, and a job that reads all again meets them in their
//! places.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use freshet_core::format::Decoding;
use freshet_core::record::Decoded;
use freshet_core::source::Position;
use freshet_core::stream::{
    Block, BlockDecoder, Partition, StreamCorrection, StreamCorrections, StreamSource, Wake,
};
use freshet_core::{Error, Result};
use parking_lot::Mutex;

use super::SplitPosition;
use crate::executor::Io;

/// Microseconds between two looks for new corrections.
const POLL: i64 = 1_000_000;

/// Microseconds after which one is tried again whose decoder lacks something.
const HOLD: i64 = 50_000;

/// Corrections that are decoded at once.
const AT_ONCE: usize = 256;

/// The name under which checkpoints know how many corrections of a partition were taken up.
const PREFIX: &str = "corrections of ";

/// Whether a position in a checkpoint is one of these rather than one of the source's partitions.
pub(super) fn is_of_corrections(split: &str) -> bool {
    split.starts_with(PREFIX)
}

/// Corrections on their way to one task.
#[derive(Debug)]
pub(super) struct Inbox {
    arrived: Mutex<Vec<StreamCorrection>>,
    wake: Arc<dyn Wake>,
}

impl Inbox {
    pub(super) fn new(wake: &Arc<dyn Wake>) -> Arc<Self> {
        Arc::new(Self { arrived: Mutex::default(), wake: Arc::clone(wake) })
    }
}

/// Hands the corrections of a source to the inboxes of its tasks, of which `owner` says which.
pub(super) struct Dealer<F> {
    pub(super) corrections: Arc<dyn StreamCorrections>,
    pub(super) inboxes: Vec<Weak<Inbox>>,
    pub(super) owner: F,
    /// The last one that was handed on.
    pub(super) last: u64,
}

impl<F: Fn(&Partition) -> usize> Dealer<F> {
    /// Hands on what is new.
    pub(super) async fn look(&mut self) -> Result<()> {
        for correction in self.corrections.since(self.last).await? {
            self.last = correction.sequence;
            let inbox = self.inboxes.get((self.owner)(&correction.partition));
            if let Some(inbox) = inbox.and_then(Weak::upgrade) {
                inbox.arrived.lock().push(correction);
                inbox.wake.wake();
            }
        }
        Ok(())
    }

    /// Looks again and again, until nobody takes any more.
    pub(super) async fn run(mut self, io: Arc<dyn Io>) {
        let mut failed = false;
        loop {
            io.sleep(POLL).await;
            if self.inboxes.iter().all(|inbox| inbox.strong_count() == 0) {
                return;
            }
            match self.look().await {
                Ok(()) => failed = false,
                Err(error) if !std::mem::replace(&mut failed, true) => {
                    tracing::warn!(error = %error.chain(), "could not look for corrections, will try again");
                }
                Err(_) => {}
            }
        }
    }
}

/// The corrections of the partitions of one task.
pub(super) struct Corrected {
    source: Arc<dyn StreamSource>,
    decoder: Box<dyn BlockDecoder>,
    /// The partitions that the decoder knows.
    numbers: Vec<Partition>,
    inbox: Arc<Inbox>,
    /// The newest correction of each place that was not read yet, or of which one waits.
    newest: HashMap<(Partition, u64), StreamCorrection>,
    /// In the order of their numbers.
    waiting: VecDeque<StreamCorrection>,
    /// The last one that was taken up, by partition.
    done: BTreeMap<Partition, u64>,
    /// Where the checkpoint that the job goes on from stands.
    restored: BTreeMap<String, Position>,
    /// The last one that there was when the job began.
    first: u64,
    /// The time of day before which nothing is tried again.
    again: i64,
}

impl fmt::Debug for Corrected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Corrected").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl Corrected {
    /// `first` is the number of the last one that `inbox` has been given already.
    pub(super) fn new(
        source: &Arc<dyn StreamSource>,
        projection: &[usize],
        inbox: Arc<Inbox>,
        restored: &BTreeMap<String, Position>,
        first: u64,
    ) -> Result<Self> {
        Ok(Self {
            decoder: source.decoder(projection)?,
            source: Arc::clone(source),
            numbers: Vec::new(),
            inbox,
            newest: HashMap::new(),
            waiting: VecDeque::new(),
            done: BTreeMap::new(),
            restored: restored.clone(),
            first,
            again: i64::MIN,
        })
    }

    /// Where a checkpoint knows that reading a partition stands which nobody reads now.
    fn restored(&self, partition: &Partition) -> Option<Position> {
        self.restored.get(&partition.0).copied()
    }

    fn done(&self, partition: &Partition) -> u64 {
        if let Some(done) = self.done.get(partition) {
            return *done;
        }
        match self.restored.get(&format!("{PREFIX}{}", partition.0)) {
            Some(position) => position.0,
            // It was read when there were none.
            None if self.restored.contains_key(&partition.0) => 0,
            // It is read from its beginning: all that there were are met in their places.
            None => self.first,
        }
    }

    /// Takes up what has arrived.
    fn arrive(&mut self) {
        for correction in self.inbox.arrived.lock().drain(..) {
            let place = (correction.partition.clone(), correction.position.0);
            self.newest.insert(place, correction.clone());
            self.waiting.push_back(correction);
        }
    }

    /// Decodes corrections of records that were read before, all of the partition that is given;
    /// `stands` says where reading a partition stands.
    pub(super) fn next(
        &mut self,
        now: i64,
        stands: impl Fn(&Partition) -> Option<Position>,
        out: &mut Decoded,
    ) -> Result<Option<Partition>> {
        self.arrive();
        if self.waiting.is_empty() || now < self.again {
            return Ok(None);
        }
        let mut given: Option<Partition> = None;
        for _ in 0..AT_ONCE {
            let Some(correction) = self.waiting.front().cloned() else { break };
            let StreamCorrection { sequence, partition, position, record, .. } = &correction;
            let stand = stands(partition).or_else(|| self.restored(partition));
            let newest = self.newest.get(&(partition.clone(), position.0));
            let is_newest = newest.is_some_and(|newest| newest.sequence == *sequence);
            let was_read = stand.is_some_and(|stand| *position < stand);
            let is_due = *sequence > self.done(partition) && was_read && is_newest;
            if is_due && !record.is_empty() {
                if given.as_ref().is_some_and(|given| given != partition) {
                    break;
                }
                if self.decode(&correction, out)? == Decoding::Waits {
                    self.again = now + HOLD;
                    break;
                }
                given = Some(partition.clone());
            }
            // Those of a partition that was not read yet are met in their places.
            let done = self.done(partition).max(*sequence);
            self.done.insert(partition.clone(), done);
            self.waiting.pop_front();
        }
        if self.waiting.is_empty() {
            // What was read and is corrected is met no more.
            self.newest.retain(|(partition, position), _| {
                stands(partition).is_none_or(|stand| Position(*position) >= stand)
            });
        }
        Ok(given)
    }

    /// Whether corrections wait: no block may be read before they were taken up, so that none is met in
    /// its place and taken up as well.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The time of day at which [`Self::next`] may have something.
    pub(super) fn deadline(&self) -> Option<i64> {
        (!self.waiting.is_empty()).then_some(self.again)
    }

    /// Puts corrections in the places of bad records of a block of `partition`. Where one waits, the
    /// whole block is to be decoded again.
    pub(super) fn mend(
        &mut self,
        partition: &Partition,
        decoded: &mut Decoded,
    ) -> Result<Decoding> {
        if self.newest.is_empty() || decoded.rejects.is_empty() {
            return Ok(Decoding::Done);
        }
        let mut seen = HashSet::new();
        for reject in std::mem::take(&mut decoded.rejects) {
            let correction = self.newest.get(&(partition.clone(), reject.offset)).cloned();
            // Several bad records of one place, as of a broken batch, have one correction.
            let Some(correction) = correction.filter(|_| seen.insert(reject.offset)) else {
                decoded.rejects.push(reject);
                continue;
            };
            let mut mended = Decoded::default();
            if !correction.record.is_empty()
                && self.decode(&correction, &mut mended)? == Decoding::Waits
            {
                return Ok(Decoding::Waits);
            }
            if mended.records == 0 {
                decoded.filtered += 1;
            }
            decoded.records += mended.records.saturating_sub(1);
            decoded.good += mended.good;
            decoded.filtered += mended.filtered;
            decoded.batches.append(&mut mended.batches);
            decoded.kinds.append(&mut mended.kinds);
            decoded.rejects.append(&mut mended.rejects);
        }
        Ok(Decoding::Done)
    }

    fn decode(&mut self, correction: &StreamCorrection, out: &mut Decoded) -> Result<Decoding> {
        let StreamCorrection { partition, position, record, at, .. } = correction;
        let known = self.numbers.iter().position(|known| known == partition);
        let number = known.unwrap_or_else(|| {
            self.decoder.add(partition);
            self.numbers.push(partition.clone());
            self.numbers.len() - 1
        });
        let bytes: Option<Bytes> = self.source.block_of(partition, *position, record, *at)?;
        let bytes =
            bytes.ok_or_else(|| Error::internal("a source that knows no corrections has one"))?;
        let next = Position(position.0.saturating_add(1));
        let block = Block { partition: number, bytes, position: *position, next, written: None };
        self.decoder.decode(&block, out)
    }

    /// How many corrections of each partition were taken up; of those that are read, `read`.
    pub(super) fn positions<'a>(
        &'a self,
        read: impl Iterator<Item = &'a Partition>,
    ) -> Vec<SplitPosition> {
        let mut partitions: Vec<&Partition> = read.chain(self.done.keys()).collect();
        partitions.sort_unstable();
        partitions.dedup();
        let positions = partitions.into_iter().filter_map(|partition| {
            let done = self.done(partition);
            let split = format!("{PREFIX}{}", partition.0);
            (done > 0).then_some(SplitPosition { split, position: Position(done) })
        });
        positions.collect()
    }
}

#[cfg(test)]
mod tests;
