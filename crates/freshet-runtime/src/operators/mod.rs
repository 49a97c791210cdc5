//! The operators, one file each.

mod assign_windows;
mod calc;
mod deduplicate;
mod expiry;
mod group_aggregate;
mod join;
mod session_aggregate;
#[cfg(test)]
pub(crate) mod testing;
mod window_aggregate;

pub use assign_windows::AssignWindows;
pub use calc::{Calc, Columns};
pub use deduplicate::Deduplicate;
pub use group_aggregate::GroupAggregate;
pub use join::{IntervalJoin, Join, JoinKind, TemporalJoin, WindowJoin};
pub use session_aggregate::SessionAggregate;
pub use window_aggregate::{WindowAggregate, Windows};
