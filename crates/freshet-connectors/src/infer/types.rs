//! The type that all values of a column have.

use freshet_core::contract::ContractColumn;
use freshet_core::types::ColumnType;

use crate::values::{Rules, ValueFormats};

/// Values from which on the absence of nulls means something.
pub const ENOUGH: usize = 20;
/// A type holds if so many of a hundred values are of it: real data is dirty.
const MOST: usize = 97;

/// How numbers are spelled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spelling {
    /// Whether a comma stands before the fraction, and points between thousands.
    pub decimal_comma: bool,
}

/// A column's type and the format of its dates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guess {
    /// The type.
    pub data_type: ColumnType,
    /// Of dates and timestamps that are not ISO 8601.
    pub format: Option<&'static str>,
    /// Another format that fits as well.
    pub ambiguous: Option<&'static str>,
}

impl Default for Guess {
    fn default() -> Self {
        Self { data_type: ColumnType::Text, format: None, ambiguous: None }
    }
}

impl Guess {
    /// The column called `name` in the data.
    pub fn column(&self, name: &str, notes: &mut Vec<String>) -> ContractColumn {
        let mut column = ContractColumn::new(name, self.data_type.clone());
        column.format = self.format.map(str::to_owned);
        if let (Some(format), Some(other)) = (self.format, self.ambiguous) {
            notes.push(format!("column \"{name}\" is read as {format} and could be {other}"));
        }
        column
    }
}

const DATES: [Option<&str>; 7] = [
    None,
    Some("%d.%m.%Y"),
    Some("%d/%m/%Y"),
    Some("%m/%d/%Y"),
    Some("%Y/%m/%d"),
    Some("%d-%m-%Y"),
    Some("%Y%m%d"),
];
const TIMESTAMPS: [Option<&str>; 9] = [
    None,
    Some("%d.%m.%Y %H:%M:%S"),
    Some("%d.%m.%Y %H:%M"),
    Some("%d/%m/%Y %H:%M:%S"),
    Some("%d/%m/%Y %H:%M"),
    Some("%m/%d/%Y %H:%M:%S"),
    Some("%m/%d/%Y %H:%M"),
    Some("%Y/%m/%d %H:%M:%S"),
    Some("%Y-%m-%d %H:%M"),
];

/// The narrowest type of `values`, none of which is null.
pub fn guess<'a>(values: impl Iterator<Item = &'a str> + Clone, spelling: &Spelling) -> Guess {
    let total = values.clone().count();
    if total == 0 {
        return Guess::default();
    }
    let mostly = |of: usize| of * 100 >= total * MOST;
    let count = |test: fn(&str) -> bool| values.clone().filter(|value| test(value)).count();
    let of = |data_type| Guess { data_type, ..Guess::default() };
    if mostly(count(|v| v.eq_ignore_ascii_case("true") || v.eq_ignore_ascii_case("false"))) {
        return of(ColumnType::Boolean);
    }
    let dated = values.clone().all(|value| value.len() == 8 && value.starts_with(['1', '2']));
    // Digits with a zero in front are a key: reading them as a number would lose it.
    let keys =
        count(|v| v.len() > 1 && v.starts_with('0') && v.bytes().all(|b| b.is_ascii_digit()));
    let formats = ValueFormats {
        null_values: Vec::new(),
        decimal_separator: if spelling.decimal_comma { ',' } else { '.' },
        thousands_separator: spelling.decimal_comma.then_some('.'),
        ..ValueFormats::default()
    };
    let fits = |data_type: &ColumnType, format: Option<&str>| {
        let mut column = ContractColumn::new("sample", data_type.clone());
        column.format = format.map(str::to_owned);
        let Ok(rules) = Rules::compile(&column, &formats) else { return false };
        let mut column = rules.column(false);
        let good = values
            .clone()
            .filter(|value| column.append(value.as_bytes(), 0, value.len(), false).is_ok())
            .count();
        mostly(good)
    };
    if dated && fits(&ColumnType::Date, Some("%Y%m%d")) {
        return Guess { format: Some("%Y%m%d"), ..of(ColumnType::Date) };
    }
    if keys == 0 {
        if fits(&ColumnType::Int64, None) {
            return of(ColumnType::Int64);
        }
        if let Some(data_type) = decimal(values.clone(), spelling)
            && fits(&data_type, None)
        {
            return of(data_type);
        }
        if fits(&ColumnType::Float64, None) {
            return of(ColumnType::Float64);
        }
    }
    for (data_type, formats) in
        [(ColumnType::Date, DATES.as_slice()), (ColumnType::Timestamp, TIMESTAMPS.as_slice())]
    {
        let mut fitting = formats.iter().filter(|format| fits(&data_type, **format));
        if let Some(format) = fitting.next() {
            let ambiguous = fitting.next().copied().flatten();
            return Guess { data_type, format: *format, ambiguous };
        }
    }
    if fits(&ColumnType::Time, None) { of(ColumnType::Time) } else { Guess::default() }
}

