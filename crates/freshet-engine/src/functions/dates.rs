//! Dates and times: parts, differences, reading and writing.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, StringViewArray, StringViewBuilder,
    TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use chrono::format::{Parsed, StrftimeItems};
use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveDateTime};
use datafusion::common::{exec_err, internal_err, plan_err};
use datafusion::logical_expr::{Expr, Operator, binary_expr, lit};
use datafusion::scalar::ScalarValue;

use super::conditional::pair;
use super::scalar::{Body, Function, all_text, argument_type};
use super::{FunctionInfo, PlanResult, literal_text};

const MICROS_PER_DAY: i64 = 86_400_000_000;
const MOMENT: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

macro_rules! part {
    ($name:literal, $aliases:expr, $part:literal, $help:literal) => {
        Function {
            info: FunctionInfo {
                name: $name,
                aliases: $aliases,
                usage: concat!($name, "(date)"),
                help: $help,
            },
            arity: (1, 1),
            coerce: |types| Ok(vec![moment_type(&types[0])]),
            returns: |_| Ok(DataType::Int32),
            body: Body::Rewrite(|args, _| part_of($part, args)),
        }
    };
}

pub(super) static FUNCTIONS: &[Function] = &[
    part!("year", &[], "year", "The year."),
    part!("quarter", &[], "quarter", "The quarter, from 1."),
    part!("month", &[], "month", "The month, from 1."),
    part!("week", &["weekofyear"], "week", "The ISO week."),
    part!("day", &["dayofmonth"], "day", "The day of the month."),
    part!("dayofweek", &[], "dow", "The day of the week; Sunday is 0."),
    part!("dayofyear", &[], "doy", "The day of the year, from 1."),
    part!("hour", &[], "hour", "The hour."),
    part!("minute", &[], "minute", "The minute."),
    part!("second", &[], "second", "The second."),
    Function {
        info: FunctionInfo {
            name: "add_months",
            aliases: &[],
            usage: "add_months(date, n)",
            help: "The date `n` months later, at the end of a month that is too short.",
        },
        arity: (2, 2),
        coerce: |types| Ok(vec![moment_type(&types[0]), DataType::Int64]),
        returns: |args| argument_type(args, 0),
        body: Body::Kernel(|args, data_type| add(Part::Month, &args[1], &args[0], data_type)),
    },
    Function {
        info: FunctionInfo {
            name: "date_add",
            aliases: &[],
            usage: "date_add(date, days_or_interval)",
            help: "The date so many days, or an interval, later.",
        },
        arity: (2, 2),
        coerce: days_or_interval,
        returns: |args| argument_type(args, 0),
        body: Body::Rewrite(|args, types| shift(args, types, Operator::Plus)),
    },
    Function {
        info: FunctionInfo {
            name: "date_sub",
            aliases: &[],
            usage: "date_sub(date, days_or_interval)",
            help: "The date so many days, or an interval, earlier.",
        },
        arity: (2, 2),
        coerce: days_or_interval,
        returns: |args| argument_type(args, 0),
        body: Body::Rewrite(|args, types| shift(args, types, Operator::Minus)),
    },
    Function {
        info: FunctionInfo {
            name: "dateadd",
            aliases: &["timestampadd"],
            usage: "dateadd('day', n, date)",
            help: "The date so many units later. A date stays one with units of a day or more.",
        },
        arity: (3, 3),
        coerce: |types| Ok(vec![unit_type(&types[0]), DataType::Int64, moment_type(&types[2])]),
        returns: |args| {
            let part = Part::parse(literal_text(args, 0, "the unit")?)?;
            Ok(match argument_type(args, 2)? {
                DataType::Date32 if part < Part::Day => MOMENT,
                other => other,
            })
        },
        body: Body::Kernel(|args, data_type| add(unit(&args[0])?, &args[1], &args[2], data_type)),
    },
    Function {
        info: FunctionInfo {
            name: "datediff",
            aliases: &["date_diff", "timestampdiff"],
            usage: "datediff('day', a, b)",
            help: "How many boundaries of the unit lie between `a` and `b`; weeks begin on Monday.",
        },
        arity: (3, 3),
        coerce: |types| {
            Ok(vec![unit_type(&types[0]), moment_type(&types[1]), moment_type(&types[2])])
        },
        returns: |args| {
            Part::parse(literal_text(args, 0, "the unit")?)?;
            Ok(DataType::Int64)
        },
        body: Body::Kernel(|args, _| difference(unit(&args[0])?, &args[1], &args[2])),
    },
    Function {
        info: FunctionInfo {
            name: "dayname",
            aliases: &[],
            usage: "dayname(date)",
            help: "The English name of the day of the week.",
        },
        arity: (1, 1),
        coerce: |types| Ok(vec![moment_type(&types[0])]),
        returns: |_| Ok(DataType::Utf8View),
        body: Body::Kernel(|args, _| formatted(&args[0], "%A")),
    },
    Function {
        info: FunctionInfo {
            name: "last_day",
            aliases: &[],
            usage: "last_day(date)",
            help: "The last day of the date's month.",
        },
        arity: (1, 1),
        coerce: |types| Ok(vec![moment_type(&types[0])]),
        returns: |_| Ok(DataType::Date32),
        body: Body::Kernel(|args, data_type| {
            let last = map(&args[0], |moment| {
                let first = moment.date().with_day(1)?.checked_add_months(Months::new(1))?;
                Some(first.pred_opt()?.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros())
            })?;
            Ok(cast(&last, data_type)?)
        }),
    },
    Function {
        info: FunctionInfo {
            name: "monthname",
            aliases: &[],
            usage: "monthname(date)",
            help: "The English name of the month.",
        },
        arity: (1, 1),
        coerce: |types| Ok(vec![moment_type(&types[0])]),
        returns: |_| Ok(DataType::Utf8View),
        body: Body::Kernel(|args, _| formatted(&args[0], "%B")),
    },
    Function {
        info: FunctionInfo {
            name: "strftime",
            aliases: &[],
            usage: "strftime(date, format)",
            help: "The date as text, by a pattern such as '%Y-%m-%d'.",
        },
        arity: (2, 2),
        coerce: |types| Ok(vec![moment_type(&types[0]), DataType::Utf8View]),
        returns: |_| Ok(DataType::Utf8View),
        body: Body::Kernel(|args, _| written(&args[0], args[1].as_string_view())),
    },
    Function {
        info: FunctionInfo {
            name: "strptime",
            aliases: &[],
            usage: "strptime(text, format)",
            help: "Text read as a timestamp by a pattern such as '%d.%m.%Y'; an error where it does not fit.",
        },
        arity: (2, 2),
        coerce: all_text,
        returns: |_| Ok(MOMENT),
        body: Body::Kernel(|args, _| {
            let read = read(args[0].as_string_view(), Some(args[1].as_string_view()));
            if let Some(row) = (0..read.len())
                .find(|row| read.is_null(*row) && args.iter().all(|arg| arg.is_valid(*row)))
            {
                let pattern = args[1].as_string_view().value(row);
                return exec_err!(
                    "a value does not fit the pattern {pattern}; try_to_timestamp gives null for it"
                );
            }
            Ok(Arc::new(read))
        }),
    },
    Function {
        info: FunctionInfo {
            name: "try_to_timestamp",
            aliases: &["try_strptime"],
            usage: "try_to_timestamp(text[, format])",
            help: "Text read as a timestamp, ISO 8601 or by a pattern such as '%d.%m.%Y' or 'DD.MM.YYYY'; null where it does not fit.",
        },
        arity: (1, 2),
        coerce: all_text,
        returns: |_| Ok(MOMENT),
        body: Body::Kernel(|args, _| {
            Ok(Arc::new(read(args[0].as_string_view(), args.get(1).map(|a| a.as_string_view()))))
        }),
    },
    Function {
        info: FunctionInfo {
            name: "try_to_date",
            aliases: &[],
            usage: "try_to_date(text[, format])",
            help: "Text read as a date, ISO 8601 or by a pattern such as '%d.%m.%Y' or 'DD.MM.YYYY'; null where it does not fit.",
        },
        arity: (1, 2),
        coerce: all_text,
        returns: |_| Ok(DataType::Date32),
        body: Body::Kernel(|args, data_type| {
            let read = read(args[0].as_string_view(), args.get(1).map(|a| a.as_string_view()));
            Ok(cast(&read, data_type)?)
        }),
    },
];

