//! The source's side of a task: rows of splits, where reading stands, and how far event time has come.

mod stream;

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::max;
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use freshet_core::scalar::ScalarExpr;
use freshet_core::source::Position;
use freshet_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::figures::SplitFigures;
use crate::operator::Port;
use crate::time::{Merged, WatermarkMerge};
use freshet_core::rows::Rows;
use freshet_core::stream::{EventTime, Wait};

pub use stream::{StreamInput, dead_letter_schema};

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
}

/// How a source's rows say how far event time has come.
#[derive(Debug, Clone)]
pub struct WatermarkSpec {
    /// What `WATERMARK FOR` declares, a timestamp in microseconds; a null says nothing.
    pub expr: Arc<dyn ScalarExpr>,
    /// Microseconds without rows after which a split is idle; `None` is never.
    pub idle_after: Option<i64>,
}

/// The watermarks of the splits of one task.
#[derive(Debug)]
pub(crate) struct Watermarks {
    spec: WatermarkSpec,
    merge: WatermarkMerge,
    /// When each split last had rows; `None` once it is idle.
    seen: Vec<Option<i64>>,
}

impl Watermarks {
    /// Of a task whose time had come to `watermark` before.
    pub(crate) fn new(spec: WatermarkSpec, watermark: EventTime) -> Self {
        Self { spec, merge: WatermarkMerge::restored(0, watermark), seen: Vec::new() }
    }

    /// There are this many splits: nobody knows how far the time of new ones has come.
    pub(crate) fn extend(&mut self, splits: usize, now: i64) {
        if splits > self.seen.len() {
            self.merge.extend(splits);
            self.seen.resize(splits, Some(now));
        }
    }

    /// Rows of a split were read.
    pub(crate) fn observe(
        &mut self,
        split: usize,
        batch: &RecordBatch,
        now: i64,
    ) -> Result<Merged> {
        self.seen[split] = Some(now);
        self.merge.activate(split);
        if batch.num_rows() == 0 {
            return Ok(Merged::SAME);
        }
        let times = self.spec.expr.evaluate(batch)?;
        if *times.data_type() != DataType::Timestamp(TimeUnit::Microsecond, None) {
            return Err(Error::internal(format!("a watermark is of type {}", times.data_type())));
        }
        Ok(match max(times.as_primitive::<TimestampMicrosecondType>()) {
            Some(latest) => self.merge.advance(split, EventTime(latest)),
            None => Merged::SAME,
        })
    }

    /// The time of day is `now`: splits without rows may have become idle.
    pub(crate) fn tick(&mut self, now: i64) -> Merged {
        let Some(idle_after) = self.spec.idle_after else { return Merged::SAME };
        let mut told = Merged::SAME;
        for (split, seen) in self.seen.iter_mut().enumerate() {
            if seen.is_some_and(|seen| seen + idle_after <= now) {
                *seen = None;
                told = told.then(self.merge.idle(split));
            }
        }
        told
    }

    /// How far the time of a split has come, and whether it is idle.
    pub(crate) fn split(&self, split: usize) -> Option<(EventTime, bool)> {
        self.merge.input(split)
    }

    /// When the next split will be idle if it has no rows until then.
    pub(crate) fn deadline(&self) -> Option<i64> {
        let idle_after = self.spec.idle_after?;
        self.seen.iter().flatten().map(|seen| seen + idle_after).min()
    }
}
