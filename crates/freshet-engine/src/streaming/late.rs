//! Late rows of a job's operators on their way into their table.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use freshet_core::clock::Clock;
use freshet_core::rows::arrow_error;
use freshet_core::scalar::ScalarExpr;
use freshet_core::stream::StreamSink;
use freshet_core::{Error, Result};
use freshet_runtime::exchange::Partitioning;
use freshet_runtime::operators::{Calc, Columns};
use freshet_runtime::plan::{EdgePlan, SinkPlan, StageInput, StagePlan};
use freshet_runtime::task::late_schema;

use super::lower::Side;
use crate::late_rows;

/// Whose late rows they are, and where they go.
pub struct LateRows<'a> {
    /// The model.
    pub model: &'a str,
    /// The time of day.
    pub clock: &'a Arc<dyn Clock>,
    /// The sink of this name, which takes rows of [`late_rows::schema`].
    pub sink: &'a dyn Fn(&str) -> Arc<dyn StreamSink>,
    /// Microseconds between two commits.
    pub commit_interval: i64,
}

impl fmt::Debug for LateRows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LateRows").field("model", &self.model).finish_non_exhaustive()
    }
}

impl LateRows<'_> {
    /// Puts a stage behind each of `sides` that carries its rows into the table.
    pub fn add(&self, sides: &[Side], stages: &mut Vec<StagePlan>) {
        for side in sides {
            let (id, operator) = &stages[side.stage].operators[side.operator];
            // Both sides of a join have rows that are late.
            let id = format!("{id}/{}", side.port);
            let columns = Columns {
                schema: late_rows::schema(),
                exprs: vec![
                    Arc::new(Text(self.model.to_owned())),
                    Arc::new(Text(operator.name())),
                    Arc::new(Time(side.time)),
                    Arc::new(Time(side.schema.fields().len())),
                    Arc::new(Row { time: side.time }),
                    Arc::new(Now(Arc::clone(self.clock))),
                ],
            };
            let calc = Calc { condition: None, columns: Some(columns) };
            stages.push(StagePlan {
                id: format!("late rows of {id}"),
                parallelism: stages[side.stage].parallelism,
                input: StageInput::Edges(vec![EdgePlan {
                    from: side.stage,
                    operator: side.operator,
                    port: side.port,
                    input: 0,
                    partitioning: Partitioning::Forward,
                    schema: late_schema(&side.schema),
                }]),
                operators: vec![(format!("rows late for {id}"), Arc::new(calc))],
                sink: Some(SinkPlan {
                    id: format!("late rows {id}"),
                    sink: (self.sink)(&id),
                    commit_interval: self.commit_interval,
                }),
            });
        }
    }
}

/// The same text for all rows.
#[derive(Debug)]
struct Text(String);

impl ScalarExpr for Text {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let texts = std::iter::repeat_n(self.0.as_str(), batch.num_rows());
        Ok(Arc::new(StringViewArray::from_iter_values(texts)))
    }
}

/// A column of times, in UTC.
#[derive(Debug)]
struct Time(usize);

impl ScalarExpr for Time {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        // Times of streams are in UTC, whether their type says it or not.
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        cast(batch.column(self.0), &utc).map_err(arrow_error)
    }
}

/// The time of day.
#[derive(Debug)]
struct Now(Arc<dyn Clock>);

impl ScalarExpr for Now {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let now = TimestampMicrosecondArray::from_value(self.0.now_micros(), batch.num_rows());
        Ok(Arc::new(now.with_timezone("UTC")))
    }
}

/// The row that came late as a JSON object, without the watermark behind its columns.
#[derive(Debug)]
struct Row {
    /// The column of its time: of several columns with its name, the one that is kept.
    time: usize,
}

impl ScalarExpr for Row {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let columns = batch.num_columns() - 1;
        let schema = batch.schema();
        let mut names = BTreeSet::from([schema.field(self.time).name().as_str()]);
        // An operator may be given the same expression twice, as a key and as an argument.
        let kept: Vec<usize> = (0..columns)
            .filter(|place| *place == self.time || names.insert(schema.field(*place).name()))
            .collect();
        let rows = json_lines(&batch.project(&kept).map_err(arrow_error)?)?;
        Ok(Arc::new(StringViewArray::from_iter_values(rows)))
    }
}

/// Each row as a JSON object.
pub(super) fn json_lines(rows: &RecordBatch) -> Result<Vec<String>> {
    let mut text = Vec::new();
    let mut writer =
        WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut text);
    writer.write(rows).and_then(|()| writer.finish()).map_err(arrow_error)?;
    drop(writer);
    let text = String::from_utf8(text)
        .map_err(|error| Error::internal("JSON is not UTF-8").caused_by(error))?;
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.len() != rows.num_rows() {
        return Err(Error::internal("rows as JSON are not one a line"));
    }
    Ok(lines)
}
