//! Numbers and times as bytes, without formatting machinery: it would cost more than the data.

use chrono::{DateTime, Datelike, Timelike};

/// Appends a number in decimal.
pub(super) fn number(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends the last two decimal digits of a number.
pub(super) fn two(number: impl Into<u64>, out: &mut Vec<u8>) {
    let number = number.into();
    out.extend_from_slice(&[b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]);
}

/// Writes times of day, and remembers the second that it wrote last.
#[derive(Debug, Clone)]
pub(super) struct TimeText {
    second: i64,
    /// `YYYY-MM-DD?HH:MM:SS.` with the separator of date and time at its place.
    text: Vec<u8>,
    separator: u8,
}

impl TimeText {
    pub(super) fn new(separator: u8) -> Self {
        Self { second: i64::MIN, text: Vec::with_capacity(20), separator }
    }

    /// Appends `millis` since 1970 with three digits of a second. Of a time that has no four-digit
    /// year it writes 1970's first: the generators check their span before they begin.
    pub(super) fn write(&mut self, millis: i64, out: &mut Vec<u8>) {
        let second = millis.div_euclid(1_000);
        if second != self.second {
            self.second = second;
            let time = DateTime::from_timestamp(second, 0).unwrap_or_default();
            let text = &mut self.text;
            text.clear();
            let year = u64::from(time.year().unsigned_abs());
            two(year / 100, text);
            two(year, text);
            for (before, part) in [
                (b'-', time.month()),
                (b'-', time.day()),
                (self.separator, time.hour()),
                (b':', time.minute()),
                (b':', time.second()),
            ] {
                text.push(before);
                two(part, text);
            }
            text.push(b'.');
        }
        out.extend_from_slice(&self.text);
        let rest = millis.rem_euclid(1_000) as u64;
        out.push(b'0' + (rest / 100) as u8);
        two(rest, out);
    }
}

/// The last time that is written with a four-digit year, in milliseconds since 1970.
pub(super) const LAST_MILLIS: i64 = 253_402_300_799_999;
