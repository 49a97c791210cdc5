//! The few operations on 64 bytes that differ between processors.

use super::super::options::Dialect;

/// A set of instructions to index with; the best one of this machine is [`Level::best`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Level {
    /// All levels that this machine has, the best one first.
    pub fn all() -> Vec<Self> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let common = is_x86_feature_detected!("pclmulqdq")
                && is_x86_feature_detected!("popcnt")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt");
            if common
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vbmi2")
            {
                levels.push(Self::Avx512);
            }
            if common && is_x86_feature_detected!("avx2") {
                levels.push(Self::Avx2);
            }
        }
        levels.push(Self::Portable);
        levels
    }

    /// The best level of this machine.
    pub fn best() -> Self {
        Self::all()[0]
    }
}

/// Which of 64 bytes are what: bit `i` is byte `i`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub delimiters: u64,
    pub feeds: u64,
    pub quotes: u64,
    pub returns: u64,
    pub escapes: u64,
    /// Any bit is set where any byte is not ASCII.
    pub beyond_ascii: u64,
}

/// One set of instructions.
pub(super) trait Masks: Sized {
    /// Prepares for a dialect.
    fn new(dialect: &Dialect) -> Self;
    /// Classifies a block.
    fn find(&self, block: &[u8; 64]) -> Found;
    /// For each bit whether an odd number of the bits up to and including it is set.
    fn prefix_xor(bits: u64) -> u64;
    /// Appends `at` plus the place of each bit, in order.
    fn places(&self, bits: u64, at: u32, out: &mut Vec<u32>);
}

/// Appends eight places at a time; those beyond the last bit are overwritten by what comes next.
#[inline(always)]
fn places_by_eight(mut bits: u64, at: u32, out: &mut Vec<u32>) {
    let count = bits.count_ones() as usize;
    let len = out.len();
    out.reserve(64);
    let free = out.spare_capacity_mut();
    let mut done = 0;
    while done < count {
        for slot in &mut free[done..done + 8] {
            slot.write(at + bits.trailing_zeros());
            bits &= bits.wrapping_sub(1);
        }
        done += 8;
    }
    // SAFETY: the first `done`, which is at least `count`, slots behind `len` were written.
    unsafe { out.set_len(len + count) };
}

