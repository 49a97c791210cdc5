//! Text, numbers out of text, and hashes.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringViewArray, StringViewBuilder};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{exec_err, plan_err};
use datafusion::logical_expr::{Expr, Operator, ReturnFieldArgs, TryCast, binary_expr, cast, lit};
use datafusion::scalar::ScalarValue;
use regex::Regex;

use super::conditional::{pair, single};
use super::scalar::{Body, Function, all_text, as_given};
use super::{FunctionInfo, PlanResult, literal_number};

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        info: FunctionInfo {
            name: "charindex",
            aliases: &[],
            usage: "charindex(part, text)",
            help: "Where the part begins in the text, from 1; 0 where it is not there.",
        },
        arity: (2, 2),
        coerce: all_text,
        returns: |_| Ok(DataType::Int32),
        body: Body::Rewrite(|args, _| {
            let [part, text] = pair(args)?;
            let position = datafusion::functions::unicode::expr_fn::strpos(text, part);
            Ok(cast(position, DataType::Int32))
        }),
    },
    Function {
        info: FunctionInfo {
            name: "generate_surrogate_key",
            aliases: &["surrogate_key"],
            usage: "generate_surrogate_key(a, b, …)",
            help: "A key out of several values: MD5 in hexadecimal of their texts with `-` between, as dbt_utils makes it.",
        },
        arity: (1, 64),
        coerce: all_text,
        returns: |_| Ok(DataType::Utf8View),
        body: Body::Rewrite(|args, _| {
            let null = || lit("_dbt_utils_surrogate_key_null_");
            let mut parts = args.into_iter().map(|arg| {
                let null = cast(null(), DataType::Utf8View);
                datafusion::functions::core::expr_fn::coalesce(vec![arg, null])
            });
            let Some(first) = parts.next() else { return plan_err!("a value is needed") };
            let dash = || cast(lit("-"), DataType::Utf8View);
            let joined = parts.fold(first, |joined, part| {
                let joined = binary_expr(joined, Operator::StringConcat, dash());
                binary_expr(joined, Operator::StringConcat, part)
            });
            let key = datafusion::functions::crypto::expr_fn::md5(joined);
            Ok(cast(key, DataType::Utf8View))
        }),
    },
    Function {
        info: FunctionInfo {
            name: "hash",
            aliases: &[],
            usage: "hash(a, b, …)",
            help: "A bigint out of the values' texts, the same on every machine and in every version.",
        },
        arity: (1, 64),
        coerce: all_text,
        returns: |_| Ok(DataType::Int64),
        body: Body::Kernel(hash),
    },
    Function {
        info: FunctionInfo {
            name: "regexp_extract",
            aliases: &["regexp_substr"],
            usage: "regexp_extract(text, regex[, group])",
            help: "What the expression, or one of its groups, matches first; null where it does not match.",
        },
        arity: (2, 3),
        coerce: |types| {
            let mut coerced = vec![DataType::Utf8View; 2];
            coerced.extend(types.get(2).map(|_| DataType::Int64));
            Ok(coerced)
        },
        returns: |_| Ok(DataType::Utf8View),
        body: Body::Kernel(extract),
    },
    Function {
        info: FunctionInfo {
            name: "to_varchar",
            aliases: &[],
            usage: "to_varchar(value)",
            help: "The value as text.",
        },
        arity: (1, 1),
        coerce: as_given,
        returns: |_| Ok(DataType::Utf8View),
        body: Body::Rewrite(|args, _| {
            let [value] = single(args)?;
            Ok(cast(value, DataType::Utf8View))
        }),
    },
    Function {
        info: FunctionInfo {
            name: "try_to_boolean",
            aliases: &[],
            usage: "try_to_boolean(text)",
            help: "Text read as a boolean; null where it is none.",
        },
        arity: (1, 1),
        coerce: all_text,
        returns: |_| Ok(DataType::Boolean),
        body: Body::Rewrite(|args, _| {
            let [text] = single(args)?;
            Ok(try_cast(trimmed(text), DataType::Boolean))
        }),
    },
    Function {
        info: FunctionInfo {
            name: "try_to_decimal",
            aliases: &["try_to_number", "try_to_numeric"],
            usage: "try_to_decimal(text[, precision, scale])",
            help: "Text read as a decimal, of 38 digits and scale 0 where nothing is said; null where it is none.",
        },
        arity: (1, 3),
        coerce: |types| {
            let mut coerced = vec![DataType::Utf8View];
            coerced.extend(types.iter().skip(1).map(|_| DataType::Int64));
            Ok(coerced)
        },
        returns: decimal,
        body: Body::Rewrite(|args, _| {
            let number = |index: usize, default: u8| match args.get(index) {
                None => Ok(default),
                Some(Expr::Literal(value, _)) => match value.cast_to(&DataType::UInt8) {
                    Ok(ScalarValue::UInt8(Some(number))) => Ok(number),
                    _ => plan_err!("precision and scale have to be literals from 0 to 38"),
                },
                Some(_) => plan_err!("precision and scale have to be literals from 0 to 38"),
            };
            let data_type = decimal_type(number(1, 38)?, number(2, 0)?)?;
            match args.into_iter().next() {
                Some(text) => Ok(try_cast(trimmed(text), data_type)),
                None => plan_err!("text is needed"),
            }
        }),
    },
    Function {
        info: FunctionInfo {
            name: "try_to_double",
            aliases: &[],
            usage: "try_to_double(text)",
            help: "Text read as a double; null where it is none.",
        },
        arity: (1, 1),
        coerce: all_text,
        returns: |_| Ok(DataType::Float64),
        body: Body::Rewrite(|args, _| {
            let [text] = single(args)?;
            Ok(try_cast(trimmed(text), DataType::Float64))
        }),
    },
];

