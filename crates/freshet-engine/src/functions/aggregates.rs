//! Aggregates.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{internal_err, plan_err};
use datafusion::logical_expr::expr::{AggregateFunction, Sort};
use datafusion::logical_expr::function::{
    AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs,
};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility, lit, when,
};
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;

use super::{FunctionInfo, PlanResult};

static INFOS: &[FunctionInfo] = &[
    FunctionInfo {
        name: "approx_count_distinct",
        aliases: &[],
        usage: "approx_count_distinct(x)",
        help: "`approx_distinct`: about how many different values there are.",
    },
    FunctionInfo {
        name: "count_if",
        aliases: &["countif"],
        usage: "count_if(condition)",
        help: "In how many rows a condition holds.",
    },
    FunctionInfo {
        name: "listagg",
        aliases: &["group_concat"],
        usage: "listagg(text, separator order by x)",
        help: "`string_agg`: texts with a separator between.",
    },
    FunctionInfo {
        name: "logical_and",
        aliases: &["every"],
        usage: "logical_and(condition)",
        help: "`bool_and`: whether a condition holds in all rows.",
    },
    FunctionInfo {
        name: "logical_or",
        aliases: &[],
        usage: "logical_or(condition)",
        help: "`bool_or`: whether a condition holds in any row.",
    },
    FunctionInfo {
        name: "max_by",
        aliases: &["arg_max"],
        usage: "max_by(x, y)",
        help: "`x` of the row with the greatest `y`; rows without a `y` are left out.",
    },
    FunctionInfo {
        name: "min_by",
        aliases: &["arg_min"],
        usage: "min_by(x, y)",
        help: "`x` of the row with the least `y`; rows without a `y` are left out.",
    },
    FunctionInfo {
        name: "mode",
        aliases: &[],
        usage: "mode(x)",
        help: "The commonest value, nulls left out; the least of several.",
    },
];

pub(super) fn infos() -> impl Iterator<Item = FunctionInfo> {
    INFOS.iter().copied()
}

pub(super) fn register(ctx: &SessionContext) {
    let any = || Signature::user_defined(Volatility::Immutable);
    for (name, alias, descending) in [("max_by", "arg_max", true), ("min_by", "arg_min", false)] {
        ctx.register_udaf(AggregateUDF::new_from_impl(PickBy {
            name,
            aliases: vec![alias.to_owned()],
            descending,
            signature: any(),
        }));
    }
    ctx.register_udaf(AggregateUDF::new_from_impl(CountIf {
        aliases: vec!["countif".to_owned()],
        signature: Signature::exact(vec![DataType::Boolean], Volatility::Immutable),
    }));
    ctx.register_udaf(AggregateUDF::new_from_impl(Mode {
        signature: Signature::any(1, Volatility::Immutable),
    }));
    let aliased = |udaf: Arc<AggregateUDF>, names: &'static [&'static str]| {
        udaf.as_ref().clone().with_aliases(names.iter().copied())
    };
    use datafusion::functions_aggregate as all;
    ctx.register_udaf(aliased(
        all::approx_distinct::approx_distinct_udaf(),
        &["approx_count_distinct"],
    ));
    ctx.register_udaf(aliased(all::string_agg::string_agg_udaf(), &["listagg", "group_concat"]));
    ctx.register_udaf(aliased(all::bool_and_or::bool_and_udaf(), &["logical_and", "every"]));
    ctx.register_udaf(aliased(all::bool_and_or::bool_or_udaf(), &["logical_or"]));
}

/// `max_by` and `min_by`: the first value in an order.
#[derive(Debug, PartialEq, Eq, Hash)]
struct PickBy {
    name: &'static str,
    aliases: Vec<String>,
    descending: bool,
    signature: Signature,
}

impl AggregateUDFImpl for PickBy {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> PlanResult<Vec<DataType>> {
        if types.len() != 2 {
            return plan_err!("wrong number of arguments: write {}(x, y)", self.name);
        }
        Ok(types.to_vec())
    }

    fn return_type(&self, types: &[DataType]) -> PlanResult<DataType> {
        Ok(types[0].clone())
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> PlanResult<Box<dyn Accumulator>> {
        plan_err!("{} is not to be had over a window; use first_value", self.name)
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        let descending = self.descending;
        Some(Box::new(move |mut call: AggregateFunction, _: &_| {
            let Ok([value, by]) = <[Expr; 2]>::try_from(call.params.args) else {
                return internal_err!("two arguments were checked");
            };
            let known = by.clone().is_not_null();
            let filter = match call.params.filter.take() {
                Some(filter) => filter.and(known),
                None => known,
            };
            Ok(Expr::AggregateFunction(AggregateFunction::new_udf(
                datafusion::functions_aggregate::first_last::first_value_udaf(),
                vec![value],
                false,
                Some(Box::new(filter)),
                vec![Sort::new(by, !descending, false)],
                None,
            )))
        }))
    }
}

/// `count_if`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CountIf {
    aliases: Vec<String>,
    signature: Signature,
}

