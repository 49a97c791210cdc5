//! One implementation of DataFusion's trait for all scalar functions that the tables list.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{internal_err, plan_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::{FunctionInfo, PlanResult};

/// A scalar function.
#[derive(Debug)]
pub(super) struct Function {
    pub info: FunctionInfo,
    /// Fewest and most arguments.
    pub arity: (usize, usize),
    /// The types to which arguments of given types are cast.
    pub coerce: fn(&[DataType]) -> PlanResult<Vec<DataType>>,
    /// The type of the result, from arguments that were cast.
    pub returns: fn(&ReturnFieldArgs<'_>) -> PlanResult<DataType>,
    pub body: Body,
}

/// What a function does.
#[derive(Debug)]
pub(super) enum Body {
    /// It is another expression. The types are those of the arguments.
    Rewrite(fn(Vec<Expr>, &[DataType]) -> PlanResult<Expr>),
    /// Arrays of equal length in, one out; the type is the result's.
    Kernel(fn(&[ArrayRef], &DataType) -> PlanResult<ArrayRef>),
}

/// The function as DataFusion takes it.
pub(super) fn udf(function: &'static Function) -> ScalarUDF {
    ScalarUDF::new_from_impl(Udf {
        function,
        aliases: function.info.aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug)]
struct Udf {
    function: &'static Function,
    aliases: Vec<String>,
    signature: Signature,
}

// A name is listed once, and says everything.
impl PartialEq for Udf {
    fn eq(&self, other: &Self) -> bool {
        self.function.info.name == other.function.info.name
    }
}

impl Eq for Udf {}

impl Hash for Udf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.function.info.name.hash(state);
    }
}

impl ScalarUDFImpl for Udf {
    fn name(&self) -> &str {
        self.function.info.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> PlanResult<Vec<DataType>> {
        let (least, most) = self.function.arity;
        if types.len() < least || types.len() > most {
            return plan_err!("wrong number of arguments: write {}", self.function.info.usage);
        }
        (self.function.coerce)(types)
    }

    fn return_type(&self, _: &[DataType]) -> PlanResult<DataType> {
        internal_err!("return_field_from_args is to be called")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> PlanResult<FieldRef> {
        let data_type = (self.function.returns)(&args)?;
        Ok(Arc::new(Field::new(self.name(), data_type, true)))
    }

    fn simplify(
        &self,
        args: Vec<Expr>,
        context: &SimplifyContext,
    ) -> PlanResult<ExprSimplifyResult> {
        match self.function.body {
            Body::Kernel(_) => Ok(ExprSimplifyResult::Original(args)),
            Body::Rewrite(rewrite) => {
                let types = args
                    .iter()
                    .map(|arg| context.get_data_type(arg))
                    .collect::<PlanResult<Vec<_>>>()?;
                Ok(ExprSimplifyResult::Simplified(rewrite(args, &types)?))
            }
        }
    }

    fn short_circuits(&self) -> bool {
        // What a function is rewritten to may leave an argument unevaluated.
        matches!(self.function.body, Body::Rewrite(_))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> PlanResult<ColumnarValue> {
        let Body::Kernel(kernel) = self.function.body else {
            return internal_err!("{} is rewritten before it runs", self.name());
        };
        let all_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let data_type = args.return_field.data_type();
        if all_scalar {
            let arrays =
                args.args.iter().map(|arg| arg.to_array(1)).collect::<PlanResult<Vec<_>>>()?;
            let result = kernel(&arrays, data_type)?;
            return Ok(ColumnarValue::Scalar(datafusion::scalar::ScalarValue::try_from_array(
                &result, 0,
            )?));
        }
        let arrays = args
            .args
            .iter()
            .map(|arg| arg.to_array(args.number_rows))
            .collect::<PlanResult<Vec<_>>>()?;
        Ok(ColumnarValue::Array(kernel(&arrays, data_type)?))
    }
}

/// Arguments as they are.
pub(super) fn as_given(types: &[DataType]) -> PlanResult<Vec<DataType>> {
    Ok(types.to_vec())
}

/// All arguments as text.
pub(super) fn all_text(types: &[DataType]) -> PlanResult<Vec<DataType>> {
    Ok(vec![DataType::Utf8View; types.len()])
}

/// The type of the argument at `index`; text where it is an untyped null.
pub(super) fn argument_type(args: &ReturnFieldArgs<'_>, index: usize) -> PlanResult<DataType> {
    match args.arg_fields.get(index) {
        Some(field) => Ok(field.data_type().clone()),
        None => internal_err!("a function lacks an argument"),
    }
}
