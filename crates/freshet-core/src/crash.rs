//! Named steps at which a test can end the process, as a power cut would.
//!
//! Each durable step of a run or a streaming job is followed by a [`point`]. In builds with debug assertions, or with
//! the feature `crash-points`, a point ends the process without any clean-up when the environment
//! variable `FRESHET_CRASH_AT` names it: `publish.intent`, or `publish.intent#3` for the third
//! time that it is passed. In other builds a point is nothing at all.

/// The environment variable that names the step at which the process ends.
pub const VARIABLE: &str = "FRESHET_CRASH_AT";

/// All steps, in the order in which a run of one model passes them, and what is durable by then.
pub const STEPS: &[(&str, &str)] = &[
    ("run.locked", "the environment is locked; nothing was written"),
    ("run.recovered", "the intents of earlier runs were finished"),
    ("run.begun", "the run is in the index as running"),
    ("publish.executed", "the result was computed, some of its files may be staged"),
    ("publish.staged", "every file of the result is staged and durable"),
    ("publish.checked", "the checks ran on the staged version"),
    ("publish.dead_letters_staged", "the file of dead letters is durable"),
    ("publish.intent", "the intent is durable: from here on the build is rolled forward"),
    ("publish.dead_letters", "the dead letters are committed under the intent's number"),
    ("publish.committed", "the table is committed under the intent's number"),
    ("publish.exported", "the export's files are visible"),
    ("publish.loaded", "the warehouse holds the rows"),
    ("run.task_recorded", "the task is in the index"),
    ("run.finished", "the run is in the index as finished"),
];

/// The steps of streaming jobs: how one is taken over, then how it makes a checkpoint and commits it.
/// Each is passed by whoever did the step, before anybody else is told of it.
pub const JOB_STEPS: &[(&str, &str)] = &[
    ("job.claimed", "the manifest of this life is durable: those before can write none any more"),
    ("job.opened", "a sink is open, which fences those before where the target can"),
    ("job.recovered", "a sink holds what the life before had left to commit"),
    ("job.restored", "the tasks hold the state of the checkpoint and begin"),
    ("checkpoint.begun", "the sources were told to let the barrier pass"),
    ("checkpoint.cut", "the barrier has passed a task; nothing of its part is durable"),
    ("checkpoint.state", "the state of a task is durable"),
    ("checkpoint.staged", "what a task gave its sink is durable, and nobody sees it"),
    ("checkpoint.gathered", "all parts are durable, the manifest is not"),
    ("checkpoint.written", "the manifest is durable, the job does not know it"),
    ("checkpoint.known", "the job knows that the manifest is durable"),
    ("checkpoint.published", "a source was told where the checkpoint stands"),
    ("commit.begun", "a sink is about to be asked to commit"),
    ("commit.done", "the target holds the epochs, the job does not know it"),
    ("commit.known", "the job knows that the target holds the epochs"),
    ("merge.written", "the run that others were merged to is durable, no manifest names it"),
    ("collect.manifests", "old manifests are deleted, the files that they named are not"),
    ("collect.files", "the files that nobody names are deleted"),
    ("savepoint.made", "a savepoint is durable, and nobody knows it"),
    ("job.ended", "everything is committed that the job read, and nobody knows it"),
];

/// Whether points do anything in this build.
pub const ENABLED: bool = cfg!(any(debug_assertions, feature = "crash-points"));

/// Marks that `step`, one of [`STEPS`] or [`JOB_STEPS`], was passed; ends the process here if a test asked for it.
#[inline]
pub fn point(step: &'static str) {
    #[cfg(any(debug_assertions, feature = "crash-points"))]
    armed::pass(step);
    #[cfg(not(any(debug_assertions, feature = "crash-points")))]
    let _ = step;
}

