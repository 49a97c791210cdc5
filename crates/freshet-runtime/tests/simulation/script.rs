//! What happens to a case from outside: each seed draws when which fault comes.

use std::collections::BTreeMap;

use freshet_core::crash::JOB_STEPS;
use freshet_testkit::sim::{Chance, Fate, Faults};

use crate::SECOND;

/// Something that happens.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// The process dies at a step, the `nth` time that it comes there, or is left alone there for a
    /// while, as if it were dead, while another one takes over.
    AtStep { step: &'static str, nth: u64, fate: Fate },
    /// The process dies in the midst of a change of the disk.
    InWrite { operation: u64 },
    /// The process dies wherever it stands.
    Killed,
    /// Calls of the store fail or take their time.
    Storage(Faults),
    /// Commits fail, take their time, or their answers are lost.
    Commits(Faults),
    /// The disk has room for so many bytes more.
    DiskFull { room: u64 },
    /// There is no room for scratch files.
    ScratchFull,
    /// What one process has to end so that the next begins with another parallelism.
    Rescale,
    /// A savepoint is asked for.
    Savepoint,
}

/// When what happens, in microseconds since the beginning, and for how long where it lasts.
#[derive(Debug, Clone, Copy)]
pub struct Planned {
    pub at: i64,
    pub lasts: i64,
    pub event: Event,
}

impl Event {
    /// Whether it is something that goes wrong.
    pub fn is_fault(self) -> bool {
        !matches!(self, Self::Rescale | Self::Savepoint)
    }

    /// Whether nothing comes of it unless there are many checkpoints.
    pub fn wants_many(self) -> bool {
        let of_many = |step: &str| step.starts_with("collect") || step.starts_with("merge");
        matches!(self, Self::AtStep { step, .. } if of_many(step))
    }

    /// A process that dies at one of the steps of the protocol, all of which have their turn.
    fn at_step(number: u64, chance: &Chance) -> Self {
        let (step, _) = JOB_STEPS[number as usize % JOB_STEPS.len()];
        // Where a life begins or ends, there is not much to wait for.
        let most =
            if step.starts_with("checkpoint") || step.starts_with("commit") { 12 } else { 2 };
        let fate = if chance.happens(0.3) { Fate::Freezes } else { Fate::Dies };
        Self::AtStep { step, nth: 1 + chance.below(most) as u64, fate }
    }

    fn draw(chance: &Chance) -> Self {
        let faults = || match chance.below(3) {
            0 => Faults { refused: 0.5, lost: 0.2, slow: 50_000 },
            1 => Faults { refused: 0.05, lost: 0.3, slow: 50_000 },
            _ => Faults { refused: 0.0, lost: 0.02, slow: 2 * SECOND },
        };
        match chance.below(12) {
            0..5 => Self::at_step(chance.below(1000) as u64, chance),
            5 => Self::InWrite { operation: 1 + chance.below(20) as u64 },
            6 => Self::Killed,
            7 => Self::Storage(faults()),
            8 => Self::Commits(faults()),
            9 => Self::DiskFull { room: chance.below(5_000) as u64 },
            10 => Self::ScratchFull,
            _ => Self::Savepoint,
        }
    }
}

/// What happens to the case of a seed within `span` microseconds: a rescale, a death at the step whose
/// turn it is, and at least three faults in all.
pub fn draw(seed: u64, span: i64, chance: &Chance) -> Vec<Planned> {
    let turn = match Event::at_step(seed, chance) {
        // All die at each of the steps.
        Event::AtStep { step, nth, .. } => Event::AtStep { step, nth, fate: Fate::Dies },
        event => event,
    };
    let mut events = vec![turn, Event::Rescale];
    let faults = 3 + chance.below(4);
    while events.iter().filter(|event| event.is_fault()).count() < faults {
        events.push(Event::draw(chance));
    }
    let planned = events.into_iter().map(|event| Planned {
        at: chance.between(0..span),
        lasts: chance.between(SECOND / 10..4 * SECOND),
        event,
    });
    let mut planned: Vec<_> = planned.collect();
    planned.sort_by_key(|planned| planned.at);
    planned
}

/// What happened, over all seeds.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// By step: processes that died there, those of them with the power of their machine, and those that
    /// were left alone there.
    pub steps: BTreeMap<&'static str, [u64; 3]>,
    /// Passes of each step.
    pub passed: BTreeMap<&'static str, u64>,
    /// What else happened.
    pub others: BTreeMap<&'static str, u64>,
    /// Cases.
    pub cases: u64,
}

impl Tally {
    /// Counts one that happened, and is no step's.
    pub fn count(&mut self, what: &'static str) {
        *self.others.entry(what).or_default() += 1;
    }

    /// Adds what happened in a case.
    pub fn add(&mut self, other: &Self) {
        for (step, counts) in &other.steps {
            let there = self.steps.entry(step).or_default();
            for (there, more) in there.iter_mut().zip(counts) {
                *there += more;
            }
        }
        for (step, passed) in &other.passed {
            *self.passed.entry(step).or_default() += passed;
        }
        for (what, count) in &other.others {
            *self.others.entry(what).or_default() += count;
        }
        self.cases += 1;
    }

    /// The steps at which no process died.
    pub fn missing(&self) -> Vec<&'static str> {
        let died = |step: &str| self.steps.get(step).is_some_and(|[died, ..]| *died > 0);
        JOB_STEPS.iter().map(|(step, _)| *step).filter(|step| !died(step)).collect()
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{} cases\n{:<22} {:>9} {:>9} {:>9} {:>9}\n",
            self.cases, "step", "passed", "died", "power cut", "frozen"
        );
        for (step, _) in JOB_STEPS {
            let [died, cut, frozen] = self.steps.get(step).copied().unwrap_or_default();
            let passed = self.passed.get(step).copied().unwrap_or_default();
            table += &format!("{step:<22} {passed:>9} {died:>9} {cut:>9} {frozen:>9}\n");
        }
        for (what, count) in &self.others {
            table += &format!("{what:<52} {count:>9}\n");
        }
        table
    }
}
