//! A check whose arguments were read and found valid.

use freshet_project::Check;

/// A check that can be evaluated.
#[derive(Debug, Clone)]
pub struct Rule {
    pub(super) check: Check,
    pub(super) sql: Option<String>,
}

impl Rule {
    /// The check as it was declared.
    pub fn check(&self) -> &Check {
        &self.check
    }
}
