//! Seeds: small CSV files of the project, with types as declared or as their values show.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use freshet_core::config::{HumanDuration, Share};
use freshet_core::error::code;
use freshet_core::registry::SourceSpec;
use freshet_core::source::{Extent, Overlay, Purpose, SplitRequest, SplitStatus};
use freshet_core::{Contract, Error, Location, Result, ResultExt};
use freshet_project::Node;
use futures::TryStreamExt;
use serde_json::json;

use super::Build;
use super::execute::Planned;
use super::shape::shape;
use crate::engine::Engine;
use crate::lake::StageMode;
use crate::session::{BATCH_ROWS, query_error};

impl Build<'_> {
    /// The plan that gives the seed's rows.
    pub(super) async fn plan_seed(&self, context: &SessionContext) -> Result<Planned> {
        let plan = self.physical(self.engine.seed(context, self.node).await?).await?;
        Ok(Planned { plans: vec![plan], mode: StageMode::Overwrite, within: None })
    }
}

impl Engine {
    /// A seed's rows with their types.
    pub(crate) async fn seed(&self, context: &SessionContext, node: &Node) -> Result<DataFrame> {
        let typed = infer(&self.read_seed(node).await?)?;
        let table = MemTable::try_new(typed.schema(), vec![vec![typed]])
            .map_err(|error| query_error(error, || "could not hold a seed".to_owned()))?;
        let frame = context
            .read_table(Arc::new(table))
            .map_err(|error| query_error(error, || "could not read a seed".to_owned()))?;
        shape(frame, node)
    }

    /// Reads the seed's file as text. A bad record is an error here: the file is part of the
    /// project.
    async fn read_seed(&self, node: &Node) -> Result<RecordBatch> {
        let file = node.path.display().to_string();
        let path = self.project().dir.join(&node.path);
        let path = std::path::absolute(&path)
            .or_code(code::IO, || format!("could not find seed \"{file}\""))?;
        let options = json!({ "path": path, "format": "csv" });
        let spec = SourceSpec {
            name: node.id.to_string(),
            contract: Arc::new(Contract::default()),
            max_bad: Share(1.0),
            settle: HumanDuration(std::time::Duration::ZERO),
        };
        let connector = self.registry().get("files")?;
        let source = connector.source(&options, spec, &self.connector_context(None)?)?;
        let requests: Vec<SplitRequest> = source
            .splits()
            .await?
            .into_iter()
            .map(|split| SplitRequest { split, extent: Extent::Whole })
            .collect();
        let scan = source.plan(requests, Arc::new(Overlay::default())).await?;
        // The last columns are the file's name and offsets, which a seed has no use for.
        let width = scan.schema().fields().len().saturating_sub(2);
        let projection: Vec<usize> = (0..width).collect();
        let running = scan.start(&projection, BATCH_ROWS, Purpose::Build)?;
        let batches: Vec<RecordBatch> = running.worker().try_collect().await?;
        for split in running.report().splits {
            if let Some(reject) = split.rejects.first() {
                let line = u32::try_from(reject.line).unwrap_or(0);
                return Err(Error::new(
                    code::CONFIG,
                    format!("seed \"{}\" has a bad record: {}", node.id, reject.message),
                )
                .at(Location::line(file, line))
                .hint("mend the line; a seed is part of the project"));
            }
            if split.status != SplitStatus::Read {
                let error =
                    Error::new(code::CONFIG, format!("could not read seed \"{}\"", node.id))
                        .at(Location::file(file));
                return Err(match split.error {
                    Some(cause) => error.caused_by(cause.chain()),
                    None => error.hint("the file is empty"),
                });
            }
        }
        let schema = Arc::new(
            scan.schema()
                .project(&projection)
                .or_code(code::INTERNAL, || "a seed has no columns".to_owned())?,
        );
        concat_batches(&schema, &batches)
            .or_code(code::INTERNAL, || "could not join a seed's rows".to_owned())
    }
}

/// Gives each text column the first type that all of its values are of.
fn infer(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let column = narrow(column);
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .or_code(code::INTERNAL, || "could not give a seed its types".to_owned())
}

fn narrow(column: &ArrayRef) -> ArrayRef {
    let text = match arrow::compute::cast(column, &DataType::Utf8) {
        Ok(text) if column.null_count() < column.len() => text,
        _ => return Arc::clone(column),
    };
    let text = text.as_string::<i32>();
    let values = || text.iter().flatten();
    // A code such as "007" is text: as a number it would lose its zeros.
    let padded = values().any(|value| {
        let digits = value.strip_prefix('-').unwrap_or(value);
        digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.")
    });
    if values().all(|value| matches!(value, "true" | "false" | "True" | "False" | "TRUE" | "FALSE"))
    {
        return try_cast(column, &DataType::Boolean).unwrap_or_else(|| Arc::clone(column));
    }
    let numbers: &[DataType] = if padded { &[] } else { &[DataType::Int64, DataType::Float64] };
    let times = [DataType::Date32, DataType::Timestamp(TimeUnit::Microsecond, None)];
    let looks_like_time = values().all(|value| value.contains('-') || value.contains(':'));
    let candidates = numbers.iter().chain(times.iter().filter(|_| looks_like_time));
    for candidate in candidates {
        // A cast to a date takes a timestamp too, and drops its time of day.
        if *candidate == DataType::Date32 && values().any(|value| value.contains(':')) {
            continue;
        }
        if let Some(typed) = try_cast(column, candidate) {
            return typed;
        }
    }
    Arc::clone(column)
}

/// The column in another type, if that loses no value.
fn try_cast(column: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let cast = cast_with_options(column, to, &options).ok()?;
    (cast.null_count() == column.null_count()).then_some(cast)
}

#[cfg(test)]
mod tests {
    use arrow::array::StringViewArray;

    use super::*;

    fn inferred(values: &[Option<&str>]) -> DataType {
        let column: ArrayRef = Arc::new(values.iter().copied().collect::<StringViewArray>());
        narrow(&column).data_type().clone()
    }

    #[test]
    fn a_seed_column_takes_the_narrowest_type_of_all_its_values() {
        assert_eq!(inferred(&[Some("1"), None, Some("-20")]), DataType::Int64);
        assert_eq!(inferred(&[Some("1"), Some("2.5")]), DataType::Float64);
        assert_eq!(inferred(&[Some("2026-01-31")]), DataType::Date32);
        assert_eq!(
            inferred(&[Some("2026-01-31 10:00:00")]),
            DataType::Timestamp(TimeUnit::Microsecond, None)
        );
        assert_eq!(inferred(&[Some("true"), Some("false")]), DataType::Boolean);
    }

    #[test]
    fn codes_with_leading_zeros_and_empty_columns_stay_text() {
        assert_eq!(inferred(&[Some("007"), Some("8")]), DataType::Utf8View);
        assert_eq!(inferred(&[None, None]), DataType::Utf8View);
        assert_eq!(inferred(&[Some("0.5"), Some("0")]), DataType::Float64);
    }
}
