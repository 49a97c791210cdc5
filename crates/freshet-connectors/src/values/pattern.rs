//! `strftime` patterns, compiled: what dates and times that are not ISO 8601 are read with.

use super::temporal::{self, MICROS_A_DAY, MICROS_A_SECOND};

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] =
    ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// One piece of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Literal(u8),
    Year,
    YearOfCentury,
    Month,
    MonthName,
    Day,
    DayOfYear,
    Weekday,
    Hour,
    HalfDayHour,
    Minute,
    Second,
    /// Digits of a fraction, with its point where `point`; at most so many.
    Fraction {
        point: bool,
        most: usize,
    },
    Meridiem,
    Zone,
    Epoch,
}

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    items: Vec<Item>,
}

/// What a text said, as far as it said it.
#[derive(Debug, Default)]
struct Said {
    year: Option<u32>,
    month: Option<u32>,
    day: Option<u32>,
    day_of_year: Option<u32>,
    hour: Option<u32>,
    half_day_hour: Option<u32>,
    afternoon: Option<bool>,
    minute: u32,
    second: u32,
    micros: i64,
    ahead: i64,
    epoch: Option<i64>,
}

impl Pattern {
    /// Compiles a pattern; the error says which part of it is not known.
    pub fn new(text: &str) -> Result<Self, String> {
        let expanded = text
            .replace("%F", "%Y-%m-%d")
            .replace("%T", "%H:%M:%S")
            .replace("%R", "%H:%M")
            .replace("%D", "%m/%d/%y");
        let mut items = Vec::new();
        let mut rest = expanded.as_str();
        while let Some(character) = rest.chars().next() {
            if character != '%' {
                let (literal, after) = rest.split_at(character.len_utf8());
                items.extend(literal.bytes().map(Item::Literal));
                rest = after;
                continue;
            }
            let known: [(&str, Item); 31] = [
                ("%Y", Item::Year),
                ("%y", Item::YearOfCentury),
                ("%m", Item::Month),
                ("%-m", Item::Month),
                ("%b", Item::MonthName),
                ("%B", Item::MonthName),
                ("%h", Item::MonthName),
                ("%d", Item::Day),
                ("%-d", Item::Day),
                ("%e", Item::Day),
                ("%j", Item::DayOfYear),
                ("%a", Item::Weekday),
                ("%A", Item::Weekday),
                ("%H", Item::Hour),
                ("%-H", Item::Hour),
                ("%k", Item::Hour),
                ("%I", Item::HalfDayHour),
                ("%-I", Item::HalfDayHour),
                ("%l", Item::HalfDayHour),
                ("%M", Item::Minute),
                ("%S", Item::Second),
                ("%f", Item::Fraction { point: false, most: 9 }),
                ("%3f", Item::Fraction { point: false, most: 3 }),
                ("%6f", Item::Fraction { point: false, most: 6 }),
                ("%9f", Item::Fraction { point: false, most: 9 }),
                ("%.f", Item::Fraction { point: true, most: 9 }),
                ("%p", Item::Meridiem),
                ("%P", Item::Meridiem),
                ("%z", Item::Zone),
                ("%:z", Item::Zone),
                ("%s", Item::Epoch),
            ];
            if let Some(after) = rest.strip_prefix("%%") {
                items.push(Item::Literal(b'%'));
                rest = after;
            } else if let Some((name, item)) = known.iter().find(|(name, _)| rest.starts_with(name))
            {
                items.push(*item);
                rest = &rest[name.len()..];
            } else {
                let part: String = rest.chars().take(2).collect();
                return Err(format!("the format \"{text}\" has \"{part}\", which is not known"));
            }
        }
        if items.iter().all(|item| matches!(item, Item::Literal(_))) {
            return Err(format!("the format \"{text}\" has no part such as %Y or %H"));
        }
        Ok(Self { items })
    }

