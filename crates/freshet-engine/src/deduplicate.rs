//! One row for each key: `row_number() over (partition by … order by …) = 1` as an operator of its
//! own.
//!
//! DataFusion sorts the whole input by key and order and numbers every row of it. This keeps what is
//! needed alone: where the input already arrives in the wanted order (files are read by path and
//! offset), the set of keys seen so far, and rows pass through; elsewhere the best row of each key.
//! Beyond its share of memory either goes to disk, divided by the keys' hashes, so that each part
//! can be finished by itself.
//!
//! [`Rule`] finds the pattern in a logical plan, [`Planner`] makes the operator of it.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchemaRef, ScalarValue};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::expr::{Sort, WindowFunction};
use datafusion::logical_expr::{
    BinaryExpr, Expr, Extension, Filter, LogicalPlan, Operator, Projection,
    UserDefinedLogicalNodeCore, Window, WindowFunctionDefinition, lit,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

mod best;
mod dense;
mod exec;
mod in_order;
mod keys;
mod plan;
mod positions;
mod set;
mod spill;
#[cfg(test)]
mod tests;

pub use exec::DeduplicateExec;
pub use plan::Planner;

/// The first row of each key, in an order; a key is the values of some expressions, where nulls
/// equal each other. Which of several rows that are first alike is kept is not fixed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Deduplicate {
    input: Arc<LogicalPlan>,
    keys: Vec<Expr>,
    order: Vec<Sort>,
}

/// Plans are not compared by size.
impl PartialOrd for Deduplicate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for Deduplicate {
    fn name(&self) -> &'static str {
        "Deduplicate"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.iter().cloned().chain(self.order.iter().map(|sort| sort.expr.clone())).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = |exprs: &mut dyn Iterator<Item = String>| exprs.collect::<Vec<_>>().join(", ");
        let keys = texts(&mut self.keys.iter().map(ToString::to_string));
        let order = texts(&mut self.order.iter().map(ToString::to_string));
        write!(f, "Deduplicate: keys=[{keys}], order=[{order}]")
    }

    fn with_exprs_and_inputs(
        &self,
        mut exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> DfResult<Self> {
        let (Some(input), true) =
            (inputs.pop(), exprs.len() == self.keys.len() + self.order.len() && inputs.is_empty())
        else {
            return Err(DataFusionError::Internal("a deduplication has one input".into()));
        };
        let order = exprs.split_off(self.keys.len());
        let order = order
            .into_iter()
            .zip(&self.order)
            .map(|(expr, sort)| Sort { expr, ..sort.clone() })
            .collect();
        Ok(Self { input: Arc::new(input), keys: exprs, order })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        // Columns of keys and order are added by the optimizer, which sees the expressions.
        let schema = self.input.schema();
        let mut wanted = output_columns.to_vec();
        for expr in self.expressions() {
            for column in expr.column_refs() {
                wanted.push(schema.maybe_index_of_column(column)?);
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        Some(vec![wanted])
    }
}

/// Puts a deduplication where a filter keeps the rows that `row_number` calls the first.
#[derive(Debug, Default)]
pub struct Rule;

impl OptimizerRule for Rule {
    fn name(&self) -> &'static str {
        "deduplicate"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> DfResult<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(filter) = &plan else { return Ok(Transformed::no(plan)) };
        match deduplicated(filter)? {
            Some(rewritten) => Ok(Transformed::yes(rewritten)),
            None => Ok(Transformed::no(plan)),
        }
    }
}

/// The plan that does what `filter` does over a `row_number` alone, if that is what it is over.
fn deduplicated(filter: &Filter) -> DfResult<Option<LogicalPlan>> {
    let LogicalPlan::Window(window) = filter.input.as_ref() else { return Ok(None) };
    let Some((keys, order)) = row_number(window) else { return Ok(None) };
    let number = window.input.schema().fields().len();
    let (qualifier, field) = window.schema.qualified_field(number);
    let number = Column::new(qualifier.cloned(), field.name());

    let conjuncts = split_conjunction(&filter.predicate);
    let (first, rest): (Vec<_>, Vec<_>) =
        conjuncts.into_iter().partition(|conjunct| keeps_the_first(conjunct, &number));
    if first.is_empty() {
        return Ok(None);
    }
    let kept = LogicalPlan::Extension(Extension {
        node: Arc::new(Deduplicate {
            input: Arc::clone(&window.input),
            keys: keys.to_vec(),
            order: order.to_vec(),
        }),
    });
    // The number itself may be read further up; it is pruned where it is not.
    let columns = window.schema.iter().map(|(qualifier, field)| {
        let column = Column::new(qualifier.cloned(), field.name());
        if column == number {
            lit(1u64).alias_qualified(number.relation.clone(), number.name())
        } else {
            Expr::Column(column)
        }
    });
    let numbered = Projection::try_new_with_schema(
        columns.collect(),
        Arc::new(kept),
        Arc::clone(&window.schema),
    )?;
    let numbered = LogicalPlan::Projection(numbered);
    match rest.into_iter().cloned().reduce(Expr::and) {
        None => Ok(Some(numbered)),
        Some(rest) => Ok(Some(LogicalPlan::Filter(Filter::try_new(rest, Arc::new(numbered))?))),
    }
}

fn split_conjunction(predicate: &Expr) -> Vec<&Expr> {
    datafusion::logical_expr::utils::split_conjunction(predicate)
}

/// Keys and order of a window that is one `row_number` of a key.
fn row_number(window: &Window) -> Option<(&[Expr], &[Sort])> {
    let [expr] = window.window_expr.as_slice() else { return None };
    let expr = match expr {
        Expr::Alias(alias) => alias.expr.as_ref(),
        expr => expr,
    };
    let Expr::WindowFunction(function) = expr else { return None };
    let WindowFunction { fun: WindowFunctionDefinition::WindowUDF(udf), params } =
        function.as_ref()
    else {
        return None;
    };
    let plain = params.filter.is_none() && !params.distinct && !params.partition_by.is_empty();
    (udf.name() == "row_number" && plain)
        .then_some((params.partition_by.as_slice(), params.order_by.as_slice()))
}

/// Whether a predicate is `number = 1`, `number <= 1` or `number < 2`, either way round.
fn keeps_the_first(predicate: &Expr, number: &Column) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = predicate else { return false };
    let (operator, value) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) if column == number => (Some(*op), value),
        (Expr::Literal(value, _), Expr::Column(column)) if column == number => (op.swap(), value),
        _ => return false,
    };
    let value = match value.cast_to(&arrow::datatypes::DataType::Int64) {
        Ok(ScalarValue::Int64(Some(value))) => value,
        _ => return false,
    };
    matches!((operator, value), (Some(Operator::Eq | Operator::LtEq), 1) | (Some(Operator::Lt), 2))
}
