//! Names, literals and conditions of rules in SQL.

use arrow::datatypes::{DataType, Schema, TimeUnit};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use super::Rule;
use super::rule::{Bounds, Kind, Literal, RowTest};

/// A name, quoted.
pub(super) fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text value, quoted.
pub(super) fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Names, quoted, with commas between.
pub(super) fn names(list: &[String]) -> String {
    list.iter().map(|column| name(column)).collect::<Vec<_>>().join(", ")
}

/// Whether an expression has a query inside, which aggregates and window functions do not take.
pub(super) fn has_query(sql: &str) -> bool {
    Tokenizer::new(&GenericDialect {}, sql).tokenize().is_ok_and(|tokens| {
        tokens
            .iter()
            .any(|token| matches!(token, Token::Word(word) if word.keyword == Keyword::SELECT))
    })
}

/// The type of a column's values; `None` where the table has no such column.
pub(super) fn column_type<'s>(schema: &'s Schema, column: &str) -> Option<&'s DataType> {
    schema.field_with_name(column).ok().map(|field| match field.data_type() {
        DataType::Dictionary(_, value) => value.as_ref(),
        other => other,
    })
}

pub(super) fn is_text(data_type: Option<&DataType>) -> bool {
    matches!(data_type, Some(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View))
}

pub(super) fn is_temporal(data_type: Option<&DataType>) -> bool {
    matches!(
        data_type,
        Some(
            DataType::Date32
                | DataType::Date64
                | DataType::Timestamp(_, _)
                | DataType::Time32(_)
                | DataType::Time64(_)
        )
    )
}

/// A column as text, for rules about text.
fn as_text(column: &str, data_type: Option<&DataType>) -> String {
    if is_text(data_type) { name(column) } else { format!("cast({} as varchar)", name(column)) }
}

/// A literal to be compared with values of `data_type`.
pub(super) fn literal(value: &Literal, data_type: Option<&DataType>) -> String {
    match value {
        Literal::Number(number) => match data_type {
            // A literal with a point is binary otherwise, and 0.1 is not 0.10 then.
            Some(DataType::Decimal128(_, _) | DataType::Decimal256(_, _)) => {
                decimal(number).unwrap_or_else(|| number.clone())
            }
            _ => number.clone(),
        },
        Literal::Boolean(value) => value.to_string(),
        Literal::Sql(sql) => format!("({sql})"),
        Literal::Text(value) => match data_type {
            Some(DataType::Date32 | DataType::Date64) if value.len() == 10 => {
                format!("cast({} as date)", text(value))
            }
            Some(DataType::Date32 | DataType::Date64) => moment(value, None),
            Some(DataType::Timestamp(_, zone)) => moment(value, zone.as_deref()),
            _ => text(value),
        },
    }
}

/// A timestamp in microseconds: nanoseconds, which `cast` gives, end in 2262.
pub(super) fn moment(value: &str, zone: Option<&str>) -> String {
    let unit = match zone {
        None => "Timestamp(Microsecond, None)".to_owned(),
        Some(zone) => format!("Timestamp(Microsecond, Some(\"{zone}\"))"),
    };
    format!("arrow_cast({}, {})", text(value), text(&unit))
}

/// A column as a timestamp in microseconds without a zone.
pub(super) fn as_moment(column: &str, data_type: Option<&DataType>) -> String {
    match data_type {
        Some(DataType::Timestamp(TimeUnit::Microsecond, None)) => name(column),
        _ => format!("arrow_cast({}, 'Timestamp(Microsecond, None)')", name(column)),
    }
}

fn decimal(number: &str) -> Option<String> {
    let digits = number.trim_start_matches(['-', '+']);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.chars().all(|c| c.is_ascii_digit());
    let precision = (whole.len() + fraction.len()).max(1);
    (all_digits(whole) && all_digits(fraction) && precision <= 38)
        .then(|| format!("cast({} as decimal({precision},{}))", text(number), fraction.len()))
}

/// The condition of a value that is out of `bounds`; null where the value is.
pub(super) fn outside(subject: &str, bounds: &Bounds, data_type: Option<&DataType>) -> String {
    let (below, above) = if bounds.strict { ("<=", ">=") } else { ("<", ">") };
    let parts: Vec<_> = [(&bounds.min, below), (&bounds.max, above)]
        .into_iter()
        .filter_map(|(bound, operator)| {
            bound
                .as_ref()
                .map(|bound| format!("{subject} {operator} {}", literal(bound, data_type)))
        })
        .collect();
    format!("({})", parts.join(" or "))
}