/// A decimal with room for values larger than those seen.
fn decimal<'a>(values: impl Iterator<Item = &'a str>, spelling: &Spelling) -> Option<ColumnType> {
    let point = if spelling.decimal_comma { ',' } else { '.' };
    let (mut whole, mut scale, mut counted) = (0, 0, Vec::new());
    for value in values {
        let value = value.trim().trim_start_matches(['-', '+']);
        let (before, after) = value.split_once(point).unwrap_or((value, ""));
        let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '.' || c == ',');
        if digits(before) && after.chars().all(|c| c.is_ascii_digit()) {
            whole = whole.max(before.chars().filter(char::is_ascii_digit).count());
            counted.push(after.len());
        }
    }
    // A stray value with more digits is dirt, not the rule.
    counted.sort_unstable();
    if let Some(most) = counted.get((counted.len().saturating_sub(1) * MOST).div_ceil(100)) {
        scale = *most;
    }
    let precision = (whole + scale + 3).max(12);
    let (precision, scale) = (u8::try_from(precision).ok()?, u8::try_from(scale).ok()?);
    (scale > 0 && scale <= 9 && precision <= 38).then_some(ColumnType::Decimal { precision, scale })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_tell_their_type() {
        let comma = Spelling { decimal_comma: true };
        let point = Spelling::default();
        for (values, spelling, expect) in [
            (vec!["1", "-2", "30"], &point, "bigint"),
            (vec!["1.50", "-20.25"], &point, "decimal(12,2)"),
            (vec!["1.234,50", "2,5"], &comma, "decimal(12,2)"),
            (vec!["1e5", "2.5"], &point, "double"),
            (vec!["007", "123"], &point, "text"),
            (vec!["true", "False"], &point, "boolean"),
            (vec!["2024-02-29"], &point, "date"),
            (vec!["20240229", "20240301"], &point, "date %Y%m%d"),
            (vec!["29.02.2024"], &point, "date %d.%m.%Y"),
            (vec!["02/29/2024", "01/02/2024"], &point, "date %m/%d/%Y"),
            (vec!["2024-02-29 12:30:00"], &point, "timestamp"),
            (vec!["29.02.2024 12:30"], &point, "timestamp %d.%m.%Y %H:%M"),
            (vec!["x", "1"], &point, "text"),
            (vec![], &point, "text"),
        ] {
            let guess = guess(values.iter().copied(), spelling);
            let format = guess.format.map(|format| format!(" {format}")).unwrap_or_default();
            assert_eq!(format!("{}{format}", guess.data_type), expect, "{values:?}");
        }
    }

    #[test]
    fn a_little_dirt_changes_nothing() {
        let mut values = vec!["12.50"; 99];
        values.push("n/a");
        assert_eq!(
            guess(values.iter().copied(), &Spelling::default()).data_type.to_string(),
            "decimal(12,2)"
        );
    }
}
