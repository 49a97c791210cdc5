//! Aggregate functions of SQL as the runtime has them.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use freshet_core::error::code;
use freshet_core::{Error, Result};
use freshet_runtime::aggregate::{AggregateSpec, Average, Count, Extreme, Side, Sum};

/// An aggregate function's call: what it computes of which expressions.
#[derive(Debug)]
pub struct Call<'a> {
    name: &'a str,
    argument: Option<&'a Expr>,
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
        if *distinct {
            return unsupported("DISTINCT");
        }
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
        Ok(Self { name, argument, filter: filter.as_deref() })
    }

    /// The argument, where it has one.
    pub fn argument(&self) -> Option<&'a Expr> {
        self.argument
    }

    /// The function over the columns that its expressions were computed into.
    pub fn spec(
        &self,
        argument: Option<(usize, DataType)>,
        filter: Option<usize>,
        output: &DataType,
    ) -> Result<Arc<dyn AggregateSpec>> {
        let (column, input) = match (self.name, argument) {
            ("count", None) => return Ok(Arc::new(Count::rows().filtered(filter))),
            ("count", Some((column, _))) => {
                return Ok(Arc::new(Count::column(column).filtered(filter)));
            }
            (_, Some(argument)) => argument,
            (name, None) => return Err(Error::new(code::SQL, format!("{name} has no argument"))),
        };
        Ok(match self.name {
            "sum" => Arc::new(Sum::new(column, input, output.clone())?.filtered(filter)),
            "avg" => Arc::new(Average::new(column, input, output.clone())?.filtered(filter)),
            "min" => Arc::new(Extreme::new(Side::Least, column, input)?.filtered(filter)),
            _ => Arc::new(Extreme::new(Side::Greatest, column, input)?.filtered(filter)),
        })
    }
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}
