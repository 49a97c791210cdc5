//! Memory that operators share.

use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use parking_lot::Mutex;

/// A pool in which whoever can spill may take more than an equal share, as long as a quarter of the
/// pool stays free for the others.
///
/// DataFusion's own fair pool divides the memory by the number of operators that can spill, so that
/// an operator goes to disk beside others that need nothing. Here an operator within its equal share
/// is refused only by a pool that is full; one beyond it, as soon as less than a quarter would be
/// left. Those that cannot spill are refused only by a full pool.
#[derive(Debug)]
pub struct SharedPool {
    size: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Operators that can spill.
    spilling: usize,
    used: usize,
}

impl SharedPool {
    /// A pool of so many bytes.
    pub fn new(size: usize) -> Self {
        Self { size, state: Mutex::default() }
    }
}

impl MemoryPool for SharedPool {
    fn name(&self) -> &'static str {
        "shared"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.state.lock().spilling += usize::from(consumer.can_spill());
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.state.lock().spilling -= usize::from(consumer.can_spill());
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.state.lock().used += additional;
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.state.lock().used -= shrink;
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> DfResult<()> {
        let mut state = self.state.lock();
        let free = self.size.saturating_sub(state.used);
        let consumer = reservation.consumer();
        let share = self.size / state.spilling.max(1);
        let beyond = consumer.can_spill() && reservation.size() + additional > share;
        let kept = if beyond { self.size / 4 } else { 0 };
        if additional > free.saturating_sub(kept) {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} holds {} bytes of memory and needs {additional} more; {free} of {} are free",
                consumer.name(),
                reservation.size(),
                self.size
            )));
        }
        state.used += additional;
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.state.lock().used
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.size)
    }
}

impl std::fmt::Display for SharedPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shared pool of {} bytes, {} used", self.size, self.reserved())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn spilling(name: &str, pool: &Arc<dyn MemoryPool>) -> MemoryReservation {
        MemoryConsumer::new(name).with_can_spill(true).register(pool)
    }

    #[test]
    fn one_alone_may_have_three_quarters_beside_others_that_hold_nothing() {
        let pool: Arc<dyn MemoryPool> = Arc::new(SharedPool::new(1000));
        let idle: Vec<_> = (0..4).map(|n| spilling(&format!("idle {n}"), &pool)).collect();
        let greedy = spilling("greedy", &pool);
        greedy.try_grow(750).unwrap();
        let error = greedy.try_grow(1).unwrap_err().to_string();
        assert!(error.contains("greedy holds 750 bytes"), "{error}");
        // Each of the others has its share as long as there is any.
        idle[0].try_grow(200).unwrap();
        assert!(idle[0].try_grow(1).is_err());
        idle[1].try_grow(50).unwrap();
        assert!(idle[2].try_grow(1).is_err());
        greedy.shrink(100);
        idle[2].try_grow(100).unwrap();
        assert_eq!(pool.reserved(), 1000);
    }

    #[test]
    fn one_that_cannot_spill_is_refused_by_a_full_pool_alone() {
        let pool: Arc<dyn MemoryPool> = Arc::new(SharedPool::new(1000));
        let other = spilling("other", &pool);
        other.try_grow(700).unwrap();
        let fixed = MemoryConsumer::new("fixed").register(&pool);
        fixed.try_grow(300).unwrap();
        assert!(fixed.try_grow(1).is_err());
        drop(other);
        fixed.try_grow(700).unwrap();
        drop(fixed);
        assert_eq!(pool.reserved(), 0);
    }
}
