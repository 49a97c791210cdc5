//! `JOIN t FOR SYSTEM_TIME AS OF time ON condition`: the condition of such a join is wrapped into a
//! function of the time and itself, which the lowering looks for. It has no value.

use std::any::Any;

use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, exec_err, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::prelude::SessionContext;

use super::windows::TIME;

/// The function's name.
pub const AS_OF: &str = "freshet_as_of";

/// Makes the function known to a session.
pub fn register(context: &SessionContext) {
    // It stays where it is written: nothing may be taken out of it.
    let signature = Signature::user_defined(Volatility::Volatile);
    context.register_udf(ScalarUDF::new_from_impl(AsOf { signature }));
}

/// The time and the condition of a temporal join, where an expression is one's.
pub fn mention(expr: &Expr) -> Option<(&Expr, &Expr)> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    let implementation: &dyn Any = func.inner().as_ref();
    implementation.downcast_ref::<AsOf>()?;
    match args.as_slice() {
        [time, condition] => Some((time, condition)),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AsOf {
    signature: Signature,
}

impl ScalarUDFImpl for AsOf {
    fn name(&self) -> &str {
        AS_OF
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        match types {
            [DataType::Timestamp(..), DataType::Boolean] => Ok(vec![TIME, DataType::Boolean]),
            [time, DataType::Boolean] => {
                plan_err!("FOR SYSTEM_TIME AS OF takes a TIMESTAMP, not {time}")
            }
            _ => plan_err!("FOR SYSTEM_TIME AS OF takes a time, and ON a condition"),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(
        &self,
        _args: ScalarFunctionArgs,
    ) -> Result<ColumnarValue, DataFusionError> {
        exec_err!("FOR SYSTEM_TIME AS OF stands in a stream's join alone")
    }
}
