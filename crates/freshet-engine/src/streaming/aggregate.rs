//! Aggregate functions of SQL as the runtime has them.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use freshet_core::error::code;
use freshet_core::{Error, Result};
use freshet_runtime::aggregate::{
    AggregateSpec, Average, Count, Distinct, Extreme, RetractableExtreme, Side, Sum,
};

/// An aggregate function's call: what it computes of which expressions.
#[derive(Debug)]
pub struct Call<'a> {
    name: &'a str,
    argument: Option<&'a Expr>,
    distinct: bool,
    /// The rows that count.
    pub filter: Option<&'a Expr>,
}

impl<'a> Call<'a> {
    /// Reads a call.
    pub fn read(expr: &'a Expr) -> Result<Self> {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = unaliased(expr) else {
            return Err(Error::internal(format!("{expr} is no aggregate function")));
        };
        let AggregateFunctionParams { args, distinct, filter, order_by, null_treatment } = params;
        let unsupported = |what: &str| {
            Err(Error::new(code::SQL, format!("{what} is not supported in a stream: {expr}")))
        };
        if !order_by.is_empty() || null_treatment.is_some() {
            return unsupported("an order within an aggregate");
        }
        let name = func.name();
        if !matches!(name, "count" | "sum" | "avg" | "min" | "max") {
            return unsupported(&format!("aggregate function \"{name}\""));
        }
        let argument = match args.as_slice() {
            [] => None,
            // COUNT(*) is COUNT(1) by now.
            [Expr::Literal(value, _)] if name == "count" && !value.is_null() => None,
            [one] => Some(one),
            _ => return unsupported("more than one argument"),
        };
        Ok(Self { name, argument, distinct: *distinct, filter: filter.as_deref() })
    }

    /// The argument, where it has one.
    pub fn argument(&self) -> Option<&'a Expr> {
        self.argument
    }

    /// The function over the columns that its expressions were computed into; `retracted` where rows
    /// may be taken back.
    pub fn spec(
        &self,
        argument: Option<(usize, DataType)>,
        filter: Option<usize>,
        output: &DataType,
        retracted: bool,
    ) -> Result<Arc<dyn AggregateSpec>> {
        let (column, input) = match (self.name, argument) {
            ("count", None) => return Ok(Arc::new(Count::rows().filtered(filter))),
            (_, Some(argument)) => argument,
            (name, None) => return Err(Error::new(code::SQL, format!("{name} has no argument"))),
        };
        let side = if self.name == "min" { Side::Least } else { Side::Greatest };
        let of_rows: Arc<dyn AggregateSpec> = match self.name {
            "count" => Arc::new(Count::column(column).filtered(filter)),
            "sum" => Arc::new(Sum::new(column, input, output.clone())?.filtered(filter)),
            "avg" => Arc::new(Average::new(column, input, output.clone())?.filtered(filter)),
            // Equal values change nothing: DISTINCT or not.
            _ if retracted => {
                return Ok(Arc::new(
                    RetractableExtreme::new(side, column, input)?.filtered(filter),
                ));
            }
            _ => return Ok(Arc::new(Extreme::new(side, column, input)?.filtered(filter))),
        };
        Ok(if self.distinct { Arc::new(Distinct::new(of_rows)) } else { of_rows })
    }
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}
