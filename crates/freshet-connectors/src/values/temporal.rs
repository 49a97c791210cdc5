//! Dates, times of day and timestamps: ISO 8601 at speed, anything else by a [`Pattern`].

use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Time64MicrosecondArray, TimestampMicrosecondArray};
use arrow::buffer::NullBuffer;

use super::Fault;
use super::pattern::Pattern;
use super::primitive::Parse;
use super::swar;

pub(super) const MICROS_A_SECOND: i64 = 1_000_000;
pub(super) const MICROS_A_DAY: i64 = 86_400 * MICROS_A_SECOND;

/// 0001-01-01 and 9999-12-31 in days since 1970.
const FIRST_DAY: i32 = -719_162;
const LAST_DAY: i32 = 2_932_896;

/// Days since 1970 of a day of the Gregorian calendar; `None` where there is no such day.
#[inline(always)]
pub(super) fn days(year: u32, month: u32, day: u32) -> Option<i32> {
    const LENGTHS: [u8; 16] = [0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 0, 0, 0];
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = u32::from(LENGTHS[(month & 15) as usize]) + u32::from(leap && month == 2);
    if month > 12 || day.wrapping_sub(1) >= length || year.wrapping_sub(1) >= 9999 {
        return None;
    }
    // The year begins in March, so that the leap day is its last.
    let shifted = if month > 2 { year } else { year - 1 };
    let (era, of_era) = (shifted / 400, shifted % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Some((era * 146_097 + day_of_era) as i32 - 719_468)
}

/// The day that was read last: neighbours in a file mostly share it.
#[derive(Debug)]
pub(super) struct LastDay {
    key: (u64, u64),
    days: i32,
}

impl Default for LastDay {
    fn default() -> Self {
        let word = |text: &[u8; 8]| u64::from_le_bytes(*text);
        Self { key: (word(b"1970-01-"), word(b"70-01-01")), days: 0 }
    }
}

/// The date `YYYY-MM-DD` in the ten bytes from `start`.
#[inline(always)]
fn iso_date(data: &[u8], start: usize, last: &mut LastDay) -> Option<i32> {
    let key = (swar::load8(data, start)?, swar::load8(data, start + 2)?);
    if key != last.key {
        last.days = day_of_words(key.0, key.1)?;
        last.key = key;
    }
    Some(last.days)
}

/// The day in `YYYY-MM-` and `YY-MM-DD`.
#[inline]
fn day_of_words(front: u64, back: u64) -> Option<i32> {
    const DASHES: u64 = 0x2D00_002D_0000_0000;
    if front & 0xFF00_00FF_0000_0000 != DASHES {
        return None;
    }
    let year_month = (front & 0xFFFF_FFFF) | ((front >> 8) & 0xFFFF_0000_0000);
    let digits = (year_month | (back & 0xFFFF_0000_0000_0000)) ^ 0x3030_3030_3030_3030;
    if !swar::all_digits(digits) {
        return None;
    }
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let pair = |at: u32| ((pairs >> (16 * at)) & 0xFF) as u32;
    days(pair(0) * 100 + pair(1), pair(2), pair(3))
}

/// The microseconds of a day in the eight bytes `HH:MM:SS` from `start`.
#[inline(always)]
fn iso_time(data: &[u8], start: usize) -> Option<i64> {
    // A colon becomes 0 here, and anything else in its place is at least 1: it spoils the check of
    // the digits unless it is one itself, so colons are checked on their own.
    let word = swar::load8(data, start)?;
    let digits = word ^ 0x3030_3A30_303A_3030;
    if !swar::all_digits(digits) || digits & 0x0000_FF00_00FF_0000 != 0 {
        return None;
    }
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let (hour, minute, second) = (pairs & 0xFF, (pairs >> 24) & 0xFF, (pairs >> 48) & 0xFF);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some((hour * 3600 + minute * 60 + second) as i64 * MICROS_A_SECOND)
}

/// The microseconds that the digits of a fraction of a second spell; those beyond six are dropped.
pub(super) fn fraction(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || digits.len() > 12 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let kept = digits.iter().copied().chain(std::iter::repeat(b'0')).take(6);
    Some(kept.fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
}

/// `HH:MM`, `HH:MM:SS` or `HH:MM:SS.fraction` at the start of `text`, and what follows.
fn time_of_day(text: &[u8]) -> Option<(i64, &[u8])> {
    let two = |at: usize| -> Option<i64> {
        let (tens, ones) = (text.get(at)?, text.get(at + 1)?);
        (tens.is_ascii_digit() && ones.is_ascii_digit())
            .then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
    };
    let (hour, minute) = (two(0)?, two(3)?);
    if text[2] != b':' || hour > 23 || minute > 59 {
        return None;
    }
    let mut micros = (hour * 60 + minute) * 60 * MICROS_A_SECOND;
    let mut rest = &text[5..];
    if rest.first() == Some(&b':') {
        let second = two(6)?;
        if second > 59 {
            return None;
        }
        micros += second * MICROS_A_SECOND;
        rest = &text[8..];
        if let Some((b'.' | b',', after)) = rest.split_first() {
            let length = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
            micros += fraction(&after[..length])?;
            rest = &after[length..];
        }
    }
    Some((micros, rest))
}

/// The microseconds by which a zone's clocks are ahead of UTC: `Z`, `+HH`, `+HHMM`, `+HH:MM`.
pub(super) fn zone(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text.split_first()? {
        (b'Z' | b'z', []) => return Some(0),
        (b'+', digits) => (1, digits),
        (b'-', digits) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits {
        [a, b] => ([*a, *b], [b'0', b'0']),
        [a, b, c, d] | [a, b, b':', c, d] => ([*a, *b], [*c, *d]),
        _ => return None,
    };
    let number = |pair: [u8; 2]| {
        pair.iter()
            .all(u8::is_ascii_digit)
            .then(|| i64::from(pair[0] - b'0') * 10 + i64::from(pair[1] - b'0'))
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (hours <= 18 && minutes <= 59).then_some(sign * (hours * 60 + minutes) * 60 * MICROS_A_SECOND)
}

/// Dates.
#[derive(Debug)]
pub(super) struct Date {
    pub pattern: Option<Pattern>,
}

impl Parse for Date {
    type Native = i32;
    type Memory = LastDay;

    fn limits(&self) -> (i32, i32) {
        (FIRST_DAY, LAST_DAY)
    }

    #[inline(always)]
    fn fast(&self, data: &[u8], start: usize, end: usize, last: &mut LastDay) -> Option<i32> {
        match &self.pattern {
            None if end.wrapping_sub(start) == 10 => iso_date(data, start, last),
            None => None,
            Some(pattern) => pattern.date(data.get(start..end)?),
        }
    }

    fn slow(&self, text: &[u8]) -> Result<i32, Fault> {
        match &self.pattern {
            None if text.len() == 10 => iso_date(text, 0, &mut LastDay::default()),
            None => None,
            Some(pattern) => pattern.date(text),
        }
        .ok_or(Fault::Type)
    }

    fn array(&self, values: Vec<i32>, nulls: Option<NullBuffer>) -> ArrayRef {
        Arc::new(Date32Array::new(values.into(), nulls))
    }
}

/// Times of day.
#[derive(Debug)]
pub(super) struct Time {
    pub pattern: Option<Pattern>,
}

impl Parse for Time {
    type Native = i64;
    type Memory = ();

    fn limits(&self) -> (i64, i64) {
        (0, MICROS_A_DAY - 1)
    }

    #[inline(always)]
    fn fast(&self, data: &[u8], start: usize, end: usize, _: &mut ()) -> Option<i64> {
        match &self.pattern {
            None if end.wrapping_sub(start) == 8 => iso_time(data, start),
            None => None,
            Some(pattern) => pattern.time(data.get(start..end)?),
        }
    }

    fn slow(&self, text: &[u8]) -> Result<i64, Fault> {
        match &self.pattern {
            None => time_of_day(text).filter(|(_, rest)| rest.is_empty()).map(|(micros, _)| micros),
            Some(pattern) => pattern.time(text),
        }
        .ok_or(Fault::Type)
    }

    fn array(&self, values: Vec<i64>, nulls: Option<NullBuffer>) -> ArrayRef {
        Arc::new(Time64MicrosecondArray::new(values.into(), nulls))
    }
}

/// Timestamps, with or without a zone.
#[derive(Debug)]
pub(super) struct Timestamp {
    pub pattern: Option<Pattern>,
    pub zoned: bool,
}

impl Timestamp {
    /// `YYYY-MM-DD`, then a blank or `T` and a time, then a zone where zones are expected.
    fn iso(&self, text: &[u8]) -> Option<i64> {
        let day = i64::from(iso_date(text, 0, &mut LastDay::default())?) * MICROS_A_DAY;
        let Some((separator, rest)) = text[10..].split_first() else { return Some(day) };
        if !matches!(separator, b' ' | b'T' | b't') {
            return None;
        }
        let (micros, rest) = time_of_day(rest)?;
        let ahead = match rest.trim_ascii_start() {
            [] => 0,
            rest if self.zoned => zone(rest)?,
            _ => return None,
        };
        Some(day + micros - ahead)
    }
}

impl Parse for Timestamp {
    type Native = i64;
    type Memory = LastDay;

    fn limits(&self) -> (i64, i64) {
        // A zone may carry the first and last day over the edge.
        let (first, last) = (i64::from(FIRST_DAY) - 1, i64::from(LAST_DAY) + 2);
        (first * MICROS_A_DAY, last * MICROS_A_DAY - 1)
    }

    #[inline(always)]
    fn fast(&self, data: &[u8], start: usize, end: usize, last: &mut LastDay) -> Option<i64> {
        if let Some(pattern) = &self.pattern {
            return pattern.timestamp(data.get(start..end)?);
        }
        let length = end.wrapping_sub(start);
        if length < 19 || !matches!(*data.get(start + 10)?, b' ' | b'T') {
            return None;
        }
        let seconds =
            i64::from(iso_date(data, start, last)?) * MICROS_A_DAY + iso_time(data, start + 11)?;
        if length == 19 {
            return Some(seconds);
        }
        // A point and up to six digits.
        let digits = (length - 20) as u32;
        if digits.wrapping_sub(1) >= 6 || data[start + 19] != b'.' {
            return None;
        }
        let micros = swar::last_digits(swar::load8_before(data, end)?, digits)? as i64;
        const SCALE: [i64; 8] = [0, 100_000, 10_000, 1_000, 100, 10, 1, 0];
        Some(seconds + micros * SCALE[(digits & 7) as usize])
    }

    fn slow(&self, text: &[u8]) -> Result<i64, Fault> {
        match &self.pattern {
            None => self.iso(text),
            Some(pattern) => pattern.timestamp(text),
        }
        .ok_or(Fault::Type)
    }

    fn array(&self, values: Vec<i64>, nulls: Option<NullBuffer>) -> ArrayRef {
        let array = TimestampMicrosecondArray::new(values.into(), nulls);
        Arc::new(if self.zoned { array.with_timezone("UTC") } else { array })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{Datelike, NaiveDate};

    #[test]
    fn days_agree_with_chrono_over_all_years() {
        let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).expect("a day").num_days_from_ce();
        for year in (1..=9999u32).filter(|year| year % 7 == 0 || year % 100 == 0) {
            for month in 0..=13 {
                for day in [0, 1, 15, 28, 29, 30, 31, 32] {
                    let expected = NaiveDate::from_ymd_opt(year as i32, month, day)
                        .map(|date| date.num_days_from_ce() - epoch);
                    assert_eq!(days(year, month, day), expected, "{year}-{month}-{day}");
                }
            }
        }
        assert_eq!(days(1, 1, 1), Some(FIRST_DAY));
        assert_eq!(days(9999, 12, 31), Some(LAST_DAY));
        assert_eq!(days(0, 1, 1), None);
    }
}
