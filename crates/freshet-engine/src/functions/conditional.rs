//! Nulls, conditions and division.

use arrow::datatypes::DataType;
use datafusion::common::plan_err;
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::type_coercion::binary::type_union_coercion;
use datafusion::logical_expr::{Expr, Operator, ReturnFieldArgs, binary_expr, is_null, lit, when};
use datafusion::scalar::ScalarValue;

use super::scalar::{Body, Function, argument_type, as_given};
use super::{FunctionInfo, PlanResult};

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        info: FunctionInfo {
            name: "div0",
            aliases: &[],
            usage: "div0(a, b)",
            help: "`a / b`, and 0 where `b` is 0. Whole numbers divide as doubles, decimals as decimals.",
        },
        arity: (2, 2),
        coerce: division,
        returns: quotient,
        body: Body::Rewrite(|args, types| {
            let zero_result = zero(&quotient_type(types)?)?;
            guarded(args, types, zero_result)
        }),
    },
    Function {
        info: FunctionInfo {
            name: "equal_null",
            aliases: &[],
            usage: "equal_null(a, b)",
            help: "Whether two values are equal, null being equal to null.",
        },
        arity: (2, 2),
        coerce: common_type,
        returns: |_| Ok(DataType::Boolean),
        body: Body::Rewrite(|args, _| {
            let [left, right] = pair(args)?;
            Ok(binary_expr(left, Operator::IsNotDistinctFrom, right))
        }),
    },
    Function {
        info: FunctionInfo {
            name: "iff",
            aliases: &["if"],
            usage: "iff(condition, a, b)",
            help: "`a` where the condition holds, else `b`.",
        },
        arity: (3, 3),
        coerce: |types| {
            let values = common_type(&types[1..])?;
            Ok(vec![DataType::Boolean, values[0].clone(), values[1].clone()])
        },
        returns: |args| argument_type(args, 1),
        body: Body::Rewrite(|args, _| {
            let Ok([condition, then, other]) = <[Expr; 3]>::try_from(args) else {
                return plan_err!("iff takes three arguments");
            };
            when(condition, then).otherwise(other)
        }),
    },
    Function {
        info: FunctionInfo {
            name: "nullifzero",
            aliases: &[],
            usage: "nullifzero(number)",
            help: "The number, and null where it is 0.",
        },
        arity: (1, 1),
        coerce: as_given,
        returns: |args| argument_type(args, 0),
        body: Body::Rewrite(|args, types| {
            let [number] = single(args)?;
            null_if_zero(number, &types[0])
        }),
    },
    Function {
        info: FunctionInfo {
            name: "nvl",
            aliases: &["ifnull"],
            usage: "nvl(a, b)",
            help: "`a`, and `b` where `a` is null; of any type.",
        },
        arity: (2, 2),
        coerce: common_type,
        returns: |args| argument_type(args, 0),
        body: Body::Rewrite(|args, _| Ok(datafusion::functions::core::expr_fn::coalesce(args))),
    },
    Function {
        info: FunctionInfo {
            name: "safe_divide",
            aliases: &["try_divide"],
            usage: "safe_divide(a, b)",
            help: "`a / b`, and null where `b` is 0. Whole numbers divide as doubles, decimals exactly as decimals.",
        },
        arity: (2, 2),
        coerce: division,
        returns: quotient,
        body: Body::Rewrite(|args, types| {
            let [dividend, divisor] = pair(args)?;
            Ok(binary_expr(dividend, Operator::Divide, null_if_zero(divisor, &types[1])?))
        }),
    },
    Function {
        info: FunctionInfo {
            name: "zeroifnull",
            aliases: &[],
            usage: "zeroifnull(number)",
            help: "The number, and 0 where it is null.",
        },
        arity: (1, 1),
        coerce: as_given,
        returns: |args| argument_type(args, 0),
        body: Body::Rewrite(|args, types| {
            let [number] = single(args)?;
            let zero = zero(&types[0])?;
            when(is_null(number.clone()), zero).otherwise(number)
        }),
    },
];

pub(super) fn single(args: Vec<Expr>) -> PlanResult<[Expr; 1]> {
    args.try_into().or_else(|_| plan_err!("one argument is needed"))
}

pub(super) fn pair(args: Vec<Expr>) -> PlanResult<[Expr; 2]> {
    args.try_into().or_else(|_| plan_err!("two arguments are needed"))
}

/// The type that both of two arguments can have.
fn common_type(types: &[DataType]) -> PlanResult<Vec<DataType>> {
    match types {
        [left, right] => match type_union_coercion(left, right) {
            Some(common) => Ok(vec![common.clone(), common]),
            None => plan_err!("{left} and {right} have no type in common; cast one of them"),
        },
        _ => plan_err!("two arguments are needed"),
    }
}

/// Whole numbers divide as doubles: 1 / 2 is 0 otherwise, which is what nobody wants who asks for
/// a safe division.
fn division(types: &[DataType]) -> PlanResult<Vec<DataType>> {
    let plain = |data_type: &DataType| data_type.is_integer() || data_type.is_null();
    let [left, right] = types else { return plan_err!("two arguments are needed") };
    if plain(left) && plain(right) {
        return Ok(vec![DataType::Float64; 2]);
    }
    let (left, right) = BinaryTypeCoercer::new(left, &Operator::Divide, right).get_input_types()?;
    Ok(vec![left, right])
}

fn quotient(args: &ReturnFieldArgs<'_>) -> PlanResult<DataType> {
    quotient_type(&[argument_type(args, 0)?, argument_type(args, 1)?])
}

fn quotient_type(types: &[DataType]) -> PlanResult<DataType> {
    let [left, right] = types else { return plan_err!("two arguments are needed") };
    BinaryTypeCoercer::new(left, &Operator::Divide, right).get_result_type()
}

fn zero(data_type: &DataType) -> PlanResult<Expr> {
    if !data_type.is_numeric() {
        return plan_err!("a number is needed, not {data_type}");
    }
    Ok(lit(ScalarValue::new_zero(data_type)?))
}

fn null_if_zero(number: Expr, data_type: &DataType) -> PlanResult<Expr> {
    let zero = zero(data_type)?;
    let null = lit(ScalarValue::try_from(data_type)?);
    when(number.clone().eq(zero), null).otherwise(number)
}

/// A quotient, and `instead` where the divisor is 0.
fn guarded(args: Vec<Expr>, types: &[DataType], instead: Expr) -> PlanResult<Expr> {
    let [dividend, divisor] = pair(args)?;
    let zero = zero(&types[1])?;
    let safe = null_if_zero(divisor.clone(), &types[1])?;
    let quotient = binary_expr(dividend.clone(), Operator::Divide, safe);
    when(divisor.eq(zero).and(dividend.is_not_null()), instead).otherwise(quotient)
}
