//! The functions behind the table functions of windows.
//!
//! Those of tumbling windows are values of each row. Those of other windows, in which a row may be
//! several times, are signs that the lowering looks for: they have no value.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, IntervalUnit, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{DataFusionError, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::prelude::SessionContext;
use freshet_core::error::code;
use freshet_core::{Error, Result};
use freshet_runtime::operators::Windows;

/// The type of all times of streams.
pub const TIME: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// `window_time` is so much before a window's end: a millisecond, as in Flink.
pub const BEFORE_END: i64 = 1_000;

/// How many spans the functions take: size, step, offset.
const SPANS: usize = 3;

/// The table functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Windows one after another.
    Tumble,
    /// Windows that overlap.
    Hop,
    /// Windows that grow.
    Cumulate,
    /// Windows between pauses.
    Session,
}

impl Kind {
    /// The one of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Tumble, Self::Hop, Self::Cumulate, Self::Session]
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tumble => "tumble",
            Self::Hop => "hop",
            Self::Cumulate => "cumulate",
            Self::Session => "session",
        }
    }

    /// The function that says a bound (`start`, `end` or `time`) of a row's windows.
    pub fn function(self, bound: &str) -> String {
        format!("freshet_{}_{bound}", self.name())
    }

    /// How it is written.
    pub fn usage(self) -> &'static str {
        match self {
            Self::Tumble => "TABLE(TUMBLE(TABLE t, DESCRIPTOR(time), size [, offset]))",
            Self::Hop => "TABLE(HOP(TABLE t, DESCRIPTOR(time), slide, size [, offset]))",
            Self::Cumulate => "TABLE(CUMULATE(TABLE t, DESCRIPTOR(time), step, size [, offset]))",
            Self::Session => "TABLE(SESSION(TABLE t PARTITION BY key, DESCRIPTOR(time), gap))",
        }
    }

    /// The names of the arguments, in their order.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Tumble => &["DATA", "TIMECOL", "SIZE", "OFFSET"],
            Self::Hop => &["DATA", "TIMECOL", "SLIDE", "SIZE", "OFFSET"],
            Self::Cumulate => &["DATA", "TIMECOL", "STEP", "SIZE", "OFFSET"],
            Self::Session => &["DATA", "TIMECOL", "GAP"],
        }
    }

    /// How many of them must be given.
    pub fn needed(self) -> usize {
        match self {
            Self::Tumble | Self::Session => 3,
            Self::Hop | Self::Cumulate => 4,
        }
    }

    /// The spans in the order of the functions' arguments: size, step, offset.
    pub fn order(self, spans: Vec<String>) -> Vec<String> {
        let null = || "NULL".to_owned();
        match (self, spans.as_slice()) {
            (Self::Tumble, [size, offset]) => vec![size.clone(), null(), offset.clone()],
            (Self::Hop | Self::Cumulate, [step, size, offset]) => {
                vec![size.clone(), step.clone(), offset.clone()]
            }
            _ => vec![spans.first().cloned().unwrap_or_else(null), null(), null()],
        }
    }
}

/// Which bound of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// `window_start`.
    Start,
    /// `window_end`.
    End,
    /// `window_time`: the last instant in it.
    Time,
}

const BOUNDS: [(Bound, &str); 3] =
    [(Bound::Start, "start"), (Bound::End, "end"), (Bound::Time, "time")];

/// Makes the functions known to a session.
pub fn register(context: &SessionContext) {
    for kind in [Kind::Tumble, Kind::Hop, Kind::Cumulate, Kind::Session] {
        for (bound, name) in BOUNDS {
            // Signs stay where they are written: nothing may be computed of them before.
            let volatility = match kind {
                Kind::Tumble => Volatility::Immutable,
                Kind::Hop | Kind::Cumulate | Kind::Session => Volatility::Volatile,
            };
            context.register_udf(ScalarUDF::new_from_impl(WindowBound {
                name: kind.function(name),
                kind,
                bound,
                signature: Signature::user_defined(volatility),
            }));
        }
    }
}

/// A bound of windows in a statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Mention {
    /// Which bound.
    pub bound: Bound,
    /// The kind of window.
    pub kind: Kind,
    /// The windows; of sessions, the gap is their size.
    pub windows: Windows,
    /// The rows' time.
    pub time: Expr,
    /// The columns that have sessions of their own.
    pub partition: Vec<Expr>,
}

