//! A clock for tests.

use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Utc};
use freshet_core::clock::Clock;

/// A clock that moves on by a fixed step each time it is read, and by hand.
#[derive(Debug)]
pub struct TestClock {
    now: AtomicI64,
    step: i64,
}

impl TestClock {
    /// A clock that shows `time`, written as in RFC 3339, until it is moved.
    ///
    /// # Panics
    /// Where `time` is no time.
    pub fn at(time: &str) -> Self {
        Self::ticking(time, 0)
    }

    /// A clock that starts at `time` and moves on by `step_micros` with each reading.
    ///
    /// # Panics
    /// Where `time` is no time.
    pub fn ticking(time: &str, step_micros: i64) -> Self {
        let time: DateTime<Utc> =
            time.parse().unwrap_or_else(|error| panic!("\"{time}\" is not a time: {error}"));
        Self { now: AtomicI64::new(time.timestamp_micros()), step: step_micros }
    }

    /// Moves it on.
    pub fn advance(&self, span: std::time::Duration) {
        let micros = i64::try_from(span.as_micros()).expect("a test's span fits");
        self.now.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_micros(&self) -> i64 {
        self.now.fetch_add(self.step, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_only_as_told() {
        let clock = TestClock::at("2026-11-22T14:23:01Z");
        assert_eq!(clock.now().to_rfc3339(), "2026-11-22T14:23:01+00:00");
        clock.advance(std::time::Duration::from_secs(59));
        assert_eq!(clock.now().to_rfc3339(), "2026-11-22T14:24:00+00:00");
        let ticking = TestClock::ticking("2026-11-22T14:23:01Z", 1_000_000);
        assert!(ticking.now() < ticking.now());
    }
}
