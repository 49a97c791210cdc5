//! How many bytes of bodies are held at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::answer::Problem;

/// The bytes that all requests share.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    most: u64,
}

/// Bytes that one request holds; they are free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Budget,
    permit: Option<OwnedSemaphorePermit>,
}

/// Bytes that are counted as one, so that they fit the numbers of a semaphore.
const UNIT: u64 = 256;

impl Budget {
    /// So many bytes.
    pub fn new(most: u64) -> Self {
        let units = usize::try_from(most / UNIT).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(units)), most }
    }

    /// Holds nothing yet.
    pub fn hold(&self) -> Held {
        Held { budget: self.clone(), permit: None }
    }
}

impl Held {
    /// Holds so many bytes more; never waits, since two that wait for each other would do so for ever.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let units = u32::try_from((bytes as u64).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.budget.free).try_acquire_many_owned(units).map_err(|_| {
            Problem::busy(format!(
                "the bodies under way have more than the {} bytes of `max_pending_bytes`",
                self.budget.most
            ))
        })?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_free_again_when_a_request_ends() {
        let budget = Budget::new(1024);
        let mut one = budget.hold();
        one.grow(100).expect("there is room");
        one.grow(700).expect("there is room");
        let mut other = budget.hold();
        assert!(other.grow(300).is_err());
        drop(one);
        other.grow(1024).expect("there is room");
    }
}