fn trimmed(text: Expr) -> Expr {
    datafusion::functions::string::expr_fn::btrim(vec![text])
}

fn try_cast(value: Expr, data_type: DataType) -> Expr {
    Expr::TryCast(TryCast::new(Box::new(value), data_type))
}

fn decimal(args: &ReturnFieldArgs<'_>) -> PlanResult<DataType> {
    decimal_type(
        literal_number(args, 1, "the precision", 38)?,
        literal_number(args, 2, "the scale", 0)?,
    )
}

fn decimal_type(precision: u8, scale: u8) -> PlanResult<DataType> {
    match i8::try_from(scale) {
        Ok(signed) if (1..=38).contains(&precision) && scale <= precision => {
            Ok(DataType::Decimal128(precision, signed))
        }
        _ => plan_err!("a decimal has 1 to 38 digits, of which at most all are after the point"),
    }
}

fn hash(args: &[ArrayRef], _: &DataType) -> PlanResult<ArrayRef> {
    let columns: Vec<_> = args.iter().map(|arg| arg.as_string_view()).collect();
    let rows = columns.first().map_or(0, |column| column.len());
    let hashes: Int64Array = (0..rows)
        .map(|row| {
            let mut hasher = blake3::Hasher::new();
            for column in &columns {
                // Length first, so that ('a', 'bc') is not ('ab', 'c'); a null has none.
                if column.is_valid(row) {
                    let value = column.value(row);
                    hasher.update(&(value.len() as u64).to_le_bytes());
                    hasher.update(value.as_bytes());
                } else {
                    hasher.update(&u64::MAX.to_le_bytes());
                }
            }
            let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
            Some(i64::from_le_bytes([a, b, c, d, e, f, g, h]))
        })
        .collect();
    Ok(Arc::new(hashes))
}

fn extract(args: &[ArrayRef], _: &DataType) -> PlanResult<ArrayRef> {
    let texts = args[0].as_string_view();
    let patterns = args[1].as_string_view();
    let groups = args.get(2).map(|groups| groups.as_primitive::<Int64Type>());
    let mut compiled: HashMap<&str, Regex> = HashMap::new();
    let mut found = StringViewBuilder::with_capacity(texts.len());
    for row in 0..texts.len() {
        let group =
            groups.map_or(Some(0), |groups| groups.is_valid(row).then(|| groups.value(row)));
        let (true, true, Some(group)) = (texts.is_valid(row), patterns.is_valid(row), group) else {
            found.append_null();
            continue;
        };
        let regex = compile(&mut compiled, patterns, row)?;
        let Ok(group) = usize::try_from(group) else {
            return exec_err!("a group is numbered from 0, not {group}");
        };
        let matched = regex.captures(texts.value(row)).and_then(|captures| captures.get(group));
        found.append_option(matched.map(|matched| matched.as_str()));
    }
    Ok(Arc::new(found.finish()))
}

/// The expression of a row, compiled once for all rows that have it.
fn compile<'c, 'a>(
    compiled: &'c mut HashMap<&'a str, Regex>,
    patterns: &'a StringViewArray,
    row: usize,
) -> PlanResult<&'c Regex> {
    let pattern = patterns.value(row);
    if !compiled.contains_key(pattern) {
        match Regex::new(pattern) {
            Ok(regex) => compiled.insert(pattern, regex),
            Err(error) => return exec_err!("\"{pattern}\" is not a regular expression: {error}"),
        };
    }
    Ok(&compiled[pattern])
}
