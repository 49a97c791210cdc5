//! Futures of jobs on a runtime of tokio.

use std::time::Duration;

use freshet_runtime::executor::Io;
use futures::future::BoxFuture;
use tokio::runtime::Handle;

/// Runs the futures of jobs on a runtime.
#[derive(Debug, Clone)]
pub struct TokioIo(Handle);

impl TokioIo {
    /// On the runtime that calls this.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn current() -> Self {
        Self(Handle::current())
    }
}

impl Io for TokioIo {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.0.spawn(future);
    }

    fn sleep(&self, micros: i64) -> BoxFuture<'static, ()> {
        let _entered = self.0.enter();
        Box::pin(tokio::time::sleep(Duration::from_micros(micros.max(0) as u64)))
    }
}
