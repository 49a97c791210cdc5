//! Chance that is the same on every machine and in every version: SplitMix64, keyed by place.
//!
//! The library generators make no promise across their versions; what is generated here is compared
//! with golden files.

/// A short stream of random numbers that belongs to one place (a row of a file).
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Rng {
    /// The stream of `place` within `space` under `seed`; streams of different places are independent.
    pub(super) fn at(seed: u64, space: u64, place: u64) -> Self {
        let space = mix(mix(seed).wrapping_add(space.wrapping_mul(0xD1B5_4A32_D192_ED03)));
        Self(mix(space ^ place.wrapping_mul(0xA24B_AED4_963E_E407)))
    }

    /// The next 64 random bits.
    pub(super) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }
}

/// `n` of 32 random bits, scaled to `0..limit`.
pub(super) fn below(bits: u32, limit: u32) -> u32 {
    ((u64::from(bits) * u64::from(limit)) >> 32) as u32
}

/// 64 random bits, scaled to `0..limit`.
pub(super) fn below_wide(bits: u64, limit: u64) -> u64 {
    ((u128::from(bits) * u128::from(limit)) >> 64) as u64
}

/// The bound under which a random 32-bit number lies with probability `share`.
pub(super) fn threshold(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * 4_294_967_296.0).round() as u64
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