/// Tells `observer` of each point that this thread passes, until what is returned is dropped: for
/// tests that run everything on one thread and cut its power themselves. Where points are nothing
/// ([`ENABLED`]), neither is this.
pub fn observe(observer: impl Fn(&'static str) + 'static) -> Observed {
    #[cfg(any(debug_assertions, feature = "crash-points"))]
    armed::OBSERVER.with(|place| *place.borrow_mut() = Some(std::rc::Rc::new(observer)));
    #[cfg(not(any(debug_assertions, feature = "crash-points")))]
    drop(observer);
    Observed(std::marker::PhantomData)
}

/// An observer of this thread; it is told nothing more once this is dropped.
#[derive(Debug)]
pub struct Observed(std::marker::PhantomData<*const ()>);

impl Drop for Observed {
    fn drop(&mut self) {
        #[cfg(any(debug_assertions, feature = "crash-points"))]
        armed::OBSERVER.with(|place| *place.borrow_mut() = None);
    }
}

#[cfg(any(debug_assertions, feature = "crash-points"))]
mod armed {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    type Observer = Rc<dyn Fn(&'static str)>;

    thread_local! {
        pub(super) static OBSERVER: RefCell<Option<Observer>> =
            const { RefCell::new(None) };
    }

    /// What `FRESHET_CRASH_AT` asks for.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct Target {
        step: String,
        pass: u64,
    }

    impl Target {
        pub(super) fn parse(text: &str) -> Option<Self> {
            let (step, pass) = match text.split_once('#') {
                Some((step, pass)) => (step, pass.parse().ok().filter(|pass| *pass > 0)?),
                None => (text, 1),
            };
            is_known(step).then(|| Self { step: step.to_owned(), pass })
        }

        /// Whether passing `step` now, after `passed` earlier passes of the target, is the end.
        fn ends_at(&self, step: &str, passed: &AtomicU64) -> bool {
            step == self.step && passed.fetch_add(1, Ordering::SeqCst) + 1 == self.pass
        }
    }

    fn is_known(step: &str) -> bool {
        super::STEPS.iter().chain(super::JOB_STEPS).any(|(name, _)| *name == step)
    }

    #[allow(clippy::print_stderr, reason = "the last words of a process that a test ends")]
    pub(super) fn pass(step: &'static str) {
        static TARGET: OnceLock<Option<Target>> = OnceLock::new();
        static PASSED: AtomicU64 = AtomicU64::new(0);
        assert!(is_known(step), "step \"{step}\" is not in the list of steps");
        // Not held while it is called: it may pass points itself.
        let observer = OBSERVER.with(|place| place.borrow().clone());
        if let Some(observer) = observer {
            observer(step);
        }
        let target = TARGET.get_or_init(|| {
            let text = std::env::var(super::VARIABLE).ok()?;
            let target = Target::parse(&text);
            // A test that asks for a step that there is not must not pass for want of a crash.
            assert!(target.is_some(), "{} names no step: \"{text}\"", super::VARIABLE);
            target
        });
        if target.as_ref().is_some_and(|target| target.ends_at(step, &PASSED)) {
            eprintln!("crash point {step} reached, the process ends here");
            std::process::abort();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn an_observer_is_told_until_it_is_dropped() {
            let seen = Rc::new(RefCell::new(Vec::new()));
            let told = Rc::clone(&seen);
            let observed = super::super::observe(move |step| told.borrow_mut().push(step));
            pass("publish.staged");
            pass("publish.intent");
            drop(observed);
            pass("publish.committed");
            assert_eq!(*seen.borrow(), ["publish.staged", "publish.intent"]);
        }

        #[test]
        fn a_target_names_a_step_and_a_pass() {
            let target = |step: &str, pass| Some(Target { step: step.into(), pass });
            assert_eq!(Target::parse("publish.intent"), target("publish.intent", 1));
            assert_eq!(Target::parse("publish.intent#3"), target("publish.intent", 3));
            for wrong in ["", "publish.nothing", "publish.intent#0", "publish.intent#x"] {
                assert_eq!(Target::parse(wrong), None, "{wrong}");
            }
        }

        #[test]
        fn a_target_is_met_at_its_pass_only() {
            let target = Target::parse("publish.intent#2").expect("the step exists");
            let passed = AtomicU64::new(0);
            let ends: Vec<bool> =
                ["publish.intent", "publish.staged", "publish.intent", "publish.intent"]
                    .iter()
                    .map(|step| target.ends_at(step, &passed))
                    .collect();
            assert_eq!(ends, [false, false, true, false]);
        }
    }
}
