//! A set of integers that mostly lie close together, as serial numbers and dates do: bitmaps of 512
//! neighbours each, found by the integer's upper bits. Where keys lie far apart it says so, and a
//! table of keys is smaller.
//!
//! The idea is that of Roaring bitmaps (Lemire et al., "Roaring Bitmaps: Implementation of an
//! Optimized Software Library", 2018), without their other containers.

use std::ops::Range;

use hashbrown::HashMap;

/// Integers of one bitmap.
const NEIGHBOURS: u32 = 512;
/// Bitmaps that are made before their density is looked at, some 3 MB: what comes first need not be
/// like what follows, such as the few late rows in front of a day's.
const FIRST: usize = 32 << 10;
/// Keys of a bitmap, on average, below which a table of keys takes less memory.
const FEW: usize = 8;
/// Bytes of a bitmap and of its entry in the index.
const BITMAP: usize = size_of::<Bitmap>() + 2 * (size_of::<(u64, u32)>() + 1);

type Bitmap = [u64; (NEIGHBOURS / u64::BITS) as usize];

/// The set.
#[derive(Debug)]
pub struct DenseSet {
    index: HashMap<u64, u32>,
    bitmaps: Vec<Bitmap>,
    keys: usize,
    /// The bitmap of the key before.
    last: Option<(u64, u32)>,
}

/// How far an insertion came.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// All keys are in it.
    All,
    /// Keys from this row on are not in it: there is no memory for another bitmap.
    Full(usize),
    /// Keys from this row on are not in it, and a table of the keys would take less memory.
    Sparse(usize),
}

impl DenseSet {
    /// An empty set.
    pub fn new() -> Self {
        Self { index: HashMap::new(), bitmaps: Vec::new(), keys: 0, last: None }
    }

    /// Puts the keys of `rows` in, and for each whether it is new into `fresh`. `grow` is asked for
    /// each further amount of bytes.
    pub fn insert(
        &mut self,
        keys: &[u64],
        rows: Range<usize>,
        fresh: &mut Vec<bool>,
        grow: &mut dyn FnMut(usize) -> bool,
    ) -> Progress {
        for row in rows {
            let (upper, word, bit) = split(keys[row]);
            let index = match self.last {
                Some((last, index)) if last == upper => index,
                _ => match self.find(upper) {
                    Some(index) => index,
                    None => {
                        let sparse = self.keys < self.bitmaps.len() * FEW;
                        if sparse && self.bitmaps.len() >= FIRST {
                            return Progress::Sparse(row);
                        }
                        match self.add(upper, grow) {
                            Some(index) => index,
                            None if sparse => return Progress::Sparse(row),
                            None => return Progress::Full(row),
                        }
                    }
                },
            };
            self.last = Some((upper, index));
            let word = &mut self.bitmaps[index as usize][word];
            let is_fresh = *word & bit == 0;
            *word |= bit;
            self.keys += usize::from(is_fresh);
            fresh.push(is_fresh);
        }
        Progress::All
    }

    /// Whether a key is in it.
    pub fn contains(&self, key: u64) -> bool {
        let (upper, word, bit) = split(key);
        self.find(upper).is_some_and(|index| self.bitmaps[index as usize][word] & bit != 0)
    }

    /// Bytes that it has asked for.
    pub fn bytes(&self) -> usize {
        self.bitmaps.capacity() * BITMAP
    }

    /// The keys in it, in no order.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.index.iter().flat_map(|(upper, index)| {
            let bitmap = &self.bitmaps[*index as usize];
            bitmap.iter().zip(0u64..).flat_map(move |(word, number)| {
                let first = upper * u64::from(NEIGHBOURS) + number * u64::from(u64::BITS);
                bits(*word).map(move |bit| first + bit)
            })
        })
    }

    fn find(&self, upper: u64) -> Option<u32> {
        self.index.get(&upper).copied()
    }

    fn add(&mut self, upper: u64, grow: &mut dyn FnMut(usize) -> bool) -> Option<u32> {
        let len = self.bitmaps.len();
        let index = u32::try_from(len).ok()?;
        if len == self.bitmaps.capacity() {
            let more = (len / 2).max(64);
            if !grow(more * BITMAP) {
                return None;
            }
            self.bitmaps.reserve_exact(more);
        }
        self.bitmaps.push(Bitmap::default());
        self.index.insert(upper, index);
        Some(index)
    }
}

/// The bitmap of a key, the word in it, and the bit in that.
fn split(key: u64) -> (u64, usize, u64) {
    let lower = key % u64::from(NEIGHBOURS);
    let bits = u64::from(u64::BITS);
    (key / u64::from(NEIGHBOURS), (lower / bits) as usize, 1 << (lower % bits))
}

fn bits(mut word: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| u64::from(word.trailing_zeros()))?;
        word &= word - 1;
        Some(bit)
    })
}
