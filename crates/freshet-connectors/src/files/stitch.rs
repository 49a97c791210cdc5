//! Stitching of a file's units, each of which was read from a guessed place on.
//!
//! Where a record may go over several lines, only who has read everything before knows where the
//! first record of a unit begins: its *entry*. A worker whose unit's entry is not known yet guesses
//! it and reads on; what it read waits here until the units before it are done. A guess that turns
//! out right is as good as knowledge, one that is wrong is thrown away and the unit read again. So
//! what is given is what one worker reading in order gives, whatever was guessed.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Units that wait at once, whatever they weigh.
const MAX_WAITING: usize = 16;
/// Text of the units that wait at once.
const MAX_WEIGHT: u64 = 64 << 20;

/// What a worker made of a unit whose entry it guessed.
#[derive(Debug)]
pub struct Guess<T> {
    /// The entry that it was read from; `None` where nothing could be made of it.
    pub entry: Option<u64>,
    /// Where the next unit's records begin if that is right.
    pub exit: u64,
    /// Text that it holds.
    pub weight: u64,
    /// What was read.
    pub content: T,
}

/// What became of a guess.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled<T> {
    /// It was right.
    Right(T),
    /// The unit is to be read again, from the entry that is known now.
    Wrong(T),
}

/// The units of one file.
#[derive(Debug)]
pub struct Stitch<T> {
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    /// Entries of the first units: all that are known.
    entries: Vec<u64>,
    waiting: BTreeMap<usize, Guess<T>>,
}

impl<T> Stitch<T> {
    /// The records of the first unit begin at `entry`.
    pub fn new(entry: u64) -> Self {
        Self { inner: Mutex::new(Inner { entries: vec![entry], waiting: BTreeMap::new() }) }
    }

    /// Where the records of `unit` begin, if that is known.
    pub fn entry(&self, unit: usize) -> Option<u64> {
        self.inner.lock().entries.get(unit).copied()
    }

    /// The last unit whose entry is known, and that entry.
    pub fn known(&self) -> (usize, u64) {
        let inner = self.inner.lock();
        let last = inner.entries.len() - 1;
        (last, inner.entries[last])
    }

    /// Says where a unit ended that was read from its known entry on; `false` where it ended
    /// elsewhere before, so that the file is not what it was.
    #[must_use]
    pub fn pass(&self, unit: usize, exit: u64) -> bool {
        self.inner.lock().pass(unit, exit)
    }

    /// Lets a guess wait, or gives it back where too much waits already.
    pub fn wait(&self, unit: usize, guess: Guess<T>) -> Result<(), Guess<T>> {
        let mut inner = self.inner.lock();
        let weight: u64 = inner.waiting.values().map(|guess| guess.weight).sum();
        let full = inner.waiting.len() >= MAX_WAITING || weight + guess.weight > MAX_WEIGHT;
        if full && unit >= inner.entries.len() {
            return Err(guess);
        }
        inner.waiting.insert(unit, guess);
        Ok(())
    }

    /// Takes the guesses whose units' entries are known by now.
    pub fn settle(&self) -> Vec<(usize, Settled<T>)> {
        let mut inner = self.inner.lock();
        let mut settled = Vec::new();
        while let Some(first) = inner.waiting.first_entry() {
            let unit = *first.key();
            let guess = first.remove();
            let Some(entry) = inner.entries.get(unit).copied() else {
                inner.waiting.insert(unit, guess);
                break;
            };
            let right = guess.entry == Some(entry) && inner.pass(unit, guess.exit);
            let wrap = if right { Settled::Right } else { Settled::Wrong };
            settled.push((unit, wrap(guess.content)));
        }
        settled
    }

    /// Forgets what waits: the file is of no use any more.
    pub fn clear(&self) {
        self.inner.lock().waiting.clear();
    }
}

impl<T> Inner<T> {
    fn pass(&mut self, unit: usize, exit: u64) -> bool {
        if let Some(known) = self.entries.get(unit + 1) {
            return *known == exit;
        }
        assert_eq!(self.entries.len(), unit + 1, "the unit's entry is known");
        self.entries.push(exit);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(entry: u64, exit: u64) -> Guess<u64> {
        Guess { entry: Some(entry), exit, weight: 1, content: entry }
    }

    #[test]
    fn guesses_settle_in_order_once_what_is_before_them_is_known() {
        let stitch = Stitch::new(10);
        assert!(stitch.wait(2, guess(50, 70)).is_ok());
        assert!(stitch.wait(1, guess(30, 50)).is_ok());
        assert!(stitch.settle().is_empty());
        assert!(stitch.pass(0, 30));
        assert_eq!(stitch.settle(), [(1, Settled::Right(30)), (2, Settled::Right(50))]);
        assert_eq!(stitch.known(), (3, 70));
        assert!(stitch.pass(1, 50) && !stitch.pass(1, 51), "one place is right");
    }

    #[test]
    fn a_wrong_guess_holds_up_those_behind_it_until_its_unit_was_read_again() {
        let stitch = Stitch::new(10);
        assert!(stitch.wait(1, guess(31, 50)).is_ok());
        assert!(stitch.wait(2, guess(50, 70)).is_ok());
        assert!(stitch.pass(0, 30));
        assert_eq!(stitch.settle(), [(1, Settled::Wrong(31))]);
        assert_eq!(stitch.entry(2), None);
        assert!(stitch.pass(1, 50));
        assert_eq!(stitch.settle(), [(2, Settled::Right(50))]);
    }

    #[test]
    fn only_so_much_waits() {
        let stitch = Stitch::new(0);
        for unit in 1..=MAX_WAITING {
            assert!(stitch.wait(unit, guess(1, 1)).is_ok());
        }
        assert!(stitch.wait(MAX_WAITING + 1, guess(1, 1)).is_err());
        let heavy = Guess { weight: MAX_WEIGHT, ..guess(1, 1) };
        let stitch = Stitch::new(0);
        assert!(stitch.wait(1, guess(1, 1)).is_ok());
        assert!(stitch.wait(2, heavy).is_err());
        assert!(stitch.pass(0, 1));
        assert!(stitch.wait(1, guess(1, 1)).is_ok(), "what is known need not wait");
    }
}