/// Plain integers, on any machine.
#[derive(Debug)]
pub(super) struct Portable {
    delimiter: u64,
    quote: Option<u64>,
    escape: Option<u64>,
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// For each byte of `word` that equals the byte that fills `pattern`, a bit, gathered at the bottom.
#[inline(always)]
fn equal_bytes(word: u64, pattern: u64) -> u64 {
    let difference = word ^ pattern;
    // Exact for every byte: no borrow crosses from one to the next.
    let low = (difference & !(ONES << 7)).wrapping_add(!(ONES << 7));
    let zero = !(low | difference) & (ONES << 7);
    (zero >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

impl Portable {
    #[inline(always)]
    fn bits(block: &[u8; 64], pattern: u64) -> u64 {
        let mut bits = 0;
        for (i, bytes) in block.chunks_exact(8).enumerate() {
            let word = u64::from_le_bytes(bytes.try_into().expect("the chunk has eight bytes"));
            bits |= equal_bytes(word, pattern) << (8 * i);
        }
        bits
    }
}

impl Masks for Portable {
    fn new(dialect: &Dialect) -> Self {
        let fill = |byte: u8| ONES * u64::from(byte);
        Self {
            delimiter: fill(dialect.delimiter),
            quote: dialect.quote.map(fill),
            escape: dialect.escape.map(fill),
        }
    }

    #[inline(always)]
    fn find(&self, block: &[u8; 64]) -> Found {
        Found {
            delimiters: Self::bits(block, self.delimiter),
            feeds: Self::bits(block, ONES * u64::from(b'\n')),
            quotes: self.quote.map_or(0, |quote| Self::bits(block, quote)),
            returns: Self::bits(block, ONES * u64::from(b'\r')),
            escapes: self.escape.map_or(0, |escape| Self::bits(block, escape)),
            beyond_ascii: block.iter().fold(0, |all, byte| all | u64::from(byte & 0x80)),
        }
    }

    #[inline(always)]
    fn prefix_xor(mut bits: u64) -> u64 {
        for shift in [1, 2, 4, 8, 16, 32] {
            bits ^= bits << shift;
        }
        bits
    }

    #[inline(always)]
    fn places(&self, bits: u64, at: u32, out: &mut Vec<u32>) {
        places_by_eight(bits, at, out);
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! Only used from functions that enable the features; see [`super::Level`].

    use std::arch::x86_64::*;

    use super::{Dialect, Found, Masks, places_by_eight};

    #[inline(always)]
    fn clmul_prefix_xor(bits: u64) -> u64 {
        // SAFETY: both levels have `pclmulqdq`.
        unsafe {
            let product =
                _mm_clmulepi64_si128::<0>(_mm_set_epi64x(0, bits as i64), _mm_set1_epi8(-1));
            _mm_cvtsi128_si64(product) as u64
        }
    }

    /// 64 bytes in one register.
    #[derive(Debug)]
    pub(in super::super) struct Avx512 {
        delimiter: __m512i,
        quote: Option<__m512i>,
        escape: Option<__m512i>,
        feed: __m512i,
        carriage_return: __m512i,
        places: __m512i,
    }

    impl Masks for Avx512 {
        #[inline(always)]
        fn new(dialect: &Dialect) -> Self {
            // SAFETY: the level has `avx512f`.
            unsafe {
                let mut places = [0u8; 64];
                for (i, place) in places.iter_mut().enumerate() {
                    *place = i as u8;
                }
                Self {
                    delimiter: _mm512_set1_epi8(dialect.delimiter as i8),
                    quote: dialect.quote.map(|quote| _mm512_set1_epi8(quote as i8)),
                    escape: dialect.escape.map(|escape| _mm512_set1_epi8(escape as i8)),
                    feed: _mm512_set1_epi8(b'\n' as i8),
                    carriage_return: _mm512_set1_epi8(b'\r' as i8),
                    places: _mm512_loadu_si512(places.as_ptr().cast()),
                }
            }
        }

        #[inline(always)]
        fn find(&self, block: &[u8; 64]) -> Found {
            // SAFETY: the level has `avx512bw`, and the block has the 64 bytes that are loaded.
            unsafe {
                let bytes = _mm512_loadu_si512(block.as_ptr().cast());
                Found {
                    delimiters: _mm512_cmpeq_epi8_mask(bytes, self.delimiter),
                    feeds: _mm512_cmpeq_epi8_mask(bytes, self.feed),
                    quotes: match self.quote {
                        Some(quote) => _mm512_cmpeq_epi8_mask(bytes, quote),
                        None => 0,
                    },
                    returns: _mm512_cmpeq_epi8_mask(bytes, self.carriage_return),
                    escapes: match self.escape {
                        Some(escape) => _mm512_cmpeq_epi8_mask(bytes, escape),
                        None => 0,
                    },
                    beyond_ascii: _mm512_movepi8_mask(bytes),
                }
            }
        }

        #[inline(always)]
        fn prefix_xor(bits: u64) -> u64 {
            clmul_prefix_xor(bits)
        }

        #[inline(always)]
        fn places(&self, bits: u64, at: u32, out: &mut Vec<u32>) {
            let len = out.len();
            out.reserve(64);
            // SAFETY: the level has `avx512vbmi2`; 64 slots are free behind `len`, which is what
            // four stores of 16 fill, and as many of them were written as there are bits.
            unsafe {
                let packed = _mm512_maskz_compress_epi8(bits, self.places);
                let base = _mm512_set1_epi32(at as i32);
                let slots = out.as_mut_ptr().add(len);
                let count = bits.count_ones() as usize;
                let store = |quarter: usize, bytes: __m128i| {
                    let wide = _mm512_add_epi32(_mm512_cvtepu8_epi32(bytes), base);
                    _mm512_storeu_si512(slots.add(16 * quarter).cast(), wide);
                };
                store(0, _mm512_castsi512_si128(packed));
                if count > 16 {
                    store(1, _mm512_extracti32x4_epi32::<1>(packed));
                    if count > 32 {
                        store(2, _mm512_extracti32x4_epi32::<2>(packed));
                        store(3, _mm512_extracti32x4_epi32::<3>(packed));
                    }
                }
                out.set_len(len + count);
            }
        }
    }

    /// 32 bytes in one register, twice.
    #[derive(Debug)]
    pub(in super::super) struct Avx2 {
        delimiter: __m256i,
        quote: Option<__m256i>,
        escape: Option<__m256i>,
        feed: __m256i,
        carriage_return: __m256i,
    }

    #[inline(always)]
    fn equal(low: __m256i, high: __m256i, byte: __m256i) -> u64 {
        // SAFETY: the level has `avx2`.
        unsafe {
            let low = _mm256_movemask_epi8(_mm256_cmpeq_epi8(low, byte)) as u32;
            let high = _mm256_movemask_epi8(_mm256_cmpeq_epi8(high, byte)) as u32;
            u64::from(low) | (u64::from(high) << 32)
        }
    }

    impl Masks for Avx2 {
        #[inline(always)]
        fn new(dialect: &Dialect) -> Self {
            // SAFETY: the level has `avx2`.
            unsafe {
                Self {
                    delimiter: _mm256_set1_epi8(dialect.delimiter as i8),
                    quote: dialect.quote.map(|quote| _mm256_set1_epi8(quote as i8)),
                    escape: dialect.escape.map(|escape| _mm256_set1_epi8(escape as i8)),
                    feed: _mm256_set1_epi8(b'\n' as i8),
                    carriage_return: _mm256_set1_epi8(b'\r' as i8),
                }
            }
        }

        #[inline(always)]
        fn find(&self, block: &[u8; 64]) -> Found {
            // SAFETY: the level has `avx2`, and the block has the twice 32 bytes that are loaded.
            let (low, high) = unsafe {
                let bytes = block.as_ptr();
                (_mm256_loadu_si256(bytes.cast()), _mm256_loadu_si256(bytes.add(32).cast()))
            };
            Found {
                delimiters: equal(low, high, self.delimiter),
                feeds: equal(low, high, self.feed),
                quotes: self.quote.map_or(0, |quote| equal(low, high, quote)),
                returns: equal(low, high, self.carriage_return),
                escapes: self.escape.map_or(0, |escape| equal(low, high, escape)),
                // SAFETY: the level has `avx2`.
                beyond_ascii: unsafe { _mm256_movemask_epi8(_mm256_or_si256(low, high)) as u64 },
            }
        }

        #[inline(always)]
        fn prefix_xor(bits: u64) -> u64 {
            clmul_prefix_xor(bits)
        }

        #[inline(always)]
        fn places(&self, bits: u64, at: u32, out: &mut Vec<u32>) {
            places_by_eight(bits, at, out);
        }
    }
}