/// The types that dates are handled in: dates and timestamps as they are (in microseconds), text
/// as a timestamp.
fn moment_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Date32 | DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        _ => MOMENT,
    }
}

/// Text as it is: a literal that is cast is none any more, and the result's type hangs on it.
fn unit_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => data_type.clone(),
        _ => DataType::Utf8View,
    }
}

fn part_of(part: &str, args: Vec<Expr>) -> PlanResult<Expr> {
    let mut all = vec![lit(part)];
    all.extend(args);
    Ok(datafusion::functions::datetime::date_part().call(all))
}

fn days_or_interval(types: &[DataType]) -> PlanResult<Vec<DataType>> {
    let date = moment_type(&types[0]);
    Ok(match &types[1] {
        DataType::Interval(_) | DataType::Duration(_) => vec![date, types[1].clone()],
        data_type if data_type.is_integer() => vec![date, DataType::Int64],
        other => return plan_err!("a number of days or an interval is needed, not {other}"),
    })
}

fn shift(args: Vec<Expr>, types: &[DataType], operator: Operator) -> PlanResult<Expr> {
    let [date, by] = pair(args)?;
    if matches!(types[1], DataType::Interval(_) | DataType::Duration(_)) {
        return Ok(binary_expr(date, operator, by));
    }
    let days = match operator {
        Operator::Minus => Expr::Negative(Box::new(by)),
        _ => by,
    };
    let Some(dateadd) = FUNCTIONS.iter().find(|function| function.info.name == "dateadd") else {
        return internal_err!("dateadd is in the table");
    };
    let unit = lit(ScalarValue::Utf8View(Some("day".to_owned())));
    Ok(super::scalar::udf(dateadd).call(vec![unit, days, date]))
}