    /// The days since 1970 that `text` says.
    pub fn date(&self, text: &[u8]) -> Option<i32> {
        let said = self.read(text)?;
        match said.epoch {
            Some(seconds) => i32::try_from(seconds.div_euclid(86_400)).ok(),
            None => said.days(),
        }
    }

    /// The microseconds of the day that `text` says.
    pub fn time(&self, text: &[u8]) -> Option<i64> {
        self.read(text)?.time_of_day()
    }

    /// The microseconds since 1970, in UTC where there is a zone.
    pub fn timestamp(&self, text: &[u8]) -> Option<i64> {
        let said = self.read(text)?;
        if let Some(seconds) = said.epoch {
            return seconds.checked_mul(MICROS_A_SECOND)?.checked_add(said.micros);
        }
        Some(i64::from(said.days()?) * MICROS_A_DAY + said.time_of_day()? - said.ahead)
    }

    fn read(&self, text: &[u8]) -> Option<Said> {
        let mut said = Said::default();
        let mut rest = text;
        for item in &self.items {
            match item {
                Item::Literal(byte) => rest = rest.strip_prefix(std::slice::from_ref(byte))?,
                Item::Year => said.year = Some(digits(&mut rest, 4, 4)?),
                Item::YearOfCentury => {
                    let year = digits(&mut rest, 2, 2)?;
                    said.year = Some(year + if year < 69 { 2000 } else { 1900 });
                }
                Item::Month => said.month = Some(digits(&mut rest, 1, 2)?),
                Item::MonthName => said.month = Some(name(&mut rest, &MONTHS)? as u32 + 1),
                Item::Day => {
                    // `%e` pads with a blank.
                    rest = rest.strip_prefix(b" ").unwrap_or(rest);
                    said.day = Some(digits(&mut rest, 1, 2)?);
                }
                Item::DayOfYear => said.day_of_year = Some(digits(&mut rest, 1, 3)?),
                Item::Weekday => {
                    name(&mut rest, &WEEKDAYS)?;
                }
                Item::Hour => said.hour = Some(digits(&mut rest, 1, 2)?),
                Item::HalfDayHour => said.half_day_hour = Some(digits(&mut rest, 1, 2)?),
                Item::Minute => said.minute = digits(&mut rest, 1, 2)?,
                Item::Second => said.second = digits(&mut rest, 1, 2)?,
                Item::Fraction { point, most } => {
                    if *point {
                        match rest.strip_prefix(b".") {
                            Some(after) => rest = after,
                            None => continue,
                        }
                    }
                    let length = rest.iter().take(*most).take_while(|b| b.is_ascii_digit()).count();
                    said.micros = temporal::fraction(&rest[..length])?;
                    rest = &rest[length..];
                }
                Item::Meridiem => {
                    let two = rest.get(..2)?.to_ascii_lowercase();
                    said.afternoon = Some(match two.as_slice() {
                        b"am" => false,
                        b"pm" => true,
                        _ => return None,
                    });
                    rest = &rest[2..];
                }
                Item::Zone => {
                    let length = rest
                        .iter()
                        .take_while(|b| {
                            b.is_ascii_digit() || matches!(b, b'+' | b'-' | b':' | b'Z')
                        })
                        .count();
                    said.ahead = temporal::zone(&rest[..length])?;
                    rest = &rest[length..];
                }
                Item::Epoch => {
                    let (minus, unsigned) = match rest.strip_prefix(b"-") {
                        Some(unsigned) => (true, unsigned),
                        None => (false, rest),
                    };
                    rest = unsigned;
                    let seconds = i64::from(digits(&mut rest, 1, 9)?);
                    // Ten digits and more do not fit the small numbers above.
                    let more = rest.iter().take_while(|b| b.is_ascii_digit()).count();
                    if more > 3 {
                        return None;
                    }
                    let (tail, after) = rest.split_at(more);
                    let seconds =
                        tail.iter().fold(seconds, |value, b| value * 10 + i64::from(b - b'0'));
                    rest = after;
                    said.epoch = Some(if minus { -seconds } else { seconds });
                }
            }
        }
        rest.is_empty().then_some(said)
    }
}

