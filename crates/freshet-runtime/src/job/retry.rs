//! Tries a call of a job again for as long as it may succeed later, and says what is waited for.

use std::sync::Arc;

use freshet_core::Result;
use freshet_core::clock::Clock;
use xxhash_rust::xxh3::xxh3_64;

use super::restart::jittered;
use crate::executor::Io;
use crate::monitor::JobMonitor;

/// Tries again what may succeed later.
pub(super) struct Retry {
    pub(super) pipeline: String,
    pub(super) io: Arc<dyn Io>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) monitor: JobMonitor,
}

impl Retry {
    /// The first wait, in microseconds; each further one is twice as long.
    pub(super) const FIRST: i64 = 50_000;
    const LONGEST: i64 = 10_000_000;
    /// The share of a wait by which it is shorter or longer.
    const JITTER: f64 = 0.2;

    pub(super) async fn run<F: Future<Output = Result<()>>>(
        &self,
        what: &'static str,
        mut call: impl FnMut() -> F,
    ) -> Result<()> {
        let mut wait = Self::FIRST;
        let mut waiting = None;
        loop {
            match call().await {
                Err(error) if error.is_retryable() => {
                    tracing::warn!(pipeline = self.pipeline, what, wait_ms = wait / 1000,
                        error = %error.chain(), "will try again");
                    self.monitor.retries(&mut waiting, what, &error);
                    let seed = xxh3_64(self.pipeline.as_bytes());
                    let now = self.clock.now_micros();
                    self.io.sleep(jittered(wait, Self::JITTER, now, seed)).await;
                    wait = (wait * 2).min(Self::LONGEST);
                }
                other => return other,
            }
        }
    }
}
