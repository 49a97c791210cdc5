//! Seeds: a test under chance names the seed that made it fail, and runs it again alone.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rand::SeedableRng;
use rand::rngs::SmallRng;

/// The environment variable that makes [`for_each`] run one seed only.
pub const SEED: &str = "FRESHET_TEST_SEED";

/// The environment variable that multiplies the number of seeds, for long runs.
pub const FACTOR: &str = "FRESHET_TEST_FACTOR";

/// Calls `test` with each seed; where one panics, prints it and goes on panicking.
/// `FRESHET_TEST_SEED=17` runs seed 17 alone; `FRESHET_TEST_FACTOR=10` runs ten times as many.
#[track_caller]
pub fn for_each(seeds: Range<u64>, test: impl Fn(u64)) {
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let seeds = match number(SEED) {
        Some(seed) => seed..seed + 1,
        None => seeds.start..seeds.start + (seeds.end - seeds.start) * number(FACTOR).unwrap_or(1),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("seed {seed} failed; {SEED}={seed} runs it alone");
            resume_unwind(panic);
        }
    }
}

/// Chance from a seed.
pub fn rng(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn stops_at_the_seed_that_fails() {
        let seen = RefCell::new(Vec::new());
        let result = catch_unwind(AssertUnwindSafe(|| {
            for_each(3..9, |seed| {
                seen.borrow_mut().push(seed);
                assert!(seed < 5, "as meant");
            });
        }));
        assert!(result.is_err());
        assert_eq!(*seen.borrow(), [3, 4, 5]);
    }
}