/// A unit, from the shortest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Microsecond,
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

/// The names of units, and what else is read as one.
pub(super) const UNITS: [&str; 32] = [
    "microsecond",
    "microseconds",
    "us",
    "millisecond",
    "milliseconds",
    "ms",
    "second",
    "seconds",
    "s",
    "sec",
    "minute",
    "minutes",
    "mi",
    "min",
    "hour",
    "hours",
    "h",
    "hh",
    "day",
    "days",
    "d",
    "dd",
    "week",
    "weeks",
    "wk",
    "month",
    "months",
    "mon",
    "quarter",
    "quarters",
    "year",
    "years",
];

impl Part {
    fn parse(text: &str) -> PlanResult<Self> {
        Ok(match text.trim().to_ascii_lowercase().as_str() {
            "microsecond" | "microseconds" | "us" => Self::Microsecond,
            "millisecond" | "milliseconds" | "ms" => Self::Millisecond,
            "second" | "seconds" | "s" | "sec" => Self::Second,
            "minute" | "minutes" | "mi" | "min" => Self::Minute,
            "hour" | "hours" | "h" | "hh" => Self::Hour,
            "day" | "days" | "d" | "dd" => Self::Day,
            "week" | "weeks" | "wk" => Self::Week,
            "month" | "months" | "mon" => Self::Month,
            "quarter" | "quarters" => Self::Quarter,
            "year" | "years" => Self::Year,
            _ => {
                return plan_err!(
                    "\"{text}\" is not a unit; units are microsecond, millisecond, second, minute, hour, day, week, month, quarter, year"
                );
            }
        })
    }

