//! Values by type: what is accepted, what it becomes, and why the rest is not.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::util::display::array_value_to_string;
use freshet_core::contract::{Constraint, ContractColumn};
use proptest::prelude::*;

use super::*;

/// Reads each text through both ways of appending and expects `Ok(value)` as Arrow prints it
/// (`None` for null) or the fault.
fn check(
    column: &ContractColumn,
    formats: &ValueFormats,
    cases: &[(&str, Result<Option<&str>, Fault>)],
) {
    let rules = Rules::compile(column, formats).expect("the column is sound");
    for (text, expected) in cases {
        // In the middle of other bytes, and alone.
        for (before, after) in [("", ""), ("12345678901234567890,", ",99999999999999999999")] {
            let data = format!("{before}{text}{after}");
            let (start, end) = (before.len(), before.len() + text.len());
            let mut kept = rules.column(true);
            let got = kept.append(data.as_bytes(), start, end, false);
            let array = kept.finish();
            assert_eq!(array.data_type(), &column.data_type.arrow());
            let value = got.map(|()| (!array.is_null(0)).then(|| printed(&array, 0)));
            assert_eq!(
                value.as_ref().map(|v| v.as_deref()),
                expected.as_ref().map(|v| *v),
                "{text}"
            );
            let mut unkept = rules.column(false);
            assert_eq!(unkept.append(data.as_bytes(), start, end, false), got, "{text}");

            let ends = [(start as u32).wrapping_sub(1), end as u32];
            let fields = Fields::new(data.as_bytes(), &ends, &[1], 1);
            for keep in [true, false] {
                let mut column = rules.column(keep);
                let source = Buffer::from(data.clone().into_bytes());
                column.set_source(&source);
                let mut faults = Vec::new();
                column.append_block(&fields, &mut faults);
                assert_eq!(faults.first().map_or(Ok(()), |fault| Err(fault.1)), got, "{text}");
                if keep {
                    assert_eq!(&column.finish(), &array, "{text}");
                }
            }
        }
    }
}

/// A value as Arrow prints it, instants in UTC without saying so.
fn printed(array: &ArrayRef, row: usize) -> String {
    let unzoned: Option<ArrayRef> = array
        .as_primitive_opt::<TimestampMicrosecondType>()
        .map(|array| Arc::new(array.clone().with_timezone_opt(None::<&str>)) as ArrayRef);
    array_value_to_string(unzoned.as_ref().unwrap_or(array), row).expect("every value prints")
}

fn plain(data_type: &str) -> ContractColumn {
    ContractColumn::new("c", data_type.parse().expect(data_type))
}

fn check_plain(data_type: &str, cases: &[(&str, Result<Option<&str>, Fault>)]) {
    check(&plain(data_type), &ValueFormats::default(), cases);
}

#[test]
fn integers() {
    check_plain(
        "int",
        &[
            ("0", Ok(Some("0"))),
            ("-0012", Ok(Some("-12"))),
            ("+7", Ok(Some("7"))),
            (" 42 ", Ok(Some("42"))),
            ("2147483647", Ok(Some("2147483647"))),
            ("-2147483648", Ok(Some("-2147483648"))),
            ("2147483648", Err(Fault::Range)),
            ("99999999999999999999999999", Err(Fault::Range)),
            ("", Ok(None)),
            ("   ", Ok(None)),
            ("-", Err(Fault::Type)),
            ("1 2", Err(Fault::Type)),
            ("1.0", Err(Fault::Type)),
            ("1e3", Err(Fault::Type)),
            ("12x", Err(Fault::Type)),
            ("--1", Err(Fault::Type)),
            ("١", Err(Fault::Type)),
        ],
    );
    check_plain("tinyint", &[("-128", Ok(Some("-128"))), ("128", Err(Fault::Range))]);
    check_plain(
        "bigint",
        &[
            ("9223372036854775807", Ok(Some("9223372036854775807"))),
            ("-9223372036854775808", Ok(Some("-9223372036854775808"))),
            ("9223372036854775808", Err(Fault::Range)),
            ("123456789012345678", Ok(Some("123456789012345678"))),
            ("12345678901234567", Ok(Some("12345678901234567"))),
            ("1234567890123456", Ok(Some("1234567890123456"))),
            ("123456789", Ok(Some("123456789"))),
            ("0000000000000000000000000001", Ok(Some("1"))),
        ],
    );
}