/// What an expression mentions, where it is one of the functions.
pub fn mention(expr: &Expr) -> Result<Option<Mention>> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return Ok(None) };
    let implementation: &dyn Any = func.inner().as_ref();
    let Some(WindowBound { kind, bound, .. }) = implementation.downcast_ref::<WindowBound>() else {
        return Ok(None);
    };
    let [time, size, step, offset, partition @ ..] = args.as_slice() else {
        return Err(Error::internal(format!("{} has {} arguments", func.name(), args.len())));
    };
    let span =
        |expr: &Expr| span(expr).map_err(|error| error.hint(format!("write {}", kind.usage())));
    let needed = |expr: &Expr, what: &str| {
        span(expr)?.ok_or_else(|| Error::new(code::SQL, format!("a window has no {what}")))
    };
    let offset = span(offset)?.unwrap_or(0);
    let windows = match kind {
        Kind::Tumble | Kind::Session => Windows::tumble(needed(size, "size")?, offset),
        Kind::Hop => Windows::hop(needed(size, "size")?, needed(step, "slide")?, offset),
        Kind::Cumulate => Windows::cumulate(needed(size, "size")?, needed(step, "step")?, offset),
    }?;
    let partition = partition.to_vec();
    Ok(Some(Mention { bound: *bound, kind: *kind, windows, time: time.clone(), partition }))
}

/// A span in microseconds; `None` for a null.
fn span(expr: &Expr) -> Result<Option<i64>> {
    let wrong = || Error::new(code::SQL, format!("{expr} is no span that is known when planning"));
    let Expr::Literal(value, _) = expr else { return Err(wrong()) };
    scalar_span(value).map_err(|_| wrong())
}

pub(super) fn scalar_span(
    value: &ScalarValue,
) -> std::result::Result<Option<i64>, DataFusionError> {
    if value.is_null() {
        return Ok(None);
    }
    let micros = match value {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months == 0 => {
            i128::from(interval.days) * 86_400_000_000 + i128::from(interval.nanoseconds) / 1_000
        }
        ScalarValue::IntervalDayTime(Some(interval)) => {
            i128::from(interval.days) * 86_400_000_000 + i128::from(interval.milliseconds) * 1_000
        }
        ScalarValue::DurationMicrosecond(Some(micros)) => i128::from(*micros),
        _ => return plan_err!("{value} has no fixed length"),
    };
    match i64::try_from(micros) {
        Ok(micros) => Ok(Some(micros)),
        Err(_) => plan_err!("{value} is too long"),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WindowBound {
    name: String,
    kind: Kind,
    bound: Bound,
    signature: Signature,
}

impl ScalarUDFImpl for WindowBound {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(
        &self,
        types: &[DataType],
    ) -> std::result::Result<Vec<DataType>, DataFusionError> {
        let [time, spans @ ..] = types else { return plan_err!("a window has no column of time") };
        // Behind the spans stand the columns that sessions are divided by.
        let (spans, partition) = spans.split_at(spans.len().min(SPANS));
        if !matches!(time, DataType::Timestamp(..) | DataType::Date32) {
            return plan_err!("the column of a window's time is of type {time}, not TIMESTAMP");
        }
        let interval = DataType::Interval(IntervalUnit::MonthDayNano);
        let spans = spans.iter().map(|_| interval.clone());
        Ok(std::iter::once(TIME).chain(spans).chain(partition.iter().cloned()).collect())
    }

    fn return_type(&self, _types: &[DataType]) -> std::result::Result<DataType, DataFusionError> {
        Ok(TIME)
    }

    fn invoke_with_args(
        &self,
        args: ScalarFunctionArgs,
    ) -> std::result::Result<ColumnarValue, DataFusionError> {
        if self.kind != Kind::Tumble {
            return exec_err!("a row is in several windows of {}", self.kind.name());
        }
        let rows = args.number_rows;
        let [time, size, _, offset] = args.args.as_slice() else {
            return exec_err!("a window has a time, a size, a step and an offset");
        };
        let span = |value: &ColumnarValue| match value {
            ColumnarValue::Scalar(value) => scalar_span(value),
            ColumnarValue::Array(_) => exec_err!("a window's size is the same for all rows"),
        };
        let (Some(size), offset) = (span(size)?, span(offset)?.unwrap_or(0)) else {
            return exec_err!("a window has no size");
        };
        if size <= 0 {
            return exec_err!("the size of a window is not above zero");
        }
        let time = time.to_array(rows)?;
        let start = |time: i64| (time - offset).div_euclid(size) * size + offset;
        let times = time.as_primitive::<TimestampMicrosecondType>();
        let bounds: TimestampMicrosecondArray = match self.bound {
            Bound::Start => times.unary(start),
            Bound::End => times.unary(|time| start(time) + size),
            Bound::Time => times.unary(|time| start(time) + size - BEFORE_END),
        };
        Ok(ColumnarValue::Array(Arc::new(bounds)))
    }
}
