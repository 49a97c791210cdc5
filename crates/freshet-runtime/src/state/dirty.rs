//! Which places of a state changed since the last checkpoint, and which of those that a checkpoint
//! being made has not been given yet.

/// Places of a state, by number.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    flags: Vec<u8>,
    changed: Vec<u32>,
    frozen: Vec<u32>,
}

const CHANGED: u8 = 1;
const FROZEN: u8 = 2;

impl Dirty {
    /// There are this many places, or as many as there were, which may be more.
    pub(crate) fn resize(&mut self, places: usize) {
        self.flags.resize(places.max(self.flags.len()), 0);
    }

    /// Whether a place changed neither since the last checkpoint nor before it without being given.
    pub(crate) fn is_clean(&self, place: u32) -> bool {
        self.flags[place as usize] == 0
    }

    /// Whether a place changed since the last checkpoint was cut.
    pub(crate) fn is_changed(&self, place: u32) -> bool {
        self.flags[place as usize] & CHANGED != 0
    }

    /// A place is about to change. `true` where a checkpoint is still to be given what it holds now:
    /// the caller gives it before anything changes.
    pub(crate) fn touch(&mut self, place: u32) -> bool {
        let flag = &mut self.flags[place as usize];
        let owed = *flag & FROZEN != 0;
        if *flag & CHANGED == 0 {
            self.changed.push(place);
        }
        *flag = CHANGED;
        owed
    }

    /// A place is about to be given up, and may be used for something else. `true` where a checkpoint
    /// is still to be given what it holds now.
    pub(crate) fn forget(&mut self, place: u32) -> bool {
        std::mem::take(&mut self.flags[place as usize]) & FROZEN != 0
    }

    /// Cuts a checkpoint.
    pub(crate) fn freeze(&mut self) {
        debug_assert!(self.frozen.is_empty(), "one checkpoint at a time");
        std::mem::swap(&mut self.changed, &mut self.frozen);
        for place in &self.frozen {
            let flag = &mut self.flags[*place as usize];
            // Not those that were forgotten; those that came back since are there twice.
            *flag = if *flag != 0 { FROZEN } else { 0 };
        }
    }

    /// Up to `limit` places whose content belongs to the frozen checkpoint and was not given yet;
    /// none once all were.
    pub(crate) fn owed(&mut self, limit: usize) -> Vec<u32> {
        let mut owed = Vec::new();
        while owed.len() < limit {
            let Some(place) = self.frozen.pop() else { break };
            let flag = &mut self.flags[place as usize];
            if *flag & FROZEN != 0 {
                *flag &= !FROZEN;
                owed.push(place);
            }
        }
        owed
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.flags.capacity() + 4 * (self.changed.capacity() + self.frozen.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_is_owed_to_nobody() {
        let mut dirty = Dirty::default();
        dirty.resize(2);
        dirty.touch(0);
        dirty.touch(1);
        assert!(!dirty.forget(0), "no checkpoint is being made");
        dirty.freeze();
        assert!(dirty.forget(1), "it belongs to the checkpoint");
        assert!(dirty.owed(10).is_empty());
        assert!(!dirty.touch(1), "it is something else now");
        assert!(!dirty.forget(1));
        assert!(!dirty.touch(1), "and again");
        dirty.freeze();
        assert_eq!(dirty.owed(10), [1]);
    }

    #[test]
    fn what_a_checkpoint_is_owed_is_given_once() {
        let mut dirty = Dirty::default();
        dirty.resize(3);
        assert!(!dirty.touch(0));
        assert!(!dirty.touch(1));
        dirty.freeze();
        assert!(!dirty.touch(2), "new places are not part of the checkpoint");
        assert!(dirty.touch(1), "what was in it is given before it changes");
        assert!(!dirty.touch(1));
        assert_eq!(dirty.owed(10), [0]);
        assert!(dirty.owed(10).is_empty());
        assert!(!dirty.touch(0), "it was given");
        dirty.freeze();
        assert_eq!(dirty.owed(2), [0, 1]);
        assert_eq!(dirty.owed(2), [2]);
    }
}