#[test]
fn decimals() {
    check_plain(
        "decimal(12,2)",
        &[
            ("1234.56", Ok(Some("1234.56"))),
            ("-0.05", Ok(Some("-0.05"))),
            ("0.5", Ok(Some("0.50"))),
            (".5", Ok(Some("0.50"))),
            ("5.", Ok(Some("5.00"))),
            ("7", Ok(Some("7.00"))),
            ("12345678.90", Ok(Some("12345678.90"))),
            ("9999999999.99", Ok(Some("9999999999.99"))),
            ("10000000000.00", Err(Fault::Range)),
            ("10000000000", Err(Fault::Range)),
            ("99999999999999999999999999999999999999999999", Err(Fault::Range)),
            ("12.345", Err(Fault::Type)),
            ("12.3400", Ok(Some("12.34"))),
            ("1,234.56", Err(Fault::Type)),
            (".", Err(Fault::Type)),
            ("1.2.3", Err(Fault::Type)),
            ("abc", Err(Fault::Type)),
            ("1e2", Err(Fault::Type)),
            ("", Ok(None)),
        ],
    );
    check_plain(
        "decimal(38,0)",
        &[
            (
                "99999999999999999999999999999999999999",
                Ok(Some("99999999999999999999999999999999999999")),
            ),
            ("100000000000000000000000000000000000000", Err(Fault::Range)),
            ("123.0", Ok(Some("123"))),
        ],
    );
    check_plain(
        "decimal(10,8)",
        &[("1.23456789", Ok(Some("1.23456789"))), ("99.5", Ok(Some("99.50000000")))],
    );
    check_plain("decimal(20,12)", &[("1.123456789012", Ok(Some("1.123456789012")))]);
}

#[test]
fn other_conventions_of_numbers() {
    let formats = ValueFormats {
        decimal_separator: ',',
        thousands_separator: Some('.'),
        ..ValueFormats::default()
    };
    check(
        &plain("decimal(12,2)"),
        &formats,
        &[
            ("1.234,56", Ok(Some("1234.56"))),
            ("-1.234.567,8", Ok(Some("-1234567.80"))),
            ("1234,56", Ok(Some("1234.56"))),
            ("1.23,5", Err(Fault::Type)),
            ("1,2,3", Err(Fault::Type)),
            (".123", Err(Fault::Type)),
        ],
    );
    check(
        &plain("bigint"),
        &formats,
        &[("1.000.000", Ok(Some("1000000"))), ("1.00", Err(Fault::Type))],
    );
    check(&plain("double"), &formats, &[("1.000,5", Ok(Some("1000.5")))]);
    let comma = ValueFormats { decimal_separator: ',', ..ValueFormats::default() };
    check(
        &plain("decimal(12,2)"),
        &comma,
        &[("1.50", Err(Fault::Type)), ("1,50", Ok(Some("1.50")))],
    );
}

#[test]
fn floats() {
    check_plain(
        "double",
        &[
            ("1.5", Ok(Some("1.5"))),
            ("-1e3", Ok(Some("-1000.0"))),
            ("NaN", Ok(Some("NaN"))),
            ("inf", Ok(Some("inf"))),
            ("1e999", Err(Fault::Range)),
            ("1,5", Err(Fault::Type)),
            ("1.5x", Err(Fault::Type)),
            ("", Ok(None)),
        ],
    );
    check_plain("real", &[("0.1", Ok(Some("0.1"))), ("1e39", Err(Fault::Range))]);
}

