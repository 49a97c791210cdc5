//! What an operator is: a state machine that is called and never waits.
//!
//! Operators of one stage are chained: what one emits, the next one is called with, before the first
//! one's call returns. Clock, keys and state are given to it; it knows no thread, channel or store.

use std::fmt::Debug;
use std::sync::Arc;

use freshet_core::Result;
use freshet_core::clock::Clock;

use crate::state::{Delta, Entry, KeyGroupRange, SpillOptions};
use freshet_core::rows::Rows;
use freshet_core::stream::EventTime;

/// Where an operator's rows go: the next operator, or what the stage gives to others.
pub type Port = u8;

/// The rows that an operator gives.
pub const MAIN: Port = 0;

/// Rows that came after their time, where an operator sets them apart; of a join, those of its left
/// side. Who reads them has the watermark behind their columns, by which they were late.
pub const LATE: Port = 1;

/// The same, of a join's right side.
pub const LATE_RIGHT: Port = 3;

/// Whether a call did all that there was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// All of it.
    Done,
    /// There is more: [`Operator::resume`] is to be called before anything else.
    More,
}

/// An instance of an operator: one of as many as the job is parallel, owner of its keys.
pub trait Operator: Debug + Send {
    /// Takes rows of one of its inputs. What it gives at once stays below a few batches: where one
    /// row can give very many, it stops and says that there is more.
    fn on_rows(&mut self, input: usize, rows: Rows, out: &mut Out<'_>) -> Result<Flow>;

    /// Goes on with what [`Self::on_rows`] left. Only the first operator of a chain may leave anything.
    fn resume(&mut self, _out: &mut Out<'_>) -> Result<Flow> {
        Ok(Flow::Done)
    }

    /// Every row up to and including `watermark` was seen on all inputs, late ones apart. Gives the
    /// watermark that those behind may rely on, after what was emitted here: usually the same.
    fn on_watermark(&mut self, watermark: EventTime, _out: &mut Out<'_>) -> Result<EventTime> {
        Ok(watermark)
    }

    /// The time of day, in microseconds since 1970, at which it wants [`Self::on_time`].
    fn deadline(&self) -> Option<i64> {
        None
    }

    /// The time of day is `now`.
    fn on_time(&mut self, _now: i64, _out: &mut Out<'_>) -> Result<()> {
        Ok(())
    }

    /// Emits what it held back to emit it once rather than often: inputs have run dry for the
    /// moment, enough has gathered, or a barrier or watermark is about to pass.
    fn flush(&mut self, _out: &mut Out<'_>) -> Result<()> {
        Ok(())
    }

    /// Whether [`Self::flush`] would emit anything.
    fn holds_back(&self) -> bool {
        false
    }

    /// A checkpoint is cut here: what changed since the last one belongs to it, what changes from
    /// here on to the next.
    fn freeze(&mut self) {}

    /// Gives entries that belong to the frozen checkpoint, about `bytes` of them; [`Flow::Done`]
    /// when all were given. Entries that change before their turn are given as they were.
    fn drain(&mut self, _bytes: usize, _delta: &mut Delta) -> Result<Flow> {
        Ok(Flow::Done)
    }

    /// Takes entries of a checkpoint, neighbours in the order of group, table and key: before the
    /// first row, each key once.
    fn load(&mut self, entries: &[Entry<'_>]) -> Result<()> {
        Err(freshet_core::Error::internal(format!(
            "operator {self:?} has no state, a checkpoint has {} entries of it",
            entries.len()
        )))
    }

    /// About how many bytes of memory and how many keys its state has.
    fn size(&self) -> StateSize {
        StateSize::default()
    }

    /// What it did beside handing rows on.
    fn counts(&self) -> Counts {
        Counts::default()
    }
}

/// How large a state is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateSize {
    /// Bytes in memory.
    pub bytes: u64,
    /// Keys.
    pub keys: u64,
}

/// What became of rows that an operator took and did not hand on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that a condition left out.
    pub filtered: u64,
    /// Rows that came after their time.
    pub late: u64,
    /// Rows whose key was seen before.
    pub deduplicated: u64,
    /// Rows that found no partner.
    pub unmatched: u64,
}

