//! When a job that failed begins again, and when it is given up: fixed delay, exponential delay,
//! failure rate. It knows no clock: it is told when something happened.

use std::collections::VecDeque;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How often a job begins again by itself, and after which time. In microseconds.
///
/// What is given up is given up by [`Self::attempts`] or by [`Self::rate`], whichever is reached first.
#[derive(Debug, Clone, PartialEq)]
pub struct Restart {
    /// Failures in a row after which it is given up; `None` is never.
    pub attempts: Option<u32>,
    /// Failures within a time after which it is given up; `None` is never.
    pub rate: Option<FailureRate>,
    /// The wait after the first failure.
    pub delay: i64,
    /// What each further wait is multiplied with; 1 is a fixed delay.
    pub factor: f64,
    /// The longest wait.
    pub longest: i64,
    /// The share of a wait by which it may be shorter or longer, 0 to 1: jobs that one server made
    /// fail are not to come back all at once.
    pub jitter: f64,
    /// A job that ran for so long without failing is sound again: its failures in a row are forgotten.
    pub forget_after: i64,
}

/// How often a job may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailureRate {
    /// Failures that are borne: one more is too many.
    pub failures: usize,
    /// The time within which they are counted, in microseconds.
    pub within: i64,
}

/// The longest time of day between two lives that a job is given by default, in microseconds.
const LONGEST: i64 = 60_000_000;

impl Default for Restart {
    fn default() -> Self {
        Self::exponential(1_000_000, 2.0, LONGEST)
    }
}

impl Restart {
    /// Always the same wait; `attempts` failures in a row are borne.
    pub fn fixed_delay(attempts: Option<u32>, delay: i64) -> Self {
        Self { attempts, jitter: 0.0, ..Self::exponential(delay, 1.0, delay) }
    }

    /// Each wait longer than the one before; never given up.
    pub fn exponential(delay: i64, factor: f64, longest: i64) -> Self {
        Self {
            attempts: None,
            rate: None,
            delay,
            factor,
            longest,
            jitter: 0.1,
            forget_after: 600_000_000,
        }
    }

    /// Always the same wait; given up where failures come too often.
    pub fn failure_rate(rate: FailureRate, delay: i64) -> Self {
        Self { rate: Some(rate), ..Self::fixed_delay(None, delay) }
    }
}

/// What is remembered of a job's failures.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// In a row.
    count: u32,
    /// When they were: the latest, as many as a rate asks for.
    times: VecDeque<i64>,
}

impl Failures {
    /// Failures in a row so far.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// A life of the job that began at `begun` has failed at `now`: the wait before the next one, or
    /// the limit that is reached. `seed` tells jobs apart that fail at the same time.
    pub(super) fn failed(
        &mut self,
        restart: &Restart,
        begun: i64,
        now: i64,
        seed: u64,
    ) -> Result<i64, String> {
        if now - begun >= restart.forget_after {
            self.count = 0;
        }
        self.count += 1;
        if let Some(attempts) = restart.attempts.filter(|attempts| self.count > *attempts) {
            return Err(format!("{attempts} failures in a row are borne"));
        }
        if let Some(FailureRate { failures, within }) = restart.rate {
            self.times.push_back(now);
            while self.times.front().is_some_and(|time| *time <= now.saturating_sub(within)) {
                self.times.pop_front();
            }
            if self.times.len() > failures {
                let seconds = within as f64 / 1e6;
                return Err(format!("{failures} failures within {seconds} s are borne"));
            }
        }
        let exponent = i32::try_from(self.count - 1).unwrap_or(i32::MAX);
        let wait = restart.delay as f64 * restart.factor.powi(exponent);
        let wait = (wait as i64).min(restart.longest);
        Ok(jittered(wait, restart.jitter, now, seed))
    }
}

