//! Where rows stand in an order, as bytes that compare like them.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::error::Result as DfResult;
use datafusion::physical_expr::LexOrdering;

/// Where rows stand in the order, as bytes that compare like them.
pub struct Positions {
    order: LexOrdering,
    converter: RowConverter,
}

impl Positions {
    /// Positions in `order` of rows with `schema`.
    pub fn new(order: LexOrdering, schema: &Schema) -> DfResult<Self> {
        let fields = order
            .iter()
            .map(|sort| Ok(SortField::new_with_options(sort.expr.data_type(schema)?, sort.options)))
            .collect::<DfResult<Vec<_>>>()?;
        Ok(Self { order, converter: RowConverter::new(fields)? })
    }

    /// The positions of a batch's rows.
    pub fn of(&self, batch: &RecordBatch) -> DfResult<Rows> {
        let columns = self
            .order
            .iter()
            .map(|sort| sort.expr.evaluate(batch)?.into_array(batch.num_rows()))
            .collect::<DfResult<Vec<_>>>()?;
        Ok(self.converter.convert_columns(&columns)?)
    }
}
