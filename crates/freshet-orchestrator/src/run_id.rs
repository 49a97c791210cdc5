//! Ids of runs: the second of the start in UTC, then chance, e.g. `20261122T142301-3fa9c1`.

use chrono::{DateTime, Utc};
use freshet_core::RunId;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A new id. Ids sort by the second of their start.
pub fn run_id(started: DateTime<Utc>, seed: u64) -> RunId {
    let chance: u32 = SmallRng::seed_from_u64(seed).random_range(0..1 << 24);
    RunId::new(format!("{}-{chance:06x}", started.format("%Y%m%dT%H%M%S")))
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    #[test]
    fn ids_sort_by_their_start_and_differ_by_chance() {
        let at = |second| Utc.with_ymd_and_hms(2026, 11, 22, 14, 23, second).single().expect("ok");
        let first = run_id(at(1), 7);
        assert!(first.as_str().starts_with("20261122T142301-"), "{first}");
        assert_eq!(first.as_str().len(), "20261122T142301-3fa9c1".len());
        assert_eq!(first, run_id(at(1), 7));
        assert_ne!(first, run_id(at(1), 8));
        assert!(first < run_id(at(2), 9));
    }
}
