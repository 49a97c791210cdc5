//! The source's side of a task: rows of splits, where reading stands, and how far event time has come.

mod corrections;
mod stream;
mod threshold;
mod watermarks;

use std::fmt::Debug;

use freshet_core::Result;
use freshet_core::rows::Rows;
use freshet_core::source::Position;
use freshet_core::stream::Wait;
use serde::{Deserialize, Serialize};

use crate::figures::SplitFigures;
use crate::operator::Port;

pub use stream::{StreamInput, dead_letter_schema};
pub use threshold::Threshold;
pub(crate) use watermarks::Watermarks;
pub use watermarks::{Silence, WatermarkSpec, WhenIdle};

/// The output of a source's task that carries dead letters.
pub const DEAD_LETTERS: Port = 2;

/// Where reading a split stands: the next record is the one at `position`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitPosition {
    /// The split's id, unique within its source.
    pub split: String,
    /// Where reading goes on.
    pub position: Position,
}

/// What a feed has.
#[derive(Debug)]
pub enum Fed {
    /// Rows.
    Rows {
        /// The number of the split, as this feed counts them from 0.
        split: usize,
        /// Good records, all of those before the position that [`Feed::positions`] gives from now on.
        rows: Vec<Rows>,
        /// Bad ones, in the form of the table of dead letters.
        dead: Option<Rows>,
    },
    /// Nothing now; whoever owns the task is woken once there is.
    Nothing,
    /// Nothing any more: all splits came to their end.
    End,
}

/// The decoded rows of the splits of one source task.
pub trait Feed: Debug + Send {
    /// How many splits there are by now: new ones are added behind.
    fn splits(&self) -> usize;

    /// What there is. Never waits.
    fn next(&mut self, now: i64) -> Result<Fed>;

    /// The time of day at which it may have something though nobody wakes it.
    fn deadline(&self) -> Option<i64> {
        None
    }

    /// Whether there is more of a split than [`Self::next`] gave, as far as is known without asking
    /// anybody: such a split is behind, and not idle.
    fn has_backlog(&self, _split: usize) -> bool {
        false
    }

    /// Where reading stands: everything before was given by [`Self::next`].
    fn positions(&self) -> Vec<SplitPosition>;

    /// What was read of each split so far; what it does not know is left as it is by default.
    fn figures(&self) -> Vec<SplitFigures> {
        Vec::new()
    }

    /// What fetching waits for, new records apart.
    fn waits(&self) -> Vec<Wait> {
        Vec::new()
    }

    /// How often the source had more bad records than it may have. One feed of a source tells it.
    fn alerts(&self) -> u64 {
        0
    }
}
