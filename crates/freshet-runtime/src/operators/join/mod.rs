//! Joins: two inputs, each divided by the columns that are to be equal.
//!
//! [`Join`] keeps all rows of both sides and is exact for changelogs; [`WindowJoin`] forgets them with
//! their window, [`IntervalJoin`] once no partner can come any more; [`TemporalJoin`] keeps the versions
//! of a table that somebody may still ask for. A key one of whose columns is null equals nothing.

mod interval;
mod progress;
mod regular;
mod sides;
mod temporal;
#[cfg(test)]
mod testing;
mod window;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use freshet_core::rows::{RowKind, Rows, arrow_error};
use freshet_core::scalar::ScalarExpr;
use freshet_core::{Error, Result, error::code};

pub use interval::IntervalJoin;
pub use regular::Join;
pub use temporal::TemporalJoin;
pub use window::WindowJoin;

/// Rows of a batch that a join gives, and candidates that a condition is evaluated over at once.
const BATCH_ROWS: usize = 8192;

/// Rows that a call gives at most, before it says that there is more: about.
const CALL_ROWS: usize = 4 * BATCH_ROWS;

/// The side of input 0.
const LEFT: usize = 0;

/// The side of input 1.
const RIGHT: usize = 1;

/// Which rows a join gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JoinKind {
    /// Each pair that matches.
    Inner,
    /// And left rows that match nothing, with nulls.
    Left,
    /// And right rows that match nothing, with nulls.
    Right,
    /// And rows of either side that match nothing, with nulls.
    Full,
    /// Left rows that match something, once, without columns of the right side.
    LeftSemi,
    /// Left rows that match nothing, without columns of the right side.
    LeftAnti,
}

impl JoinKind {
    /// Whether rows of side `side` that match nothing are given with nulls.
    fn pads(self, side: usize) -> bool {
        match self {
            Self::Left => side == LEFT,
            Self::Right => side != LEFT,
            Self::Full => true,
            Self::Inner | Self::LeftSemi | Self::LeftAnti => false,
        }
    }

    /// Whether left rows alone are given.
    fn is_left_alone(self) -> bool {
        matches!(self, Self::LeftSemi | Self::LeftAnti)
    }

    /// The columns that a join of these sides gives: left, then right ones.
    pub fn schema(self, left: &Schema, right: &Schema) -> SchemaRef {
        if self.is_left_alone() {
            return Arc::new(Schema::new(left.fields().clone()));
        }
        let padded = |schema: &Schema, is_padded: bool| -> Vec<Field> {
            let fields = schema.fields().iter();
            let field = |field: &Arc<Field>| {
                let field = field.as_ref().clone();
                let nullable = is_padded || field.is_nullable();
                field.with_nullable(nullable)
            };
            fields.map(field).collect()
        };
        let left = padded(left, self.pads(1 - LEFT));
        let right = padded(right, self.pads(LEFT));
        Arc::new(Schema::new([left, right].concat()))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Inner => "inner",
            Self::Left => "left",
            Self::Right => "right",
            Self::Full => "full",
            Self::LeftSemi => "left semi",
            Self::LeftAnti => "left anti",
        }
    }
}

/// What a join does with two rows whose keys are equal: whether they match, and what they give.
#[derive(Debug, Clone)]
struct Pairing {
    kind: JoinKind,
    /// What is evaluated: left columns, then right ones, all nullable where a join may pad them.
    joined: SchemaRef,
    given: SchemaRef,
    residual: Option<Arc<dyn ScalarExpr>>,
}

impl Pairing {
    fn new(
        kind: JoinKind,
        left: &Schema,
        right: &Schema,
        residual: Option<Arc<dyn ScalarExpr>>,
    ) -> Self {
        let given = kind.schema(left, right);
        let joined = match kind.is_left_alone() {
            true => JoinKind::Inner.schema(left, right),
            false => Arc::clone(&given),
        };
        Self { kind, joined, given, residual }
    }

    /// Columns of both sides, `own` those of side `side`, as a batch of `rows` rows.
    fn join(
        &self,
        side: usize,
        own: Vec<ArrayRef>,
        other: Vec<ArrayRef>,
        rows: usize,
    ) -> Result<RecordBatch> {
        let columns = if side == LEFT { [own, other] } else { [other, own] }.concat();
        batch_of(&self.joined, columns, rows)
    }

    /// Which rows of a joined batch match; `None` where all do.
    fn matches(&self, joined: &RecordBatch) -> Result<Option<BooleanArray>> {
        let Some(residual) = &self.residual else { return Ok(None) };
        let matches = residual.evaluate(joined)?;
        let DataType::Boolean = matches.data_type() else {
            let of = matches.data_type();
            return Err(Error::internal(format!("a join's condition is of type {of}")));
        };
        let matches = matches.as_boolean();
        Ok(Some(match matches.nulls() {
            None => matches.clone(),
            Some(nulls) => BooleanArray::new(matches.values() & nulls.inner(), None),
        }))
    }
}

/// The times of a batch's rows, each of which has one.
fn times_of(batch: &RecordBatch, column: usize) -> Result<&[i64]> {
    let times = batch.column(column).as_primitive::<TimestampMicrosecondType>();
    if times.null_count() > 0 {
        return Err(Error::new(code::EXECUTION, "a row has no time to join it by")
            .hint("declare the column as required, or filter rows without it"));
    }
    Ok(times.values())
}

/// Rows that are all inserts: others are planned to come to no join of this kind.
fn only_inserts(rows: &Rows, join: &str) -> Result<()> {
    match rows.kinds() {
        None => Ok(()),
        Some(_) => Err(Error::internal(format!("rows are taken back from {join}"))),
    }
}

fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(arrow_error)
}

/// Rows of one kind each, as additions and removals: the halves of an update need not stay together.
fn changes(batch: RecordBatch, adds: &[bool]) -> Rows {
    if adds.iter().all(|adds| *adds) {
        return Rows::inserts(batch);
    }
    let kinds = adds.iter().map(|adds| if *adds { RowKind::Insert } else { RowKind::Delete });
    Rows::changes(batch, kinds.collect())
}
