//! How rows get from one operator instance to another: bounded queues, and the division of batches
//! by key in front of them.

mod inbox;
mod partition;

pub use inbox::{ChannelSender, Inbox, Limits, Taken};
pub use partition::{Partitioner, Partitioning, reach};

use freshet_core::rows::Rows;
use freshet_core::stream::{Epoch, EventTime};

/// What a channel carries, in order.
#[derive(Debug, Clone)]
pub enum Element {
    /// Rows.
    Rows(Rows),
    /// Every row up to and including this time was sent, late ones apart.
    Watermark(EventTime),
    /// Nothing is to be expected until the next watermark: nobody should wait for this channel's time.
    Idle,
    /// What came before belongs to this epoch or an earlier one, what follows to later ones.
    Barrier(Barrier),
}

/// Cuts the stream into epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barrier {
    /// The epoch that ends here.
    pub epoch: Epoch,
    /// Whether nothing follows: the job drains.
    pub last: bool,
}