/// What every instance is given.
#[derive(Debug, Clone)]
pub struct OperatorContext {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// The keys that are its own.
    pub groups: KeyGroupRange,
    /// How far event time had come at the checkpoint that it is restored from.
    pub watermark: EventTime,
    /// How much memory its state may take; all where it is not set.
    pub spill: Option<SpillOptions>,
}

/// Makes the instances of one operator.
pub trait OperatorSpec: Debug + Send + Sync {
    /// What it is, for people: `tumble 1 minute by city`.
    fn name(&self) -> String;

    /// Whether checkpoints may hold something of it.
    fn has_state(&self) -> bool {
        true
    }

    /// A new instance.
    fn create(&self, context: &OperatorContext) -> Result<Box<dyn Operator>>;
}

/// Where rows leave a chain.
pub trait Tail {
    /// Takes rows that operator `from` of the chain gave at `port`.
    fn rows(&mut self, from: usize, port: Port, rows: Rows) -> Result<()>;

    /// Takes rows that were late for operator `from`, whose time had come to `watermark`.
    fn late(&mut self, from: usize, port: Port, rows: Rows, _watermark: EventTime) -> Result<()> {
        self.rows(from, port, rows)
    }
}

/// What stands behind an operator in its chain.
pub struct Out<'a> {
    rest: &'a mut [Link],
    /// The operator's own place in the chain.
    place: usize,
    tail: &'a mut dyn Tail,
}

impl Debug for Out<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Out").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Out<'_> {
    /// Gives rows to the next operator.
    pub fn rows(&mut self, rows: Rows) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let Some((next, rest)) = self.rest.split_first_mut() else {
            return self.tail.rows(self.place, MAIN, rows);
        };
        let mut out = Out { rest, place: self.place + 1, tail: self.tail };
        match next.push(0, rows, &mut out)? {
            Flow::Done => Ok(()),
            Flow::More => Err(freshet_core::Error::internal(format!(
                "operator {:?} stopped in mid-chain",
                next.operator
            ))),
        }
    }

    /// Gives rows to those who read `port` of this operator, if anybody does.
    pub fn side(&mut self, port: Port, rows: Rows) -> Result<()> {
        if rows.is_empty() { Ok(()) } else { self.tail.rows(self.place, port, rows) }
    }

    /// Gives rows that came too late, as `watermark` shows, to those who read `port` of this operator.
    pub fn late(&mut self, port: Port, rows: Rows, watermark: EventTime) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.tail.late(self.place, port, rows, watermark)
    }
}

/// An operator in its chain, with the rows that it took.
#[derive(Debug)]
struct Link {
    operator: Box<dyn Operator>,
    rows_in: u64,
}

impl Link {
    fn push(&mut self, input: usize, rows: Rows, out: &mut Out<'_>) -> Result<Flow> {
        self.rows_in += rows.len() as u64;
        self.operator.on_rows(input, rows, out)
    }
}

/// The operators of one stage's instance, each calling the next.
#[derive(Debug)]
pub struct Chain {
    links: Vec<Link>,
    /// The first operator that is still to give entries to the checkpoint being made.
    draining: Option<usize>,
}

impl Chain {
    /// A chain of `operators`; none is a chain that hands rows on.
    pub fn new(operators: Vec<Box<dyn Operator>>) -> Self {
        let links = operators.into_iter().map(|operator| Link { operator, rows_in: 0 }).collect();
        Self { links, draining: None }
    }

    /// How many operators there are.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether rows are handed on as they are.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Gives rows of an input to the first operator.
    pub fn on_rows(&mut self, input: usize, rows: Rows, tail: &mut dyn Tail) -> Result<Flow> {
        if rows.is_empty() {
            return Ok(Flow::Done);
        }
        match self.at(0, tail) {
            Some((link, mut out)) => link.push(input, rows, &mut out),
            None => tail.rows(0, MAIN, rows).map(|()| Flow::Done),
        }
    }