impl Said {
    fn days(&self) -> Option<i32> {
        let year = self.year?;
        match self.day_of_year {
            Some(day) => {
                let first = temporal::days(year, 1, 1)?;
                let last = temporal::days(year, 12, 31)?;
                let date = first + i32::try_from(day).ok()? - 1;
                (first..=last).contains(&date).then_some(date)
            }
            // A pattern without a day means the first of the month.
            None => temporal::days(year, self.month.unwrap_or(1), self.day.unwrap_or(1)),
        }
    }

    fn time_of_day(&self) -> Option<i64> {
        let hour = match (self.hour, self.half_day_hour) {
            (Some(hour), _) => hour,
            (None, Some(hour)) => {
                if !(1..=12).contains(&hour) {
                    return None;
                }
                hour % 12 + if self.afternoon.unwrap_or(false) { 12 } else { 0 }
            }
            (None, None) => 0,
        };
        if hour > 23 || self.minute > 59 || self.second > 59 {
            return None;
        }
        let seconds = hour * 3600 + self.minute * 60 + self.second;
        Some(i64::from(seconds) * MICROS_A_SECOND + self.micros)
    }
}

/// The number that the next `least` to `most` (at most 9) digits spell.
fn digits(rest: &mut &[u8], least: usize, most: usize) -> Option<u32> {
    let length = rest.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
    if length < least {
        return None;
    }
    let (digits, after) = rest.split_at(length);
    *rest = after;
    Some(digits.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0')))
}

/// The index of the name that comes next, in full or its first three letters.
fn name(rest: &mut &[u8], names: &[&str]) -> Option<usize> {
    let matches = |name: &str| {
        rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
    };
    let (index, length) = names
        .iter()
        .position(|name| matches(name))
        .map(|index| (index, names[index].len()))
        .or_else(|| names.iter().position(|name| matches(&name[..3])).map(|index| (index, 3)))?;
    *rest = &rest[length..];
    Some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_read_what_they_describe() {
        let noon = 12 * 3600 * MICROS_A_SECOND;
        for (pattern, text, expected) in [
            ("%d/%m/%Y", "31/12/1999", Some(10_956 * MICROS_A_DAY)),
            ("%m/%d/%y", "12/31/99", Some(10_956 * MICROS_A_DAY)),
            ("%d.%m.%Y %H:%M", "1.1.1970 12:00", Some(noon)),
            ("%d-%b-%Y %I:%M %p", "01-JAN-1970 12:00 pm", Some(noon)),
            ("%Y%m%dT%H%M%S%.f%z", "19700101T130000.5+0100", Some(noon + 500_000)),
            ("%A, %B %e %Y", "Thursday, January  1 1970", Some(0)),
            ("%Y-%j", "1970-366", None),
            ("%Y-%j", "1972-366", Some(1095 * MICROS_A_DAY)),
            ("%s", "1700000000", Some(1_700_000_000 * MICROS_A_SECOND)),
            ("%d/%m/%Y", "31/02/1999", None),
            ("%d/%m/%Y", "31/12/1999 ", None),
            ("%H:%M", "25:00", None),
        ] {
            let compiled = Pattern::new(pattern).expect(pattern);
            let got = if pattern == "%H:%M" {
                compiled.time(text.as_bytes())
            } else {
                compiled.timestamp(text.as_bytes())
            };
            assert_eq!(got, expected, "{pattern} {text}");
        }
    }

    #[test]
    fn unknown_parts_are_named() {
        let message = Pattern::new("%Y-%Q").expect_err("no such part");
        assert!(message.contains("%Q"), "{message}");
        assert!(Pattern::new("day").is_err());
    }
}
