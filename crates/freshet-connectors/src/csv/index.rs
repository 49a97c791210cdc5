//! The structural index of a window of a file: where fields and lines end, found 64 bytes at a time.
//!
//! Quotes are followed by parity and the parity starts anew with each line, so a line whose quotes
//! do not close harms no other. A line in which a quote stands where parity alone cannot tell what
//! it means is *odd*: its line feed is right, its fields may not be, and [`super::split`] is asked.

mod masks;

pub(super) use masks::Level;
use masks::Masks;

use super::options::Dialect;

/// Where fields and lines end in a window. Places are offsets from the start of the data.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The byte before the window (wrapping below zero), then each field's end in order: a
    /// delimiter or line feed.
    pub ends: Vec<u32>,
    /// For each line, which of `ends` is its line feed.
    pub lines: Vec<u32>,
    /// Places in odd lines, ascending.
    pub odd: Vec<u32>,
    /// Whether a quoted field may hold an escaped quote.
    pub escapes: bool,
    /// Whether all bytes are ASCII.
    pub ascii: bool,
}

/// What is carried from one block of 64 bytes to the next.
#[derive(Debug, Clone, Copy)]
struct Carry {
    /// All ones where the block begins inside of quotes.
    inside: u64,
    /// One where a field may begin with the block.
    boundary: u64,
    /// One where the block follows a closing quote.
    closed: u64,
    /// Not zero once a byte was not ASCII.
    beyond_ascii: u64,
}

impl Index {
    /// Indexes `data[start..end]`, where a line begins at `start`. `whole` says that the data ends
    /// there, so that a line that has no line feed ends too.
    pub fn build(
        &mut self,
        level: Level,
        dialect: &Dialect,
        data: &[u8],
        (start, end): (usize, usize),
        whole: bool,
    ) {
        self.ends.clear();
        self.lines.clear();
        self.odd.clear();
        self.escapes = dialect.escape.is_some();
        self.ends.push((start as u32).wrapping_sub(1));
        let carry = match level {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level is only made where the processor has what it needs.
            Level::Avx512 => unsafe { x86::run_avx512(self, dialect, data, start, end) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Level::Avx2 => unsafe { x86::run_avx2(self, dialect, data, start, end) },
            Level::Portable => run::<masks::Portable>(self, dialect, data, start, end),
        };
        self.ascii = carry.beyond_ascii == 0;
        if whole && end > start && data[end - 1] != b'\n' {
            if carry.inside != 0 {
                self.odd.push(end as u32);
            }
            self.lines.push(self.ends.len() as u32);
            self.ends.push(end as u32);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Carry, Dialect, Index, masks, run};

    /// # Safety
    /// The processor must have these features.
    #[target_feature(
        enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,pclmulqdq,popcnt,bmi1,bmi2,lzcnt"
    )]
    pub(super) unsafe fn run_avx512(
        index: &mut Index,
        dialect: &Dialect,
        data: &[u8],
        start: usize,
        end: usize,
    ) -> Carry {
        run::<masks::Avx512>(index, dialect, data, start, end)
    }

    /// # Safety
    /// The processor must have these features.
    #[target_feature(enable = "avx2,pclmulqdq,popcnt,bmi1,bmi2,lzcnt")]
    pub(super) unsafe fn run_avx2(
        index: &mut Index,
        dialect: &Dialect,
        data: &[u8],
        start: usize,
        end: usize,
    ) -> Carry {
        run::<masks::Avx2>(index, dialect, data, start, end)
    }
}

#[inline(always)]
fn run<M: Masks>(
    index: &mut Index,
    dialect: &Dialect,
    data: &[u8],
    start: usize,
    end: usize,
) -> Carry {
    let masks = M::new(dialect);
    let mut carry = Carry { inside: 0, boundary: 1, closed: 0, beyond_ascii: 0 };
    let window = &data[start..end];
    let mut blocks = window.chunks_exact(64);
    let mut at = start;
    for block in &mut blocks {
        let block = block.try_into().expect("the chunk has 64 bytes");
        step(index, &masks, block, at, !0, &mut carry);
        at += 64;
    }
    let rest = blocks.remainder();
    if !rest.is_empty() {
        let mut block = [0; 64];
        block[..rest.len()].copy_from_slice(rest);
        let used = (1u64 << rest.len()) - 1;
        step(index, &masks, &block, at, used, &mut carry);
    }
    carry
}

#[inline(always)]
fn step<M: Masks>(
    index: &mut Index,
    masks: &M,
    block: &[u8; 64],
    at: usize,
    used: u64,
    carry: &mut Carry,
) {
    let found = masks.find(block);
    let feeds = found.feeds & used;
    let quotes = found.quotes & used;
    let delimiters = found.delimiters & used;
    carry.beyond_ascii |= found.beyond_ascii;
    let mut fields = delimiters;
    if quotes | carry.inside | carry.closed != 0 {
        let mut inside = M::prefix_xor(quotes) ^ carry.inside;
        // Lines end inside of quotes: those lines are odd, and what follows starts anew.
        let mut odd = 0;
        let mut open = feeds & inside;
        while open != 0 {
            let first = open & open.wrapping_neg();
            odd |= first;
            inside ^= !(first - 1);
            open = feeds & inside;
        }
        let opening = quotes & inside;
        let closing = quotes & !inside;
        fields &= !inside;
        let before = ((fields | feeds | closing) << 1) | carry.boundary;
        let behind = (closing << 1) | carry.closed;
        // A `\r` ends a field in front of a line feed only.
        let returns = found.returns & (feeds >> 1);
        odd |= opening & !before;
        odd |= behind & used & !(delimiters | feeds | quotes | returns);
        index.escapes |= opening & behind != 0;
        while odd != 0 {
            index.odd.push((at + odd.trailing_zeros() as usize) as u32);
            odd &= odd - 1;
        }
        carry.inside = ((inside as i64) >> 63) as u64;
        carry.closed = closing >> 63;
        carry.boundary = (fields | feeds | closing) >> 63;
    } else {
        carry.boundary = (fields | feeds) >> 63;
    }
    let mut escapes = found.escapes & used;
    while escapes != 0 {
        // An escape may change what a quote means, so each line that has one is looked at.
        let place = (at + escapes.trailing_zeros() as usize) as u32;
        let behind = index.odd.iter().rposition(|odd| *odd < place).map_or(0, |i| i + 1);
        index.odd.insert(behind, place);
        escapes &= escapes - 1;
    }
    let structure = fields | feeds;
    let first = index.ends.len() as u32;
    let mut rest = feeds;
    while rest != 0 {
        let below = (rest & rest.wrapping_neg()) - 1;
        index.lines.push(first + (structure & below).count_ones());
        rest &= rest - 1;
    }
    masks.places(structure, at as u32, &mut index.ends);
}
