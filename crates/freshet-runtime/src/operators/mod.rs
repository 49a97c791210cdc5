//! The operators, one file each.

mod calc;
mod dirty;
mod window_aggregate;

pub use calc::{Calc, Columns};
pub use window_aggregate::{WindowAggregate, Windows};