#[test]
fn dates_and_times() {
    check_plain(
        "date",
        &[
            ("2024-02-29", Ok(Some("2024-02-29"))),
            ("2024-02-30", Err(Fault::Type)),
            ("2023-02-29", Err(Fault::Type)),
            ("1900-02-29", Err(Fault::Type)),
            ("0001-01-01", Ok(Some("0001-01-01"))),
            ("9999-12-31", Ok(Some("9999-12-31"))),
            ("0000-01-01", Err(Fault::Type)),
            ("2024-13-01", Err(Fault::Type)),
            ("2024-00-01", Err(Fault::Type)),
            ("2024-1-1", Err(Fault::Type)),
            ("2024/01/01", Err(Fault::Type)),
            ("2024-01-01x", Err(Fault::Type)),
            ("1970-01-01", Ok(Some("1970-01-01"))),
            ("", Ok(None)),
        ],
    );
    check_plain(
        "timestamp",
        &[
            ("2024-01-31 23:59:59", Ok(Some("2024-01-31T23:59:59"))),
            ("2024-01-31T00:00:00.5", Ok(Some("2024-01-31T00:00:00.500"))),
            ("2024-01-31T00:00:00.123456", Ok(Some("2024-01-31T00:00:00.123456"))),
            ("2024-01-31T00:00:00.123456789", Ok(Some("2024-01-31T00:00:00.123456"))),
            ("2024-01-31", Ok(Some("2024-01-31T00:00:00"))),
            ("2024-01-31 10:30", Ok(Some("2024-01-31T10:30:00"))),
            ("2024-01-31 24:00:00", Err(Fault::Type)),
            ("2024-01-31 23:60:00", Err(Fault::Type)),
            ("2024-01-31 23:59:60", Err(Fault::Type)),
            ("2024-01-31x23:59:59", Err(Fault::Type)),
            ("2024-01-31 23-59-59", Err(Fault::Type)),
            ("2024-01-31 23:59:59Z", Err(Fault::Type)),
            ("2024-01-31 23:59:59.", Err(Fault::Type)),
            ("2024-01-31é23:59:59", Err(Fault::Type)),
        ],
    );
    check_plain(
        "timestamptz",
        &[
            ("2024-01-31T12:00:00Z", Ok(Some("2024-01-31T12:00:00"))),
            ("2024-01-31T12:00:00+02:00", Ok(Some("2024-01-31T10:00:00"))),
            ("2024-01-31 12:00:00", Ok(Some("2024-01-31T12:00:00"))),
            ("2024-01-31T12:00:00-0130", Ok(Some("2024-01-31T13:30:00"))),
            ("2024-01-31T12:00:00+99:00", Err(Fault::Type)),
        ],
    );
    check_plain(
        "time",
        &[
            ("23:59:59", Ok(Some("23:59:59"))),
            ("10:30", Ok(Some("10:30:00"))),
            ("10:30:00.25", Ok(Some("10:30:00.250"))),
            ("24:00:00", Err(Fault::Type)),
            ("é:00:00", Err(Fault::Type)),
        ],
    );
    let mut german = plain("date");
    german.format = Some("%d.%m.%Y".to_owned());
    check(
        &german,
        &ValueFormats::default(),
        &[("31.01.2024", Ok(Some("2024-01-31"))), ("2024-01-31", Err(Fault::Type))],
    );
}

#[test]
fn booleans_and_bytes() {
    check_plain(
        "boolean",
        &[
            ("TRUE", Ok(Some("true"))),
            ("0", Ok(Some("false"))),
            ("", Ok(None)),
            ("2", Err(Fault::Type)),
        ],
    );
    check_plain(
        "binary",
        &[
            ("\\x00ff", Ok(Some("00ff"))),
            ("0FF0", Ok(Some("0ff0"))),
            ("abc", Err(Fault::Type)),
            ("zz", Err(Fault::Type)),
        ],
    );
    let mut base64 = plain("binary");
    base64.format = Some("base64".to_owned());
    check(
        &base64,
        &ValueFormats::default(),
        &[("AP8=", Ok(Some("00ff"))), ("AP8", Err(Fault::Type))],
    );
}

