//! Rows into files for others: Parquet, CSV or NDJSON, in folders by partition.

use freshet_core::Result;

use super::{DataFile, ExportTarget, NewRows};

/// Writes rows to files. Each file becomes visible whole.
pub async fn export(rows: NewRows, target: &ExportTarget) -> Result<Vec<DataFile>> {
    let _ = (rows, target);
    Err(freshet_core::Error::internal("exports are not built yet"))
}
