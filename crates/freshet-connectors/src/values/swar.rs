//! Digits, eight at a time: a word holds eight characters, the first one in its lowest byte.

/// The character `0` in each byte.
const ZEROS: u64 = 0x3030_3030_3030_3030;

/// The eight bytes that begin at `at`.
#[inline(always)]
pub(crate) fn load8(data: &[u8], at: usize) -> Option<u64> {
    let bytes = data.get(at..at.wrapping_add(8))?;
    Some(u64::from_le_bytes(bytes.try_into().expect("the slice has eight bytes")))
}

/// The eight bytes that end before `end`.
#[inline(always)]
pub(crate) fn load8_before(data: &[u8], end: usize) -> Option<u64> {
    load8(data, end.wrapping_sub(8))
}

/// The number that the last `digits` (1 to 8) characters of `word` spell; `None` if any is no digit.
#[inline(always)]
pub(crate) fn last_digits(word: u64, digits: u32) -> Option<u64> {
    let shift = (64 - 8 * digits) & 63;
    let values = ((word ^ ZEROS) >> shift) << shift;
    all_digits(values).then(|| fold(values))
}

/// How many characters of `word` are digits before the first one that is none.
#[inline(always)]
pub(crate) fn leading_digits(word: u64) -> usize {
    let values = word ^ ZEROS;
    // A byte that is no digit may spoil the marks behind it, never those in front.
    let others = (values.wrapping_add(0x7676_7676_7676_7676) | values) & 0x8080_8080_8080_8080;
    (others.trailing_zeros() / 8) as usize
}

/// Whether each byte is 0 to 9.
#[inline(always)]
pub(crate) fn all_digits(values: u64) -> bool {
    (values.wrapping_add(0x7676_7676_7676_7676) | values) & 0x8080_8080_8080_8080 == 0
}

/// The number whose decimal digits are the bytes of `values`, the most significant one lowest.
#[inline(always)]
fn fold(values: u64) -> u64 {
    let pairs = values.wrapping_mul(10).wrapping_add(values >> 8) & 0x00FF_00FF_00FF_00FF;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_FFFF_0000_FFFF;
    fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xFFFF_FFFF
}

/// The number that 1 to 18 digits in `data[start..end]` spell.
///
/// `None` where there is anything but digits, too many of them, or fewer bytes in front of `end`
/// than are read at once: the caller then looks again, slowly.
#[inline(always)]
pub(crate) fn number(data: &[u8], start: usize, end: usize) -> Option<u64> {
    let digits = end.wrapping_sub(start);
    if digits.wrapping_sub(1) < 8 {
        return last_digits(load8_before(data, end)?, digits as u32);
    }
    if digits.wrapping_sub(1) >= 18 {
        return None;
    }
    let low = last_digits(load8_before(data, end)?, 8)?;
    let rest = digits - 8;
    if rest <= 8 {
        let high = last_digits(load8_before(data, end - 8)?, rest as u32)?;
        return Some(high * 100_000_000 + low);
    }
    let middle = last_digits(load8_before(data, end - 8)?, 8)?;
    let high = last_digits(load8_before(data, end - 16)?, (rest - 8) as u32)?;
    Some((high * 100_000_000 + middle) * 100_000_000 + low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_whatever_stands_before_them() {
        for digits in 1..=18usize {
            let text: String = ('1'..='9').cycle().take(digits).collect();
            for before in ["........", "99999999", "\u{ff}zzzzzzzzzzzzzzzzzzzzzzzz"] {
                let whole = format!("{before}{text}");
                let expected: u64 = text.parse().expect("digits");
                if whole.len() >= 8 {
                    let got = number(whole.as_bytes(), before.len(), whole.len());
                    if let Some(got) = got {
                        assert_eq!(got, expected, "{whole}");
                    } else {
                        assert!(digits > 8 && whole.len() < digits.next_multiple_of(8), "{whole}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_byte_that_is_no_digit_is_seen() {
        for byte in 0..=255u8 {
            for at in 0..16 {
                let mut text = *b"1234567890123456";
                text[at] = byte;
                let got = number(&text, 0, 16);
                assert_eq!(got.is_some(), byte.is_ascii_digit(), "{byte} at {at}");
            }
        }
    }
}