impl AggregateUDFImpl for CountIf {
    fn name(&self) -> &str {
        "count_if"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> PlanResult<DataType> {
        Ok(DataType::Int64)
    }

    fn is_nullable(&self) -> bool {
        false
    }

    fn default_value(&self, _: &DataType) -> PlanResult<ScalarValue> {
        Ok(ScalarValue::Int64(Some(0)))
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> PlanResult<Box<dyn Accumulator>> {
        plan_err!("count_if is not to be had over a window; use sum(case when … then 1 end)")
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        Some(Box::new(|call: AggregateFunction, _: &_| {
            let Some(condition) = call.params.args.into_iter().next() else {
                return internal_err!("one argument was checked");
            };
            Ok(Expr::AggregateFunction(AggregateFunction::new_udf(
                datafusion::functions_aggregate::count::count_udaf(),
                vec![when(condition, lit(1_i64)).end()?],
                call.params.distinct,
                call.params.filter,
                call.params.order_by,
                None,
            )))
        }))
    }
}

/// `mode`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Mode {
    signature: Signature,
}

impl AggregateUDFImpl for Mode {
    fn name(&self) -> &str {
        "mode"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> PlanResult<DataType> {
        Ok(types[0].clone())
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> PlanResult<Vec<FieldRef>> {
        let list = |name: &str, data_type: DataType| {
            Arc::new(Field::new_list(
                format_state_name(args.name, name),
                Field::new_list_field(data_type, true),
                true,
            ))
        };
        Ok(vec![
            list("values", args.return_field.data_type().clone()),
            list("counts", DataType::Int64),
        ])
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> PlanResult<Box<dyn Accumulator>> {
        Ok(Box::new(ModeAccumulator {
            counts: HashMap::new(),
            data_type: args.return_field.data_type().clone(),
            bytes: 0,
        }))
    }
}

#[derive(Debug)]
struct ModeAccumulator {
    counts: HashMap<ScalarValue, i64>,
    data_type: DataType,
    /// Of the values.
    bytes: usize,
}

impl ModeAccumulator {
    fn add(&mut self, value: ScalarValue, count: i64) {
        if let Some(known) = self.counts.get_mut(&value) {
            *known += count;
        } else {
            self.bytes += value.size() + size_of::<i64>();
            self.counts.insert(value.compacted(), count);
        }
    }
}

impl Accumulator for ModeAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> PlanResult<()> {
        let column = &values[0];
        for row in (0..column.len()).filter(|row| column.is_valid(*row)) {
            self.add(ScalarValue::try_from_array(column, row)?, 1);
        }
        Ok(())
    }

    fn evaluate(&mut self) -> PlanResult<ScalarValue> {
        let best = self.counts.iter().max_by(|(left, left_count), (right, right_count)| {
            // The least value wins among equals, so that the result does not depend on chance.
            left_count
                .cmp(right_count)
                .then_with(|| right.partial_cmp(left).unwrap_or(std::cmp::Ordering::Equal))
        });
        match best {
            Some((value, _)) => Ok(value.clone()),
            None => ScalarValue::try_from(&self.data_type),
        }
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.bytes
    }

    fn state(&mut self) -> PlanResult<Vec<ScalarValue>> {
        let (values, counts): (Vec<_>, Vec<_>) = self
            .counts
            .iter()
            .map(|(value, count)| (value.clone(), ScalarValue::from(*count)))
            .unzip();
        Ok(vec![
            ScalarValue::List(ScalarValue::new_list_nullable(&values, &self.data_type)),
            ScalarValue::List(ScalarValue::new_list_nullable(&counts, &DataType::Int64)),
        ])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> PlanResult<()> {
        let (values, counts) = (states[0].as_list::<i32>(), states[1].as_list::<i32>());
        for (values, counts) in values.iter().zip(counts.iter()) {
            let (Some(values), Some(counts)) = (values, counts) else { continue };
            let counts = counts.as_primitive::<Int64Type>();
            for row in 0..values.len() {
                self.add(ScalarValue::try_from_array(&values, row)?, counts.value(row));
            }
        }
        Ok(())
    }
}
