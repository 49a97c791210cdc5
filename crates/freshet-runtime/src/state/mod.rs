//! The state of operators: divided by key, and what a checkpoint keeps of it.

mod budget;
mod changes;
mod cold;
mod delta;
mod dirty;
mod groups;
mod multiset;
pub(crate) mod rows;
mod scratch;
mod spilling;

pub(crate) use budget::Allowance;
pub use budget::{Budget, MemoryPool};
pub(crate) use changes::Changes;
pub(crate) use cold::{Cold, Owed, Taken};
pub use delta::{Delta, Entry};
pub(crate) use dirty::Dirty;
pub use groups::{KeyGroup, KeyGroupRange, KeyGroups};
pub(crate) use multiset::{Moved, Multiset, Owners};
pub use scratch::{FolderScratch, MemoryScratch, Scratch, ScratchFile, SpillOptions};
pub(crate) use spilling::{Excess, Spilling};