/// A wait that is shorter or longer by up to `share` of it, by what time of day it is and for whom.
pub(super) fn jittered(wait: i64, share: f64, now: i64, seed: u64) -> i64 {
    // 0 to 1, both included, in steps that are finer than microseconds matter.
    let chance = xxh3_64_with_seed(&now.to_le_bytes(), seed) as f64 / u64::MAX as f64;
    let factor = 1.0 + share.clamp(0.0, 1.0) * (2.0 * chance - 1.0);
    (wait as f64 * factor) as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The waits after failures, each of which comes `lived` after the life before began; up to the
    /// failure after which the job is given up.
    fn waits(restart: &Restart, lived: &[i64]) -> Vec<Option<i64>> {
        let (mut failures, mut now, mut waits) = (Failures::default(), 0, Vec::new());
        for lived in lived {
            let begun = now;
            now += lived;
            match failures.failed(restart, begun, now, 7) {
                Ok(wait) => {
                    now += wait;
                    waits.push(Some(wait));
                }
                Err(_) => {
                    waits.push(None);
                    break;
                }
            }
        }
        waits
    }

    #[test]
    fn a_fixed_delay_is_the_same_until_the_attempts_are_used_up() {
        let restart = Restart::fixed_delay(Some(3), 50);
        assert_eq!(waits(&restart, &[1; 9]), [Some(50), Some(50), Some(50), None]);
        let none = Restart::fixed_delay(Some(0), 50);
        assert_eq!(waits(&none, &[1]), [None]);
        let forgets = Restart { forget_after: 100, ..restart };
        let lived = [1, 1, 1, 100, 1, 1, 1];
        let expect = [Some(50); 6].into_iter().chain([None]).collect::<Vec<_>>();
        assert_eq!(waits(&forgets, &lived), expect, "a long life forgets failures");
    }

    #[test]
    fn an_exponential_delay_grows_up_to_the_longest() {
        let restart = Restart { jitter: 0.0, ..Restart::exponential(10, 3.0, 100) };
        let expect = [10, 30, 90, 100, 100].map(Some);
        assert_eq!(waits(&restart, &[1; 5]), expect);
        assert_eq!(waits(&restart, &[1; 5000]).last(), Some(&Some(100)), "for ever");
        let sound = Restart { forget_after: 1000, ..restart };
        assert_eq!(waits(&sound, &[1, 1, 1000, 1]), [10, 30, 10, 30].map(Some));
    }

    #[test]
    fn a_failure_rate_ends_a_job_that_fails_too_often() {
        let rate = FailureRate { failures: 2, within: 1000 };
        let restart = Restart::failure_rate(rate, 100);
        assert_eq!(waits(&restart, &[1; 9]), [Some(100), Some(100), None]);
        // Two within the time again and again are borne.
        assert_eq!(waits(&restart, &[400; 50]), vec![Some(100); 50]);
        let mixed = [1000, 1, 1000, 1, 1, 1];
        let expect = [Some(100), Some(100), Some(100), Some(100), None];
        assert_eq!(waits(&restart, &mixed), expect);
    }

    proptest! {
        /// Against a count of all failures of the time before.
        #[test]
        fn a_rate_counts_the_failures_of_its_time(
            failures in 0_usize..5,
            within in 1_i64..500,
            lived in prop::collection::vec(0_i64..300, 1..40),
        ) {
            let restart = Restart::failure_rate(FailureRate { failures, within }, 10);
            let (mut now, mut times) = (0, Vec::new());
            let mut expect = Vec::new();
            for lived in &lived {
                now += lived;
                times.push(now);
                let counted = times.iter().filter(|time| **time > now - within).count();
                if counted > failures {
                    expect.push(None);
                    break;
                }
                expect.push(Some(10));
                now += 10;
            }
            prop_assert_eq!(waits(&restart, &lived), expect);
        }

        #[test]
        fn jitter_stays_within_its_share(
            wait in 0_i64..10_000_000,
            share in 0.0..1.0_f64,
            now in any::<i64>(),
            seed in any::<u64>(),
        ) {
            let jittered = jittered(wait, share, now, seed);
            let most = (wait as f64 * share) as i64 + 1;
            prop_assert!((jittered - wait).abs() <= most, "{jittered}");
        }
    }
}
