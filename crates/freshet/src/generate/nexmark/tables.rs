//! What all events draw from: text, channels with their addresses, prices. Made once.

use crate::generate::rng::{Rng, below};

/// Bytes of the text that extras are cut out of, as in the suite.
const EXTRA: usize = 1 << 20;
/// Steps of each of the two tables whose product is a price.
const STEPS: u32 = 1 << 10;
const CHANNELS: u32 = 10_000;
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

/// Places of chance apart from those of the events.
const SPACE: u64 = 1;

/// See the module.
#[derive(Debug)]
pub(super) struct Tables {
    extra: Vec<u8>,
    hot: Vec<Vec<u8>>,
    /// For each channel `"channel":"…","url":"…"`.
    channels: Vec<Vec<u8>>,
    coarse: Vec<f64>,
    fine: Vec<f64>,
}

impl Tables {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::at(seed, SPACE, 0);
        let mut extra = Vec::with_capacity(EXTRA);
        while extra.len() < EXTRA {
            let bits = rng.bits();
            extra.extend((0..4).map(|part| letter((bits >> (16 * part)) as u16)));
        }
        let hot = HOT_CHANNELS
            .iter()
            .map(|name| {
                let mut text = Vec::new();
                open(name, &mut rng, &mut text);
                text.push(b'"');
                text
            })
            .collect();
        let channels = (0..CHANNELS)
            .map(|channel| {
                let mut text = Vec::new();
                open(&format!("channel-{channel}"), &mut rng, &mut text);
                // One in ten has no identifier, as in the suite.
                if below(rng.bits() as u32, 10) > 0 {
                    let id = (channel.reverse_bits() as i32).unsigned_abs();
                    text.extend_from_slice(format!("&channel_id={id}").as_bytes());
                }
                text.push(b'"');
                text
            })
            .collect();

        // 10^(6 k / 2^10) and 10^(6 k / 2^20). Roots and products are exactly rounded everywhere;
        // `powf` is not, and would give other prices on another machine.
        let root = |times: u32| (0..times).fold(1e6_f64, |power, _| power.sqrt());
        let powers = |base: f64| {
            let mut power = 1.0;
            (0..STEPS)
                .map(|_| {
                    let this = power;
                    power *= base;
                    this
                })
                .collect()
        };
        Self { extra, hot, channels, coarse: powers(root(10)), fine: powers(root(20)) }
    }

    /// A price in cents: a power of ten with an even exponent from 0 to 6, times 100.
    pub(super) fn price(&self, bits: u32) -> u64 {
        let (coarse, fine) = (bits >> 22, (bits >> 12) & (STEPS - 1));
        (self.coarse[coarse as usize] * self.fine[fine as usize] * 100.0).round() as u64
    }

    /// Text that brings what has `size` so far to `average` on average, give or take a fifth.
    pub(super) fn extra(&self, rng: &mut Rng, size: usize, average: usize) -> &[u8] {
        let Some(missing) = average.checked_sub(size) else { return &[] };
        let bits = rng.bits();
        // `round(missing / 5)`, which the suite computes in floating point.
        let delta = (2 * missing + 5) / 10;
        let spread = below(bits as u32, (2 * delta) as u32) as usize;
        let length = missing - delta + spread;
        let at = below((bits >> 32) as u32, (EXTRA - length) as u32) as usize;
        &self.extra[at..at + length]
    }

    /// `"channel":"…","url":"…"` of a bid: every second is one of four.
    pub(super) fn channel(&self, rng: &mut Rng) -> &[u8] {
        let bits = rng.bits();
        let pick = (bits >> 32) as u32;
        if bits & 1 == 1 {
            &self.hot[below(pick, HOT_CHANNELS.len() as u32) as usize]
        } else {
            &self.channels[below(pick, CHANNELS) as usize]
        }
    }
}

/// Appends 3 to `longest - 1` characters, one in 13 of them `special`; with a blank as that, blanks
/// at the ends are cut off, as the suite does.
pub(super) fn string(rng: &mut Rng, longest: u32, special: u8, out: &mut Vec<u8>) {
    let start = out.len();
    let mut left = 3 + below(rng.bits() as u32, longest - 3);
    while left > 0 {
        let bits = rng.bits();
        for pair in 0..left.min(2) {
            let bits = (bits >> (32 * pair)) as u32;
            let is_special = below(bits << 16, 13) == 0;
            out.push(if is_special { special } else { letter((bits >> 16) as u16) });
        }
        left -= left.min(2);
    }
    if special == b' ' {
        while out.len() > start && out.last() == Some(&b' ') {
            out.pop();
        }
        let blanks = out[start..].iter().take_while(|byte| **byte == b' ').count();
        out.drain(start..start + blanks);
    }
}

/// A channel's fields up to the address, whose quote stays open.
fn open(name: &str, rng: &mut Rng, text: &mut Vec<u8>) {
    text.extend_from_slice(b"\"channel\":\"");
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b"\",\"url\":\"https://www.nexmark.com/");
    for _ in 0..3 {
        string(rng, 5, b'_', text);
        text.push(b'/');
    }
    text.extend_from_slice(b"item.htm?query=1");
}

fn letter(bits: u16) -> u8 {
    b'a' + ((u32::from(bits) * 26) >> 16) as u8
}
