//! The real process, killed at each named step of a run and at random times: readers see the old
//! or the new version of each table, a run after it converges, and dead letters and counts are exact.
//!
//! Killing a process loses no page that the kernel holds; what a power cut forgets is tested in
//! [`super::power`]. `FRESHET_TEST_FACTOR=10` kills ten times as often at random.

use std::time::Duration;

use freshet_core::clock::{Clock, SystemClock};
use freshet_core::crash;
use freshet_testkit::kill::When;
use freshet_testkit::seeds;
use rand::Rng;
use rand::rngs::SmallRng;

use super::shop::{Place, Shop};

/// Runs in a row of one shop, so that each kill meets a longer history than the one before.
struct Nights {
    shop: Shop,
    /// Processes killed so far.
    killed: u32,
    /// How long a run takes that nobody kills.
    took: Duration,
}

impl Nights {
    /// A shop with one night behind it.
    fn new(place: Place) -> Self {
        let mut nights = Self { shop: Shop::new(place), killed: 0, took: Duration::ZERO };
        nights.shop.night();
        nights.run_well(&[]);
        nights
    }

    /// A run that is left alone, goes well, and leaves what it is to leave.
    fn run_well(&mut self, arguments: &[&str]) {
        let ended = self.shop.run(arguments, &When::Never);
        assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
        self.took = ended.took;
        assert_eq!(self.shop.seen(), self.shop.expected(self.shop.nights()));
    }

    /// One more night, on which a process is killed each time that `kills` say, until one is left
    /// alone. Returns how many were killed before their end.
    fn night(&mut self, arguments: &[&str], kills: &[When]) -> u32 {
        self.shop.refreshed |= arguments.contains(&"--full-refresh");
        self.shop.night();
        let old = self.shop.expected(self.shop.nights() - 1);
        let new = self.shop.expected(self.shop.nights());
        let mut killed = 0;
        for when in kills {
            let ended = self.shop.run(arguments, when);
            assert!(ended.killed || ended.code == Some(0), "{when:?}: {}", ended.stderr);
            killed += u32::from(ended.killed);
            let seen = self.shop.seen();
            for (table, rows) in &seen.tables {
                let whole =
                    *rows == new.tables[table] || ended.killed && *rows == old.tables[table];
                assert!(whole, "{table} after {kills:?} is neither old nor new: {rows:#?}");
            }
        }
        self.run_well(&[]);
        self.killed += killed;
        killed
    }

    /// One more night for each step that a run passes, each as often as it is passed.
    fn each_step(&mut self, arguments: &[&str], passes: impl Fn(&str) -> u64) {
        for (step, _) in crash::STEPS {
            for pass in 1..=passes(step) {
                let killed = self.night(arguments, &[When::AtStep { step, pass }]);
                assert_eq!(killed, 1, "no run came to {step} for the {pass}. time");
            }
        }
    }

    /// Nights with kills at times between the start of a process and its end.
    fn any_time(&mut self, seeds: std::ops::Range<u64>) {
        let nights = std::cell::RefCell::new(self);
        seeds::for_each(seeds, |seed| {
            let mut nights = nights.borrow_mut();
            let mut chance: SmallRng = seeds::rng(seed);
            let kills: Vec<_> = (0..4)
                .map(|_| When::After(nights.took.mul_f64(chance.random_range(0.05..0.95))))
                .collect();
            let arguments: &[&str] = if seed % 4 == 3 { &["--full-refresh"] } else { &[] };
            nights.night(arguments, &kills);
        });
    }

    /// Says how often a process was killed; fewer than `least` are too few to show anything.
    fn end(&self, least: u32) {
        println!("{} processes were killed", self.killed);
        let (seen, expected) = (self.shop.counts(), self.shop.expected_counts());
        assert_eq!(seen, expected, "records, good records, dead letters");
        assert!(self.killed >= least, "only {} processes were killed", self.killed);
    }
}

/// How often a run of three models passes a step, two of which have dead letters and two a load.
fn passes(step: &str) -> u64 {
    match step {
        "publish.exported" => 1,
        "publish.dead_letters_staged" | "publish.loaded" => 2,
        step if step.starts_with("publish.") || step == "run.task_recorded" => 3,
        _ => 1,
    }
}

#[test]
fn a_run_killed_at_any_step_is_made_good_by_the_next() {
    let mut nights = Nights::new(Place::Disk);
    nights.each_step(&[], passes);
    nights.end(30);
}

#[test]
fn a_full_refresh_killed_at_any_step_is_made_good_by_the_next() {
    let mut nights = Nights::new(Place::Disk);
    nights.each_step(&["--full-refresh"], passes);
    nights.end(30);
}

#[test]
fn a_recovery_killed_at_any_step_is_made_good_by_the_next() {
    let mut nights = Nights::new(Place::Disk);
    for step in ["run.locked", "publish.dead_letters", "publish.committed", "run.recovered"] {
        let first = When::AtStep { step: "publish.intent", pass: 2 };
        let second = When::AtStep { step, pass: 1 };
        assert_eq!(nights.night(&[], &[first, second.clone(), second]), 3, "at {step}");
    }
    nights.end(12);
}

#[test]
fn temporary_files_of_killed_processes_are_removed_once_they_are_old() {
    let mut nights = Nights::new(Place::Disk);
    let [old, young] = ["old", "young"].map(|name| nights.shop.temporary(name));
    let file = std::fs::File::options().write(true).open(&old).expect("it was made");
    let hours_ago = std::time::SystemTime::from(SystemClock.now()) - Duration::from_secs(2 * 3600);
    file.set_modified(hours_ago).expect("a time can be set");
    nights.night(&[], &[When::AtStep { step: "publish.intent", pass: 1 }]);
    assert!(!old.exists(), "it was left behind two hours ago");
    assert!(young.exists(), "somebody may still write it");
}

#[test]
fn the_very_first_run_may_be_killed_at_any_step() {
    let mut killed = 0;
    for (step, _) in crash::STEPS {
        let shop = Shop::new(Place::Disk);
        let mut nights = Nights { shop, killed: 0, took: Duration::ZERO };
        killed += nights.night(&[], &[When::AtStep { step, pass: 1 }]);
    }
    assert_eq!(killed as usize, crash::STEPS.len());
}

#[test]
fn a_run_killed_at_any_time_is_made_good_by_the_next() {
    let mut nights = Nights::new(Place::Disk);
    nights.any_time(0..40);
    nights.end(120);
}

#[test]
fn a_run_in_a_bucket_killed_at_any_step_is_made_good_by_the_next() {
    let mut nights = Nights::new(Place::Bucket);
    nights.each_step(&[], |step| match step {
        "publish.exported" | "publish.loaded" => 0,
        _ => 1,
    });
    nights.end(12);
}

#[test]
fn a_run_in_a_bucket_killed_at_any_time_is_made_good_by_the_next() {
    let mut nights = Nights::new(Place::Bucket);
    nights.any_time(100..105);
    nights.end(15);
}
