//! How much memory states may take: each for itself, or all of a process together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Scratch, SpillOptions};

/// Memory that the states of a process share.
///
/// A state within its equal share is let alone. One beyond it may take what the others leave, as long as
/// a quarter of the whole stays free; from there on it gives back.
#[derive(Debug)]
pub struct MemoryPool {
    limit: usize,
    used: AtomicUsize,
    members: AtomicUsize,
}

impl MemoryPool {
    /// Of so many bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), members: AtomicUsize::new(0) }
    }

    /// Bytes that are taken, as those who take them last said.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// Bytes of memory that the state of an operator's instance may take.
#[derive(Debug, Clone)]
pub enum Budget {
    /// So many.
    Own(usize),
    /// What the others leave.
    Shared(Arc<MemoryPool>),
}

impl From<usize> for Budget {
    fn from(bytes: usize) -> Self {
        Self::Own(bytes)
    }
}

/// What one state may take, for as long as it is there.
#[derive(Debug)]
pub(crate) struct Allowance {
    options: SpillOptions,
    /// What the pool was told.
    told: usize,
}

impl Allowance {
    pub(crate) fn new(options: SpillOptions) -> Self {
        if let Budget::Shared(pool) = &options.budget {
            pool.members.fetch_add(1, Ordering::Relaxed);
        }
        Self { options, told: 0 }
    }

    /// Where the rest goes.
    pub(crate) fn scratch(&self) -> Arc<dyn Scratch> {
        Arc::clone(&self.options.scratch)
    }

    /// The bytes that a state may take that takes `bytes` now.
    pub(crate) fn of(&mut self, bytes: usize) -> usize {
        let pool = match &self.options.budget {
            Budget::Own(own) => return *own,
            Budget::Shared(pool) => pool,
        };
        let before = std::mem::replace(&mut self.told, bytes);
        let used = match bytes.checked_sub(before) {
            Some(more) => pool.used.fetch_add(more, Ordering::Relaxed) + more,
            None => pool.used.fetch_sub(before - bytes, Ordering::Relaxed) - (before - bytes),
        };
        let share = pool.limit / pool.members.load(Ordering::Relaxed).max(1);
        (bytes + pool.limit / 4 * 3).saturating_sub(used).max(share)
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        if let Budget::Shared(pool) = &self.options.budget {
            pool.members.fetch_sub(1, Ordering::Relaxed);
            pool.used.fetch_sub(self.told, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::MemoryScratch;

    #[test]
    fn one_state_may_take_what_others_leave_and_gives_it_back() {
        let pool = Arc::new(MemoryPool::new(4000));
        let options = SpillOptions {
            budget: Budget::Shared(Arc::clone(&pool)),
            scratch: Arc::new(MemoryScratch::default()),
        };
        let [mut large, mut small] = [(); 2].map(|()| Allowance::new(options.clone()));
        assert_eq!(large.of(1000), 3000);
        assert_eq!(large.of(3500), 3000, "a quarter is for others");
        assert_eq!(large.of(3000), 3000);
        assert_eq!(small.of(800), 2000, "within its share");
        assert_eq!(large.of(3000), 2200);
        assert_eq!(small.of(2000), 2000);
        assert_eq!(large.of(2200), 2000);
        assert_eq!(pool.used(), 4200);
        drop(small);
        assert_eq!(large.of(2200), 4000, "alone, its share is all");
        drop(large);
        assert_eq!(pool.used(), 0);
    }
}