    /// Lets the first operator go on with what it left.
    pub fn resume(&mut self, tail: &mut dyn Tail) -> Result<Flow> {
        match self.at(0, tail) {
            Some((link, mut out)) => link.operator.resume(&mut out),
            None => Ok(Flow::Done),
        }
    }

    /// Tells all operators how far event time has come; gives what those behind the chain may rely on.
    pub fn on_watermark(&mut self, watermark: EventTime, tail: &mut dyn Tail) -> Result<EventTime> {
        let mut watermark = watermark;
        for place in 0..self.links.len() {
            let (link, mut out) = self.at(place, tail).expect("the place is in the chain");
            link.operator.flush(&mut out)?;
            watermark = link.operator.on_watermark(watermark, &mut out)?;
        }
        Ok(watermark)
    }

    /// The earliest time of day that an operator waits for.
    pub fn deadline(&self) -> Option<i64> {
        self.links.iter().filter_map(|link| link.operator.deadline()).min()
    }

    /// Calls the operators whose time of day has come.
    pub fn on_time(&mut self, now: i64, tail: &mut dyn Tail) -> Result<()> {
        for place in 0..self.links.len() {
            let (link, mut out) = self.at(place, tail).expect("the place is in the chain");
            if link.operator.deadline().is_some_and(|deadline| deadline <= now) {
                link.operator.on_time(now, &mut out)?;
            }
        }
        Ok(())
    }

    /// Emits what was held back.
    pub fn flush(&mut self, tail: &mut dyn Tail) -> Result<()> {
        for place in 0..self.links.len() {
            let (link, mut out) = self.at(place, tail).expect("the place is in the chain");
            link.operator.flush(&mut out)?;
        }
        Ok(())
    }

    /// Whether anything is held back.
    pub fn holds_back(&self) -> bool {
        self.links.iter().any(|link| link.operator.holds_back())
    }

    /// Cuts a checkpoint. Nothing is held back at this moment: [`Self::flush`] was called.
    ///
    /// # Panics
    /// Where the last one was not drained.
    pub fn freeze(&mut self) {
        assert_eq!(self.draining, None, "one checkpoint at a time is drained");
        for link in &mut self.links {
            link.operator.freeze();
        }
        self.draining = Some(0);
    }

    /// Gives the entries of the frozen checkpoint, about `bytes` of them; `deltas` has one for each
    /// operator.
    pub fn drain(&mut self, bytes: usize, deltas: &mut [Delta]) -> Result<Flow> {
        let Some(first) = self.draining else { return Ok(Flow::Done) };
        let mut left = bytes;
        let links = self.links.iter_mut().zip(deltas).enumerate().skip(first);
        for (place, (link, delta)) in links {
            self.draining = Some(place);
            let before = delta.bytes();
            if link.operator.drain(left, delta)? == Flow::More {
                return Ok(Flow::More);
            }
            left = left.saturating_sub(delta.bytes() - before).max(1);
        }
        self.draining = None;
        Ok(Flow::Done)
    }

    /// Gives entries of a checkpoint to their operator.
    pub fn load(&mut self, place: usize, entries: &[Entry<'_>]) -> Result<()> {
        self.links[place].operator.load(entries)
    }

    /// Rows that each operator took, its counts and the size of its state.
    pub fn figures(&self) -> impl Iterator<Item = (u64, Counts, StateSize)> {
        self.links.iter().map(|link| (link.rows_in, link.operator.counts(), link.operator.size()))
    }

    fn at<'a>(
        &'a mut self,
        place: usize,
        tail: &'a mut dyn Tail,
    ) -> Option<(&'a mut Link, Out<'a>)> {
        let (link, rest) = self.links.get_mut(place..)?.split_first_mut()?;
        Some((link, Out { rest, place, tail }))
    }
}