/// The condition of a row that breaks a rule about rows, without its `where`.
///
/// Three-valued: a row counts only where it is true, so that nulls pass as they do in SQL
/// constraints.
pub(super) fn broken(column: Option<&str>, test: &RowTest, schema: &Schema) -> String {
    let column = column.unwrap_or_default();
    let data_type = column_type(schema, column);
    match test {
        RowTest::NotNull => format!("({} is null)", name(column)),
        RowTest::Range(bounds) => outside(&name(column), bounds, data_type),
        RowTest::Length { min, max, trim } => {
            let text = as_text(column, data_type);
            let text = if *trim { format!("trim({text})") } else { text };
            let number = |bound: &Option<u64>| bound.map(|n| Literal::Number(n.to_string()));
            let bounds = Bounds { min: number(min), max: number(max), strict: false };
            outside(&format!("character_length({text})"), &bounds, None)
        }
        RowTest::Regex { pattern, negated } => {
            let operator = if *negated { "~" } else { "!~" };
            format!("({} {operator} {})", as_text(column, data_type), text(pattern))
        }
        RowTest::Expression(sql) => format!("(not ({sql}))"),
        RowTest::Values { values, negated } => {
            let operator = if *negated { "in" } else { "not in" };
            let (subject, list) = comparable(column, values, data_type);
            format!("({subject} {operator} ({}))", list.join(", "))
        }
    }
}

/// A column and a list of values, both in a form in which they compare: people write `'1'` for 1.
fn comparable(
    column: &str,
    values: &[Literal],
    data_type: Option<&DataType>,
) -> (String, Vec<String>) {
    let quoted = || values.iter().map(|value| text(&value.to_string())).collect();
    let has_sql = values.iter().any(|value| matches!(value, Literal::Sql(_)));
    let has_text = values.iter().any(|value| matches!(value, Literal::Text(_)));
    let numbers = || {
        values.iter().all(|value| match value {
            Literal::Number(_) => true,
            Literal::Text(text) => text.parse::<f64>().is_ok_and(f64::is_finite),
            Literal::Boolean(_) | Literal::Sql(_) => false,
        })
    };
    if has_sql || data_type.is_none() || (is_temporal(data_type) && has_text) {
        let list = values.iter().map(|value| literal(value, data_type)).collect();
        (name(column), list)
    } else if is_text(data_type) {
        (name(column), quoted())
    } else if data_type.is_some_and(DataType::is_numeric) && numbers() {
        let number = |value: &Literal| literal(&Literal::Number(value.to_string()), data_type);
        (name(column), values.iter().map(number).collect())
    } else if has_text {
        (as_text(column, data_type), quoted())
    } else {
        (name(column), values.iter().map(|value| literal(value, data_type)).collect())
    }
}

/// `condition and other`, where either may be missing.
pub(super) fn both(condition: Option<&str>, other: &str) -> String {
    match condition {
        Some(condition) => format!("({condition}) and {other}"),
        None => other.to_owned(),
    }
}

/// What is wrong with a row that breaks the rule, for a person.
pub(super) fn fault(rule: &Rule) -> String {
    match &rule.kind {
        Kind::Row { column, test } => {
            let column = column.as_deref().unwrap_or_default();
            match test {
                RowTest::NotNull => format!("column \"{column}\" is null"),
                RowTest::Range(bounds) => {
                    format!("column \"{column}\" is not {}", bounds.describe())
                }
                RowTest::Length { min, max, .. } => {
                    let number =
                        |bound: &Option<u64>| bound.map(|n| Literal::Number(n.to_string()));
                    let bounds = Bounds { min: number(min), max: number(max), strict: false };
                    format!("column \"{column}\" does not have {} characters", bounds.describe())
                }
                RowTest::Regex { pattern, negated: false } => {
                    format!("column \"{column}\" does not match {pattern}")
                }
                RowTest::Regex { pattern, negated: true } => {
                    format!("column \"{column}\" matches {pattern}")
                }
                RowTest::Expression(sql) => format!("the expression does not hold: {sql}"),
                RowTest::Values { values, negated } => {
                    let mut shown: Vec<_> = values.iter().take(8).map(Literal::to_string).collect();
                    if values.len() > shown.len() {
                        shown.push("…".to_owned());
                    }
                    let verb = if *negated { "is one of" } else { "is not one of" };
                    format!("column \"{column}\" {verb} {}", shown.join(", "))
                }
            }
        }
        Kind::Unique { columns, .. } => {
            format!("the key ({}) occurs more than once", columns.join(", "))
        }
        Kind::Relationships { column, field, .. } => format!(
            "column \"{column}\" has a value that is not in column \"{field}\" of {}",
            rule.check.arguments.get("to").and_then(|to| to.as_str()).unwrap_or("the other table")
        ),
        Kind::Figure { .. } | Kind::Volume { .. } => format!("{} is out of bounds", rule.info.name),
        Kind::Query { .. } => "the query gives rows".to_owned(),
    }
}