#[test]
fn constraints() {
    let with = |data_type, constraints: Vec<Constraint>| {
        let mut column = plain(data_type).not_null();
        column.constraints = constraints;
        column
    };
    let formats = ValueFormats::default();
    check(
        &with("decimal(12,2)", vec![Constraint::Min("0".into()), Constraint::Max("100".into())]),
        &formats,
        &[
            ("0", Ok(Some("0.00"))),
            ("100.00", Ok(Some("100.00"))),
            ("-0.01", Err(Fault::Min)),
            ("100.01", Err(Fault::Max)),
            ("", Err(Fault::Missing)),
        ],
    );
    check(
        &with("double", vec![Constraint::Min("0".into())]),
        &formats,
        &[("NaN", Err(Fault::Min)), ("-0.5", Err(Fault::Min)), ("3", Ok(Some("3.0")))],
    );
    check(
        &with("int", vec![Constraint::AcceptedValues(vec!["1".into(), "2".into()])]),
        &formats,
        &[("01", Ok(Some("1"))), ("3", Err(Fault::Accepted))],
    );
    check(
        &with(
            "text",
            vec![
                Constraint::Regex("^[a-zé]+$".into()),
                Constraint::MinLength(2),
                Constraint::MaxLength(3),
            ],
        ),
        &formats,
        &[
            ("éé", Ok(Some("éé"))),
            ("é", Err(Fault::MinLength)),
            ("abcd", Err(Fault::MaxLength)),
            ("AB", Err(Fault::Regex(0))),
        ],
    );
    check(
        &with("text", vec![Constraint::AcceptedValues(vec!["cash".into()])]),
        &formats,
        &[("cash", Ok(Some("cash"))), ("card", Err(Fault::Accepted)), ("", Err(Fault::Missing))],
    );
    for wrong in [
        with("int", vec![Constraint::Min("abc".into())]),
        with("int", vec![Constraint::Regex("a".into())]),
        with("text", vec![Constraint::Regex("(".into())]),
        with("text", vec![Constraint::Max("z".into())]),
    ] {
        assert!(Rules::compile(&wrong, &formats).is_err(), "{wrong:?}");
    }
}

#[test]
fn spellings_of_null() {
    let formats =
        ValueFormats { null_values: vec!["NULL".into(), "-1".into()], ..ValueFormats::default() };
    check(
        &plain("int"),
        &formats,
        &[("NULL", Ok(None)), ("-1", Ok(None)), ("-2", Ok(Some("-2"))), ("", Err(Fault::Type))],
    );
    check(
        &plain("text"),
        &formats,
        &[("NULL", Ok(None)), ("", Ok(Some(""))), ("null", Ok(Some("null")))],
    );
}

#[test]
fn long_texts_refer_to_their_source_and_short_ones_do_not() {
    let data = b"short,a text that is longer than a view,tail";
    let ends = [u32::MAX, 5, 39, 44];
    let rules = Rules::compile(&plain("text"), &ValueFormats::default()).expect("sound");
    for (column, buffers) in [(0, 0), (1, 1)] {
        let mut texts = rules.column(true);
        let source = Buffer::from(data.to_vec());
        texts.set_source(&source);
        texts.append_block(
            &Fields::new(data, &ends, &[1], 3).with_column(column, 3),
            &mut Vec::new(),
        );
        let array = texts.finish();
        let views = array.as_string_view();
        assert_eq!(views.data_buffers().len(), buffers);
        assert_eq!(views.value(0), ["short", "a text that is longer than a view"][column]);
    }
}

#[test]
fn messages_name_the_value_and_its_type() {
    let mut column = plain("decimal(12,2)");
    column.constraints.push(Constraint::Min("0".into()));
    let rules = Rules::compile(&column, &ValueFormats::default()).expect("sound");
    assert_eq!(rules.message(Fault::Type, b"abc"), "\"abc\" is not a decimal(12,2)");
    assert_eq!(rules.message(Fault::Range, b"1"), "\"1\" does not fit a decimal(12,2)");
    assert_eq!(rules.message(Fault::Min, b"-5"), "\"-5\" is less than 0");
    let long = rules.message(Fault::Type, "é".repeat(1000).as_bytes());
    assert_eq!(long.chars().filter(|c| *c == 'é').count(), 40);
}

#[test]
fn removing_rows_keeps_the_others_in_order() {
    for data_type in ["int", "text", "binary"] {
        let rules = Rules::compile(&plain(data_type), &ValueFormats::default()).expect("sound");
        let mut column = rules.column(true);
        for value in ["10", "20", "30", "", "50", "60"] {
            column.append(value.as_bytes(), 0, value.len(), false).expect("a value");
        }
        column.remove(1, &[0, 3, 4]);
        let array = column.finish();
        let shown: Vec<_> = (0..array.len()).map(|row| printed(&array, row)).collect();
        assert_eq!(shown, ["10", "30", ""], "{data_type}");
    }
}

/// Reads one value in the middle of other bytes.
fn read(data_type: &str, text: &str) -> Result<Option<String>, Fault> {
    let rules = Rules::compile(&plain(data_type), &ValueFormats::default()).expect("sound");
    let mut column = rules.column(true);
    let data = format!("7777-77-77 77:77:77{text}7777777777777777777");
    let got = column.append(data.as_bytes(), 19, 19 + text.len(), false);
    let array = column.finish();
    got.map(|()| (!array.is_null(0)).then(|| printed(&array, 0)))
}

