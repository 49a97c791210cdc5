//! `ROW_NUMBER() OVER (PARTITION BY … ORDER BY …)` with a condition on it: deduplication.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::WindowFunctionParams;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, Filter, LogicalPlan, Operator, Window,
};
use freshet_core::error::code;
use freshet_core::scalar::ScalarExpr;
use freshet_core::{Error, Result};
use freshet_runtime::operators::Deduplicate;

use super::columns::{One, Place};
use super::{Lowering, Origin, Relation, calc, unaliased};
use crate::streaming::expr::compile;

impl Lowering<'_> {
    /// A filter over window functions, projections between the two or not; `None` for any other.
    pub(super) fn ranked(&mut self, filter: &Filter) -> Result<Option<Relation>> {
        let mut between = Vec::new();
        let mut predicate = filter.predicate.clone();
        let mut plan = filter.input.as_ref();
        let window = loop {
            plan = match plan {
                LogicalPlan::Window(window) => break window,
                LogicalPlan::SubqueryAlias(alias) => {
                    let names = alias.input.schema().columns().into_iter().map(Expr::Column);
                    predicate = below(&predicate, plan, &names.collect::<Vec<_>>())?;
                    between.push(plan);
                    &alias.input
                }
                LogicalPlan::Projection(projection) => {
                    predicate = below(&predicate, plan, &projection.expr)?;
                    between.push(plan);
                    &projection.input
                }
                _ => return Ok(None),
            };
        };
        let mut relation = self.rank(window, &predicate)?;
        for plan in between.into_iter().rev() {
            relation = self.over(plan, relation)?;
        }
        Ok(Some(relation))
    }

    /// Rows of a window function for which `predicate` is true.
    fn rank(&mut self, window: &Window, predicate: &Expr) -> Result<Relation> {
        let input = self.relation(&window.input)?;
        let input = self.with_bounds(input)?;
        let params = row_number(window)?;
        let place = input.origins.len();
        let number = Column::from(window.schema.qualified_field(place));
        let (on_number, others): (Vec<&Expr>, Vec<&Expr>) = split_conjunction(predicate)
            .into_iter()
            .partition(|part| part.column_refs().contains(&number));
        if on_number.is_empty() || !on_number.iter().all(|part| is_first(part, &number)) {
            return Err(Error::new(
                code::SQL,
                format!("Top-N is not supported in a stream yet: {predicate}"),
            )
            .hint("ROW_NUMBER() … = 1 keeps one row of each key"));
        }
        if input.updating {
            return Err(Error::new(
                code::SQL,
                "rows that may be taken back are not deduplicated yet",
            )
            .hint("deduplicate first, and aggregate or join what is left"));
        }
        // The first row by the stream's time is certain once the watermark has come to it.
        let settles = match params.order_by.as_slice() {
            [only] if only.asc => match unaliased(&only.expr) {
                Expr::Column(column) => input.origins[input.index(column)?] == Origin::Time,
                _ => false,
            },
            _ => false,
        };
        let deduplicated = self.deduplicate(&input, params, settles)?;
        // The columns of the input, then the row's number.
        let columns = (0..place).map(|place| Arc::new(Place(place)) as Arc<dyn ScalarExpr>);
        let exprs = columns.chain([Arc::new(One) as Arc<dyn ScalarExpr>]).collect();
        let schema = window.schema.inner();
        let id = self.id_of(&format!("numbered {}", deduplicated.1));
        self.stages[deduplicated.0].operators.push((id.clone(), calc(schema, exprs)));
        let relation = Relation {
            stage: deduplicated.0,
            id,
            schema: Arc::clone(&window.schema),
            origins: match settles {
                true => [input.origins, vec![Origin::Plain]].concat(),
                false => vec![Origin::Plain; place + 1],
            },
            updating: !settles,
        };
        match conjunction(others.into_iter().cloned()) {
            Some(rest) => self.keep(relation, &rest),
            None => Ok(relation),
        }
    }

    fn deduplicate(
        &mut self,
        input: &Relation,
        params: &WindowFunctionParams,
        settles: bool,
    ) -> Result<(usize, String)> {
        if params.partition_by.is_empty() {
            let message = "ROW_NUMBER() without PARTITION BY keeps one row of all";
            return Err(
                Error::new(code::SQL, message).hint("say of which columns it keeps one each")
            );
        }
        // Keys first, then the columns of the input, then what the order needs beside them.
        let columns = input.schema.columns();
        let mut exprs: Vec<Expr> = columns.into_iter().map(Expr::Column).collect();
        let given = exprs.len();
        let keys = params.partition_by.len();
        let mut order = Vec::new();
        for sort in &params.order_by {
            let known = exprs.iter().position(|known| known == unaliased(&sort.expr));
            let place = known.unwrap_or_else(|| {
                exprs.push(unaliased(&sort.expr).clone());
                exprs.len() - 1
            });
            let options = SortOptions { descending: !sort.asc, nulls_first: sort.nulls_first };
            order.push((keys + place, options));
        }
        let all: Vec<&Expr> = params.partition_by.iter().chain(&exprs).collect();
        // Names are for people alone, and need not differ.
        let fields = all.iter().map(|expr| {
            let name = match unaliased(expr) {
                Expr::Column(column) => column.name.clone(),
                other => other.to_string(),
            };
            let data_type = expr
                .get_type(&*input.schema)
                .map_err(|error| Error::internal("a key has no type").caused_by(error))?;
            Ok(Field::new(name, data_type, true))
        });
        let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?));
        let compiled = all.iter().map(|expr| compile(expr, &input.schema));
        let compiled = compiled.collect::<Result<Vec<_>>>()?;
        let text = format!("ranked {params:?} {}", input.id);
        let (stage, id) = self.forward(input, &text, calc(&schema, compiled));
        let operator = Deduplicate {
            input: Arc::clone(&schema),
            keys: (0..keys).collect(),
            settled: order.first().map(|(place, _)| *place).filter(|_| settles),
            order,
            groups: self.options.groups,
            ttl: self.options.state_ttl,
        };
        let by: Vec<String> = params.partition_by.iter().map(ToString::to_string).collect();
        self.unbounded(format!("ROW_NUMBER() = 1 keeps a row of each {}", by.join(", ")));
        let text = format!("deduplicate {settles} {id}");
        let (stage, id) = self.exchanged((stage, &schema), keys, &text, Arc::new(operator));
        let exprs = (keys..keys + given).map(|place| Arc::new(Place(place)) as Arc<dyn ScalarExpr>);
        let calc = calc(input.schema.inner(), exprs.collect());
        let id = self.id_of(&format!("columns of {id}"));
        self.stages[stage].operators.push((id.clone(), calc));
        Ok((stage, id))
    }
}

