//! SQL functions that users of other warehouses expect and DataFusion lacks, and SQL macros.
//!
//! What DataFusion can say already is rewritten into that before planning ends, so that it is
//! optimised like anything else; the rest are kernels over Arrow arrays.

use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, plan_err};
use datafusion::logical_expr::ReturnFieldArgs;
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use freshet_core::Result;

mod aggregates;
mod conditional;
mod dates;
mod macros;
mod scalar;
mod text;

pub use macros::expand_macros;
pub(crate) use macros::one_line;
use scalar::Function;

/// The result of anything that DataFusion calls.
type PlanResult<T> = std::result::Result<T, DataFusionError>;

/// A function as the reference lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Its name.
    pub name: &'static str,
    /// Other names of it.
    pub aliases: &'static [&'static str],
    /// How it is called, e.g. `safe_divide(a, b)`.
    pub usage: &'static str,
    /// What it gives, in a sentence.
    pub help: &'static str,
}

/// All functions that Freshet adds, by name: scalar ones, then aggregates, then further names of
/// functions that DataFusion has.
pub fn functions() -> Vec<FunctionInfo> {
    let mut scalar: Vec<_> = all_scalar().map(|function| function.info).collect();
    scalar.sort_by_key(|info| info.name);
    scalar.into_iter().chain(aggregates::infos()).chain(ALIASES.iter().copied()).collect()
}

/// Makes all of [`functions`] known to a session.
pub fn register(ctx: &SessionContext) -> Result<()> {
    for function in all_scalar() {
        ctx.register_udf(scalar::udf(function));
    }
    aggregates::register(ctx);
    let text = datafusion::functions::unicode::character_length();
    ctx.register_udf(text.as_ref().clone().with_aliases(["len"]));
    let strings = datafusion::functions::string::levenshtein();
    ctx.register_udf(strings.as_ref().clone().with_aliases(["editdistance"]));
    let lower = datafusion::functions::string::lower();
    ctx.register_udf(lower.as_ref().clone().with_aliases(["lcase"]));
    let upper = datafusion::functions::string::upper();
    ctx.register_udf(upper.as_ref().clone().with_aliases(["ucase"]));
    let starts = datafusion::functions::string::starts_with();
    ctx.register_udf(starts.as_ref().clone().with_aliases(["startswith"]));
    let ends = datafusion::functions::string::ends_with();
    ctx.register_udf(ends.as_ref().clone().with_aliases(["endswith"]));
    let like = datafusion::functions::regex::regexp_like();
    ctx.register_udf(like.as_ref().clone().with_aliases(["regexp_matches", "regexp_contains"]));
    let split = datafusion::functions_nested::string::string_to_array_udf();
    ctx.register_udf(split.as_ref().clone().with_aliases(["split"]));
    let date = datafusion::functions::datetime::make_date();
    ctx.register_udf(date.as_ref().clone().with_aliases(["date_from_parts"]));
    let now = datafusion::functions::datetime::now(&ctx.copied_config().options().as_ref().clone());
    ctx.register_udf(now.as_ref().clone().with_aliases(["getdate", "sysdate"]));
    Ok(())
}

fn all_scalar() -> impl Iterator<Item = &'static Function> {
    [conditional::FUNCTIONS, dates::FUNCTIONS, text::FUNCTIONS].into_iter().flatten()
}

const fn alias(
    name: &'static str,
    aliases: &'static [&'static str],
    usage: &'static str,
    help: &'static str,
) -> FunctionInfo {
    FunctionInfo { name, aliases, usage, help }
}

/// Names that other warehouses have for functions of DataFusion.
static ALIASES: &[FunctionInfo] = &[
    alias("date_from_parts", &[], "date_from_parts(year, month, day)", "`make_date`."),
    alias("editdistance", &[], "editdistance(a, b)", "`levenshtein`."),
    alias("endswith", &[], "endswith(text, end)", "`ends_with`."),
    alias("getdate", &["sysdate"], "getdate()", "`now`."),
    alias("lcase", &[], "lcase(text)", "`lower`."),
    alias("len", &[], "len(text)", "`character_length`."),
    alias(
        "regexp_matches",
        &["regexp_contains"],
        "regexp_matches(text, regex)",
        "`regexp_like`: whether a regular expression matches somewhere.",
    ),
    alias("split", &[], "split(text, separator)", "`string_to_array`."),
    alias("startswith", &[], "startswith(text, start)", "`starts_with`."),
    alias("ucase", &[], "ucase(text)", "`upper`."),
];

/// The text of an argument that has to be a literal.
fn literal_text<'a>(
    args: &'a ReturnFieldArgs<'_>,
    index: usize,
    what: &str,
) -> PlanResult<&'a str> {
    match args.scalar_arguments.get(index).copied().flatten().and_then(|value| value.try_as_str()) {
        Some(Some(text)) => Ok(text),
        _ => plan_err!("{what} has to be a literal such as 'day'"),
    }
}

/// A whole number that has to be a literal; `default` where there is no such argument.
fn literal_number(
    args: &ReturnFieldArgs<'_>,
    index: usize,
    what: &str,
    default: u8,
) -> PlanResult<u8> {
    let Some(argument) = args.scalar_arguments.get(index) else { return Ok(default) };
    let number = argument.and_then(|value| match value.cast_to(&DataType::UInt8) {
        Ok(ScalarValue::UInt8(number)) => number,
        _ => None,
    });
    match number {
        Some(number) if number <= 38 => Ok(number),
        _ => plan_err!("{what} has to be a literal from 0 to 38"),
    }
}
