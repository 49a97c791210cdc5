//! What a checkpoint is to be given of a table whose places come and go.

use freshet_core::Result;

use super::{Delta, Dirty};

/// Places that changed, entries that were given before they changed again, keys that are no more.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    dirty: Dirty,
    /// Entries of the checkpoint that is being made, as they were when it was cut.
    early: Delta,
    /// Keys that were removed since the last cut.
    removed: Delta,
    /// Those that had been removed when the checkpoint was cut that is being made.
    frozen: Delta,
}

impl Changes {
    /// There are this many places, or as many as there were, which may be more.
    pub(crate) fn resize(&mut self, places: usize) {
        self.dirty.resize(places);
    }

    /// Whether a place holds what the last checkpoint has of it: nothing is owed of it, and none changed it.
    pub(crate) fn is_clean(&self, place: u32) -> bool {
        self.dirty.is_clean(place)
    }

    /// Whether a place changed since the last checkpoint was cut.
    pub(crate) fn is_changed(&self, place: u32) -> bool {
        self.dirty.is_changed(place)
    }

    /// A place is about to change. `true` where what it holds now is to be put into [`Self::early`]
    /// before.
    pub(crate) fn touch(&mut self, place: u32) -> bool {
        self.dirty.touch(place)
    }

    /// A place is about to be given up: its key is to be put into [`Self::removed`]. `true` where
    /// what it holds now is to be put into [`Self::early`] before.
    pub(crate) fn forget(&mut self, place: u32) -> bool {
        self.dirty.forget(place)
    }

    /// Takes the entries of the checkpoint that is being made, to add to them; [`Self::put_early`]
    /// puts them back.
    pub(crate) fn take_early(&mut self) -> Delta {
        std::mem::take(&mut self.early)
    }

    /// See [`Self::take_early`].
    pub(crate) fn put_early(&mut self, early: Delta) {
        self.early = early;
    }

    /// Where keys are put that are no more.
    pub(crate) fn removed(&mut self) -> &mut Delta {
        &mut self.removed
    }

    /// Cuts a checkpoint.
    pub(crate) fn freeze(&mut self) {
        self.dirty.freeze();
        self.frozen = std::mem::take(&mut self.removed);
    }

    /// Begins to give a checkpoint what it is owed, or goes on with it: what was removed comes
    /// before what is there, since a key may have come back.
    pub(crate) fn drain(&mut self, delta: &mut Delta) -> Result<()> {
        for part in [&mut self.frozen, &mut self.early] {
            if !part.is_empty() {
                delta.append(std::mem::take(part))?;
            }
        }
        Ok(())
    }

    /// Up to `limit` places that are still owed; none once all were given.
    pub(crate) fn owed(&mut self, limit: usize) -> Vec<u32> {
        self.dirty.owed(limit)
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.dirty.bytes() + self.early.bytes() + self.removed.bytes() + self.frozen.bytes()
    }
}