/// A condition on the columns of `plan` as one on those of its input, of which they are `exprs`.
fn below(condition: &Expr, plan: &LogicalPlan, exprs: &[Expr]) -> Result<Expr> {
    let schema = plan.schema();
    let moved = condition.clone().transform(|expr| {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        let place = schema.index_of_column(column)?;
        Ok(Transformed::new(unaliased(&exprs[place]).clone(), true, TreeNodeRecursion::Jump))
    });
    Ok(moved.map_err(|error| Error::internal("a plan names no column").caused_by(error))?.data)
}

/// The parameters of the one `ROW_NUMBER()` of a plan.
fn row_number(window: &Window) -> Result<&WindowFunctionParams> {
    match window.window_expr.as_slice() {
        [only] => match unaliased(only) {
            Expr::WindowFunction(function) if function.fun.name() == "row_number" => {
                Ok(&function.params)
            }
            other => Err(Error::new(
                code::SQL,
                format!("OVER is not supported in a stream yet: {other}"),
            )),
        },
        _ => {
            Err(Error::new(code::SQL, "several window functions are not supported in a stream yet"))
        }
    }
}

/// Whether a condition says that a row's number is 1.
fn is_first(condition: &Expr, number: &Column) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return false };
    let is_number = |expr: &Expr| matches!(expr, Expr::Column(column) if column == number);
    let literal = |expr: &Expr| match expr {
        Expr::Literal(ScalarValue::UInt64(Some(value)), _) => Some(*value),
        _ => None,
    };
    if is_number(left) {
        return matches!(
            (op, literal(right)),
            (Operator::Eq | Operator::LtEq, Some(1)) | (Operator::Lt, Some(2))
        );
    }
    is_number(right)
        && matches!(
            (op, literal(left)),
            (Operator::Eq | Operator::GtEq, Some(1)) | (Operator::Gt, Some(2))
        )
}
