//! The state of operators: divided by key, and what a checkpoint keeps of it.

mod delta;
mod groups;

pub use delta::{Delta, Entry};
pub use groups::{KeyGroup, KeyGroupRange, KeyGroups};
