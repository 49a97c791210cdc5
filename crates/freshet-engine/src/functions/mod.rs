//! SQL functions that users of other warehouses expect and DataFusion lacks, and SQL macros.

use datafusion::prelude::SessionContext;
use freshet_core::Result;
use freshet_project::SqlMacro;

/// A function as the reference lists it.
#[derive(Debug, Clone, Copy)]
pub struct FunctionInfo {
    /// Its name.
    pub name: &'static str,
    /// Other names of it.
    pub aliases: &'static [&'static str],
    /// How it is called, e.g. `safe_divide(a, b)`.
    pub usage: &'static str,
    /// What it gives, in a sentence.
    pub help: &'static str,
}

/// All functions that Freshet adds, by name.
pub fn functions() -> &'static [FunctionInfo] {
    &[]
}

/// Makes all of [`functions`] known to a session.
pub fn register(_ctx: &SessionContext) -> Result<()> {
    Ok(())
}

/// Replaces calls of `macros` in a query by their bodies, arguments put in.
///
/// SQL without such calls is returned as it is, to the byte.
pub fn expand_macros(sql: &str, _macros: &[SqlMacro]) -> Result<String> {
    Ok(sql.to_owned())
}
