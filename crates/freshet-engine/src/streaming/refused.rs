//! Rows that a sink's target can never hold: they become dead letters in front of the sink.

use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::datatypes::SchemaRef;
use chrono::DateTime;
use freshet_core::clock::Clock;
use freshet_core::rows::Rows;
use freshet_core::stream::{Refused, StreamSink};
use freshet_core::{ModelId, Result, RunId};
use freshet_runtime::operator::{Counts, Flow, Operator, OperatorContext, OperatorSpec, Out, Port};

use super::late::json_lines;
use super::sinks::named;
use crate::dead_letters;
use crate::report::DeadLetter;

/// The output that carries the dead letters.
pub(super) const REFUSED: Port = 4;

/// The rule that they broke, as their table names it.
const RULE: &str = "refused";

/// Asks a sink which rows it can take.
#[derive(Debug, Clone)]
pub(super) struct Refusing {
    pub sink: Arc<dyn StreamSink>,
    /// The columns of the rows, under the names of the result.
    pub schema: SchemaRef,
    pub model: ModelId,
}

impl OperatorSpec for Refusing {
    fn name(&self) -> String {
        format!("what {} can hold", self.sink.target())
    }

    fn create(&self, context: &OperatorContext) -> Result<Box<dyn Operator>> {
        let clock = Arc::clone(&context.clock);
        Ok(Box::new(Running { spec: self.clone(), clock, refused: 0 }))
    }
}

#[derive(Debug)]
struct Running {
    spec: Refusing,
    clock: Arc<dyn Clock>,
    refused: u64,
}

impl Operator for Running {
    fn on_rows(&mut self, _input: usize, rows: Rows, out: &mut Out<'_>) -> Result<Flow> {
        let rows = named(rows, &self.spec.schema)?;
        let refused = self.spec.sink.refuses(&rows)?;
        if refused.is_empty() {
            out.rows(rows)?;
            return Ok(Flow::Done);
        }
        self.refused += refused.len() as u64;
        let letters = self.letters(&rows, &refused)?;
        out.side(REFUSED, Rows::inserts(letters))?;
        let mut keep = vec![true; rows.len()];
        refused.iter().for_each(|refused| keep[refused.row] = false);
        out.rows(rows.filter(&BooleanArray::from(keep))?)?;
        Ok(Flow::Done)
    }

    fn counts(&self) -> Counts {
        Counts { filtered: self.refused, ..Counts::default() }
    }
}

impl Running {
    /// One of each row that would be added; what takes a row back that was refused means nothing.
    fn letters(&self, rows: &Rows, refused: &[Refused]) -> Result<arrow::array::RecordBatch> {
        let added: Vec<&Refused> =
            refused.iter().filter(|refused| rows.kind(refused.row).adds()).collect();
        let places: Vec<u32> = added.iter().map(|refused| refused.row as u32).collect();
        let target = self.spec.sink.target();
        let at = DateTime::from_timestamp_micros(self.clock.now_micros()).unwrap_or_default();
        let shown = json_lines(rows.take(&places)?.batch())?;
        let letters = added.into_iter().zip(shown).map(|(refused, row)| {
            let place = format!("{target}:{row}");
            DeadLetter {
                id: blake3::hash(place.as_bytes()).to_hex()[..16].to_owned(),
                run: RunId::from("stream"),
                model: self.spec.model.clone(),
                source: target.clone(),
                file: None,
                digest: None,
                size: None,
                line: None,
                offset: None,
                column: Some(refused.column.clone()),
                rule: RULE.to_owned(),
                message: refused.reason.clone(),
                raw: row.into_bytes(),
                at,
            }
        });
        dead_letters::to_batch(&letters.collect::<Vec<_>>())
    }
}