/// Texts that are almost values.
fn near_values() -> impl Strategy<Value = String> {
    prop_oneof![
        "[-+]?[0-9]{0,20}(\\.[0-9]{0,4})?",
        "[0-9]{4}-[01][0-9]-[0-3][0-9]",
        "[0-9]{4}-[01][0-9]-[0-3][0-9][ T][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,7})?",
        "[-0-9:. T/]{0,22}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn integers_agree_with_the_standard_library(text in near_values()) {
        let trimmed = text.trim_ascii();
        let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
        let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let expected = match trimmed.parse::<i64>() {
            _ if trimmed.is_empty() => Ok(None),
            _ if !all_digits => Err(Fault::Type),
            Ok(value) => Ok(Some(value.to_string())),
            Err(_) => Err(Fault::Range),
        };
        prop_assert_eq!(read("bigint", &text), expected);
    }

    #[test]
    fn decimals_agree_with_whole_numbers(text in "-?[0-9]{1,12}", fraction in "[0-9]{0,4}") {
        let written = format!("{text}.{fraction}");
        let kept = fraction.trim_end_matches('0');
        let whole: i128 = format!("{text}{kept:0<3}").parse().expect("digits");
        let expected = if kept.len() > 3 {
            Err(Fault::Type)
        } else if whole.abs() >= 1_000_000_000 {
            Err(Fault::Range)
        } else {
            let sign = if whole < 0 { "-" } else { "" };
            Ok(Some(format!("{sign}{}.{:03}", whole.abs() / 1000, whole.abs() % 1000)))
        };
        prop_assert_eq!(read("decimal(9,3)", &written), expected);
    }

    #[test]
    fn dates_agree_with_chrono(text in near_values()) {
        let trimmed = text.trim_ascii();
        let shaped = trimmed.len() == 10 && !trimmed.contains([' ', '+']);
        let expected = chrono::NaiveDate::parse_from_str(trimmed, "%Y-%m-%d")
            .ok()
            .filter(|date| shaped && *date >= chrono::NaiveDate::from_ymd_opt(1, 1, 1).expect("a day"));
        let expected = match expected {
            _ if trimmed.is_empty() => Ok(None),
            Some(date) => Ok(Some(date.to_string())),
            None => Err(Fault::Type),
        };
        prop_assert_eq!(read("date", &text), expected);
    }

    #[test]
    fn timestamps_agree_with_chrono(
        seconds in -62_135_596_800i64..253_402_300_800,
        micros in 0u32..1_000_000,
        digits in 0usize..=6,
        separator in "[ T]",
    ) {
        let unit = 10u32.pow(6 - digits as u32);
        let micros = micros / unit * unit;
        let instant = chrono::DateTime::from_timestamp(seconds, micros * 1000).expect("in range");
        let mut text = instant.format(&format!("%Y-%m-%d{separator}%H:%M:%S")).to_string();
        if digits > 0 {
            let fraction = format!("{micros:06}");
            text = format!("{text}.{}", &fraction[..digits]);
        }
        let rules = Rules::compile(&plain("timestamp"), &ValueFormats::default()).expect("sound");
        let mut column = rules.column(true);
        let data = format!("12345678{text}12345678");
        column.append(data.as_bytes(), 8, 8 + text.len(), false).expect("a timestamp");
        let array = column.finish();
        let got = array.as_primitive::<TimestampMicrosecondType>().value(0);
        prop_assert_eq!(got, instant.timestamp_micros(), "{}", text);
    }

    #[test]
    fn a_value_is_the_same_wherever_it_stands(text in near_values()) {
        for data_type in ["tinyint", "bigint", "decimal(12,2)", "decimal(38,0)", "date", "timestamp", "timestamptz", "time", "double", "boolean"] {
            let rules = Rules::compile(&plain(data_type), &ValueFormats::default()).expect("sound");
            let mut column = rules.column(true);
            let alone = column.append(text.as_bytes(), 0, text.len(), false);
            let array = column.finish();
            let alone = alone.map(|()| (!array.is_null(0)).then(|| printed(&array, 0)));
            prop_assert_eq!(read(data_type, &text), alone, "{} {}", data_type, text);
        }
    }
}