    /// Microseconds of a unit of fixed length, else the months of one.
    fn length(self) -> std::result::Result<i64, i64> {
        match self {
            Self::Microsecond => Ok(1),
            Self::Millisecond => Ok(1_000),
            Self::Second => Ok(1_000_000),
            Self::Minute => Ok(60_000_000),
            Self::Hour => Ok(3_600_000_000),
            Self::Day => Ok(MICROS_PER_DAY),
            Self::Week => Ok(7 * MICROS_PER_DAY),
            Self::Month => Err(1),
            Self::Quarter => Err(3),
            Self::Year => Err(12),
        }
    }
}

/// The unit of a call, which is the same in every row.
fn unit(column: &ArrayRef) -> PlanResult<Part> {
    let column = cast(column, &DataType::Utf8View)?;
    let column = column.as_string_view();
    if column.is_empty() || column.is_null(0) {
        return exec_err!("the unit is missing");
    }
    Part::parse(column.value(0))
}

/// Dates or timestamps as microseconds, their zone set aside.
fn micros(column: &ArrayRef) -> PlanResult<TimestampMicrosecondArray> {
    let column = match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => column.clone(),
        _ => cast(column, &MOMENT)?,
    };
    Ok(column
        .as_primitive::<TimestampMicrosecondType>()
        .clone()
        .with_timezone_opt(None::<Arc<str>>))
}

fn moment(micros: i64) -> Option<NaiveDateTime> {
    DateTime::from_timestamp_micros(micros).map(|moment| moment.naive_utc())
}

/// Applies a function to each moment.
fn map(
    column: &ArrayRef,
    apply: impl Fn(NaiveDateTime) -> Option<i64>,
) -> PlanResult<TimestampMicrosecondArray> {
    Ok(micros(column)?.iter().map(|value| moment(value?).and_then(&apply)).collect())
}

fn add(part: Part, by: &ArrayRef, to: &ArrayRef, data_type: &DataType) -> PlanResult<ArrayRef> {
    let by = by.as_primitive::<Int64Type>();
    let to = micros(to)?;
    let sum = |by: i64, to: i64| match part.length() {
        Ok(length) => to.checked_add(by.checked_mul(length)?),
        Err(months) => {
            let months = by.checked_mul(months)?;
            let count = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
            let from = moment(to)?;
            let there = if months < 0 {
                from.checked_sub_months(count)
            } else {
                from.checked_add_months(count)
            };
            Some(there?.and_utc().timestamp_micros())
        }
    };
    let mut sums = Vec::with_capacity(to.len());
    for (by, to) in by.iter().zip(to.iter()) {
        sums.push(match (by, to) {
            (Some(by), Some(to)) => match sum(by, to) {
                Some(sum) => Some(sum),
                None => return exec_err!("a date is out of range"),
            },
            _ => None,
        });
    }
    let zone = match data_type {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let sums = TimestampMicrosecondArray::from(sums).with_timezone_opt(zone);
    Ok(cast(&sums, data_type)?)
}

fn difference(part: Part, from: &ArrayRef, to: &ArrayRef) -> PlanResult<ArrayRef> {
    let (from, to) = (micros(from)?, micros(to)?);
    let position = |micros: i64| match part {
        // 1970-01-01 is a Thursday: three days after the Monday from which weeks are counted.
        Part::Week => Some((micros.div_euclid(MICROS_PER_DAY) + 3).div_euclid(7)),
        _ => match part.length() {
            Ok(length) => Some(micros.div_euclid(length)),
            Err(months) => {
                let date = moment(micros)?;
                Some((i64::from(date.year()) * 12 + i64::from(date.month0())).div_euclid(months))
            }
        },
    };
    let differences: Int64Array = from
        .iter()
        .zip(to.iter())
        .map(|(from, to)| position(to?)?.checked_sub(position(from?)?))
        .collect();
    Ok(Arc::new(differences))
}

fn formatted(column: &ArrayRef, pattern: &str) -> PlanResult<ArrayRef> {
    let names: StringViewArray = micros(column)?
        .iter()
        .map(|value| moment(value?).map(|moment| moment.format(pattern).to_string()))
        .collect();
    Ok(Arc::new(names))
}

fn written(column: &ArrayRef, patterns: &StringViewArray) -> PlanResult<ArrayRef> {
    let mut texts = StringViewBuilder::with_capacity(column.len());
    let mut text = String::new();
    for (value, pattern) in micros(column)?.iter().zip(patterns.iter()) {
        match (value.and_then(moment), pattern) {
            (Some(moment), Some(pattern)) => {
                text.clear();
                // A pattern that chrono does not know fails here, not when it is made.
                if write!(text, "{}", moment.format(&percent_pattern(pattern))).is_err() {
                    return exec_err!("\"{pattern}\" is not a pattern of dates");
                }
                texts.append_value(&text);
            }
            _ => texts.append_null(),
        }
    }
    Ok(Arc::new(texts.finish()))
}

fn read(texts: &StringViewArray, patterns: Option<&StringViewArray>) -> TimestampMicrosecondArray {
    let mut last: (String, String) = Default::default();
    (0..texts.len())
        .map(|row| {
            if texts.is_null(row) {
                return None;
            }
            let text = texts.value(row).trim();
            let Some(patterns) = patterns else { return iso(text) };
            if patterns.is_null(row) {
                return None;
            }
            let pattern = patterns.value(row);
            if last.0 != pattern || last.1.is_empty() {
                last = (pattern.to_owned(), percent_pattern(pattern));
            }
            by_pattern(text, &last.1)
        })
        .collect()
}

/// ISO 8601, with or without a time of day; one with an offset is taken to UTC.
fn iso(text: &str) -> Option<i64> {
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros());
    }
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Some(moment.timestamp_micros());
    }
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|pattern| NaiveDateTime::parse_from_str(text, pattern).ok())
        .map(|moment| moment.and_utc().timestamp_micros())
}

