//! How far event time had come for an operator, kept in its checkpoints.
//!
//! What the runtime restores is how far time had come for those behind the operator, which is less where it
//! holds time back. All instances have come equally far when a barrier passes; each writes it for all
//! of its groups, so that whoever owns any of them later knows it.

use freshet_core::stream::EventTime;
use freshet_core::{Error, Result, error::code};

use crate::operator::OperatorContext;
use crate::state::{Delta, Entry, KeyGroup, KeyGroupRange};

/// The table of its entries.
pub(super) const TABLE: u8 = 2;

/// How far event time has come.
#[derive(Debug)]
pub(super) struct Progress {
    groups: KeyGroupRange,
    watermark: EventTime,
    frozen: EventTime,
    written: EventTime,
}

impl Progress {
    pub(super) fn new(context: &OperatorContext) -> Self {
        let none = EventTime::MIN;
        Self { groups: context.groups, watermark: context.watermark, frozen: none, written: none }
    }

    pub(super) fn watermark(&self) -> EventTime {
        self.watermark
    }

    /// Time has come to `watermark`; it does not go back, though it may be told anew what was known
    /// before a restart.
    pub(super) fn advance(&mut self, watermark: EventTime) {
        self.watermark = self.watermark.max(watermark);
    }

    pub(super) fn freeze(&mut self) {
        self.frozen = self.watermark;
    }

    /// How far it had come when the checkpoint was cut that is being made.
    pub(super) fn frozen(&self) -> EventTime {
        self.frozen
    }

    /// Gives what belongs to the checkpoint.
    pub(super) fn drain(&mut self, delta: &mut Delta) -> Result<()> {
        if self.frozen <= self.written {
            return Ok(());
        }
        for group in self.groups.start..self.groups.end {
            delta.set(Entry {
                group: KeyGroup(group),
                table: TABLE,
                key: &[],
                expires: self.frozen,
                value: &self.frozen.0.to_le_bytes(),
            })?;
        }
        // What is older is dead, so that the runs that have it can be forgotten.
        delta.floor(TABLE, EventTime(self.frozen.0.saturating_sub(1)));
        self.written = self.frozen;
        Ok(())
    }

    /// Takes an entry of a checkpoint.
    pub(super) fn load(&mut self, entry: &Entry<'_>) -> Result<()> {
        let time = entry.value.try_into().map_err(|_| {
            Error::new(code::STATE, "an entry of a join's progress is damaged")
                .hint("restore the state from a copy, or start from an older savepoint")
        })?;
        self.advance(EventTime(i64::from_le_bytes(time)));
        Ok(())
    }
}
