//! How far the event time of a source's splits has come, and which of them nobody waits for.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::max;
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use freshet_core::scalar::ScalarExpr;
use freshet_core::stream::EventTime;
use freshet_core::{Error, Result};
use parking_lot::Mutex;

use crate::time::{Merged, WatermarkMerge};

/// How often the time of a source that is idle as a whole advances, in microseconds.
const STEP: i64 = 1_000_000;

/// How a source's rows say how far event time has come.
#[derive(Debug, Clone)]
pub struct WatermarkSpec {
    /// What `WATERMARK FOR` declares, a timestamp in microseconds; a null says nothing.
    pub expr: Arc<dyn ScalarExpr>,
    /// Microseconds without rows after which a split is idle, unless it is known to have more;
    /// `None` is never.
    pub idle_after: Option<i64>,
    /// What becomes of time while all splits are idle.
    pub when_idle: WhenIdle,
}

impl WatermarkSpec {
    /// Of a source that waits for all of its splits.
    pub fn new(expr: Arc<dyn ScalarExpr>) -> Self {
        Self { expr, idle_after: None, when_idle: WhenIdle::Wait }
    }
}

/// What becomes of event time while all splits of a source are idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenIdle {
    /// It stands still, and nobody waits for the source.
    #[default]
    Wait,
    /// It goes on from the last rows as the time of day does: windows close, and rows that come
    /// after all may be late.
    Advance,
}

/// What the tasks of one source know together: whether it is idle as a whole.
#[derive(Debug, Default)]
pub struct Silence(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    /// Tasks that have a split that is not idle.
    awake: usize,
    /// How far the time of the task had come that came furthest.
    time: Option<EventTime>,
    /// The time of day of the last rows, in microseconds since 1970.
    at: i64,
}

impl Silence {
    /// A task that was idle has rows, or splits that may have some.
    fn wake(&self, now: i64) {
        let mut heard = self.0.lock();
        heard.awake += 1;
        heard.at = heard.at.max(now);
    }

    /// All splits of a task that was awake are idle.
    fn sleep(&self) {
        let mut heard = self.0.lock();
        heard.awake = heard.awake.saturating_sub(1);
    }

    fn heard(&self, time: EventTime, now: i64) {
        let mut heard = self.0.lock();
        heard.time = heard.time.max(Some(time));
        heard.at = heard.at.max(now);
    }

    /// How far time has come by the time of day; `None` while a task is awake, and where nothing was
    /// ever heard.
    fn time(&self, now: i64) -> Option<EventTime> {
        let heard = self.0.lock();
        let time = heard.time.filter(|time| heard.awake == 0 && *time != EventTime::MIN)?;
        Some(EventTime(time.0.saturating_add(now - heard.at)))
    }
}

/// The watermarks of the splits of one task.
#[derive(Debug)]
pub(crate) struct Watermarks {
    spec: WatermarkSpec,
    merge: WatermarkMerge,
    /// When each split last had rows; `None` once it is idle.
    seen: Vec<Option<i64>>,
    silence: Arc<Silence>,
    /// Whether this task counts as awake in `silence`.
    is_awake: bool,
    /// The last words were a time that the source's silence gave.
    is_advanced: bool,
    /// When to look at `silence` again.
    look: Option<i64>,
}

impl Watermarks {
    /// Of a task whose time had come to `watermark` before.
    pub(crate) fn new(spec: WatermarkSpec, silence: Arc<Silence>, watermark: EventTime) -> Self {
        Self {
            spec,
            merge: WatermarkMerge::restored(0, watermark),
            seen: Vec::new(),
            silence,
            is_awake: false,
            is_advanced: false,
            look: None,
        }
    }

    /// There are this many splits: nobody knows how far the time of new ones has come.
    pub(crate) fn extend(&mut self, splits: usize, now: i64) {
        if splits > self.seen.len() {
            self.merge.extend(splits);
            self.seen.resize(splits, Some(now));
            self.wake(now);
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
        self.wake(now);
        self.merge.activate(split);
        if batch.num_rows() == 0 {
            return Ok(Merged::SAME);
        }
        let times = self.spec.expr.evaluate(batch)?;
        if *times.data_type() != DataType::Timestamp(TimeUnit::Microsecond, None) {
            return Err(Error::internal(format!("a watermark is of type {}", times.data_type())));
        }
        let merged = match max(times.as_primitive::<TimestampMicrosecondType>()) {
            Some(latest) => self.merge.advance(split, EventTime(latest)),
            None => Merged::SAME,
        };
        if self.spec.when_idle == WhenIdle::Advance {
            self.silence.heard(self.merge.combined(), now);
        }
        Ok(merged)
    }

    /// The time of day is `now`: splits without rows may have become idle.
    pub(crate) fn tick(&mut self, now: i64, has_backlog: impl Fn(usize) -> bool) -> Merged {
        let Some(idle_after) = self.spec.idle_after else { return Merged::SAME };
        let mut told = Merged::SAME;
        for (split, seen) in self.seen.iter_mut().enumerate() {
            if seen.is_some_and(|seen| seen + idle_after <= now) {
                if has_backlog(split) {
                    *seen = Some(now);
                    continue;
                }
                *seen = None;
                told = told.then(self.merge.idle(split));
            }
        }
        if self.is_awake && self.seen.iter().all(Option::is_none) {
            self.is_awake = false;
            if self.spec.when_idle == WhenIdle::Advance {
                // What the splits said together last, now that nobody is behind.
                self.silence.heard(self.merge.combined(), i64::MIN);
                self.look = Some(now);
            }
            self.silence.sleep();
        }
        match self.look(now) {
            Some(later) => told.then(later),
            None => told,
        }
    }

    /// While this task is idle: what the silence of the source says.
    fn look(&mut self, now: i64) -> Option<Merged> {
        self.look.filter(|look| *look <= now)?;
        self.look = Some(now + STEP);
        match self.silence.time(now) {
            Some(time) => {
                self.is_advanced = true;
                Some(self.merge.raise(time))
            }
            // Another task has rows again: nobody is to wait for this one.
            None if std::mem::take(&mut self.is_advanced) => {
                Some(Merged { is_idle: true, ..Merged::SAME })
            }
            None => None,
        }
    }

    fn wake(&mut self, now: i64) {
        if !std::mem::replace(&mut self.is_awake, true) {
            self.is_advanced = false;
            self.look = None;
            self.silence.wake(now);
        }
    }

    /// Whether nobody waits for any split.
    pub(crate) fn is_idle(&self) -> bool {
        self.merge.is_idle()
    }

    /// How far the time of a split has come, and whether it is idle.
    pub(crate) fn split(&self, split: usize) -> Option<(EventTime, bool)> {
        self.merge.input(split)
    }

    /// When the next split will be idle if it has no rows until then, or an idle source's time
    /// advances.
    pub(crate) fn deadline(&self) -> Option<i64> {
        let idle_after = self.spec.idle_after?;
        let idle = self.seen.iter().flatten().map(|seen| seen + idle_after).min();
        idle.into_iter().chain(self.look).min()
    }
}

#[cfg(test)]
mod tests;