/// By a `strftime` pattern; what it says nothing of (the time of day, the minute) is zero.
fn by_pattern(text: &str, pattern: &str) -> Option<i64> {
    let mut parsed = Parsed::new();
    chrono::format::parse(&mut parsed, text, StrftimeItems::new(pattern)).ok()?;
    let offset = parsed.to_fixed_offset().map_or(0, |offset| offset.local_minus_utc());
    let moment = parsed.to_naive_datetime_with_offset(offset).ok().or_else(|| {
        // Refused where the pattern has them already, which then stay.
        let _ = parsed.set_hour(0);
        let _ = parsed.set_minute(0);
        Some(parsed.to_naive_date().ok()?.and_time(parsed.to_naive_time().ok()?))
    })?;
    Some(moment.and_utc().timestamp_micros() - i64::from(offset) * 1_000_000)
}

/// A pattern as `strftime` has it; those of the kind `YYYY-MM-DD HH24:MI:SS` are translated.
fn percent_pattern(pattern: &str) -> String {
    if pattern.contains('%') {
        return pattern.to_owned();
    }
    const WORDS: [(&str, &str); 13] = [
        ("YYYY", "%Y"),
        ("YY", "%y"),
        ("MONTH", "%B"),
        ("MON", "%b"),
        ("MM", "%m"),
        ("DD", "%d"),
        ("HH24", "%H"),
        ("HH12", "%I"),
        ("HH", "%H"),
        ("MI", "%M"),
        ("SS", "%S"),
        ("AM", "%p"),
        ("PM", "%p"),
    ];
    let mut translated = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    'words: while let Some(next) = rest.chars().next() {
        for (word, percent) in WORDS {
            if rest.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word)) {
                translated.push_str(percent);
                rest = &rest[word.len()..];
                continue 'words;
            }
        }
        translated.push(next);
        rest = &rest[next.len_utf8()..];
    }
    translated
}
