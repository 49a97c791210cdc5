//! What the listener itself counts.

use std::time::Duration;

use axum::http::StatusCode;

/// Counts of requests.
#[derive(Debug, Default)]
pub(crate) struct Figures {}

impl Figures {
    /// A request to push into `source` was answered.
    pub fn asked(&self, _source: &str, _status: StatusCode, _counts: (u64, u64), _took: Duration) {}
}
