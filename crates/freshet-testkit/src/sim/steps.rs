//! The steps of the protocol that a simulation passes, and the one at which a process comes to its end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use freshet_core::crash::{self, Observed};

/// What becomes of the process that passes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is killed there: [`Stepped::Died`](super::Stepped::Died).
    Dies,
    /// It is left alone from there on; who steps processes sees to that.
    Freezes,
}

/// Counts the steps that are passed on this thread, and sets a trap at one of them.
#[derive(Debug)]
pub struct Steps {
    shared: Rc<RefCell<Shared>>,
    _observed: Observed,
}

#[derive(Debug, Default)]
struct Shared {
    passed: BTreeMap<&'static str, u64>,
    trap: Option<Trap>,
    frozen: Option<&'static str>,
}

#[derive(Debug)]
struct Trap {
    step: &'static str,
    /// Passes that are still let through.
    before: u64,
    fate: Fate,
}

/// What a process is unwound with that dies at a step.
pub(super) struct Died(pub(super) &'static str);

impl Steps {
    /// Counts from now on, until it is dropped: one at a time on a thread.
    pub fn watch() -> Self {
        let shared = Rc::<RefCell<Shared>>::default();
        let told = Rc::clone(&shared);
        Self { shared, _observed: crash::observe(move |step| pass(&told, step)) }
    }

    /// Sets the trap at the `nth` pass of `step` from now, counted from 1.
    pub fn set(&self, step: &'static str, nth: u64, fate: Fate) {
        self.shared.borrow_mut().trap = Some(Trap { step, before: nth.saturating_sub(1), fate });
    }

    /// Takes the trap away.
    pub fn clear(&self) {
        self.shared.borrow_mut().trap = None;
    }

    /// Whether a trap is set that nobody came to yet.
    pub fn is_set(&self) -> bool {
        self.shared.borrow().trap.is_some()
    }

    /// The step at which the process that was stepped last is to be left alone, said once.
    pub fn frozen(&self) -> Option<&'static str> {
        self.shared.borrow_mut().frozen.take()
    }

    /// How often each step was passed.
    pub fn passed(&self) -> BTreeMap<&'static str, u64> {
        self.shared.borrow().passed.clone()
    }
}

fn pass(shared: &RefCell<Shared>, step: &'static str) {
    let fate = {
        let mut shared = shared.borrow_mut();
        *shared.passed.entry(step).or_default() += 1;
        match &mut shared.trap {
            Some(trap) if trap.step == step && trap.before == 0 => {
                let fate = trap.fate;
                shared.trap = None;
                fate
            }
            Some(trap) if trap.step == step => {
                trap.before -= 1;
                return;
            }
            _ => return,
        }
    };
    match fate {
        // Not a panic: nobody is to print it.
        Fate::Dies => std::panic::resume_unwind(Box::new(Died(step))),
        Fate::Freezes => shared.borrow_mut().frozen = Some(step),
    }
}
