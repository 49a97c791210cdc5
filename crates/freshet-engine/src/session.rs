//! Sessions of DataFusion: one runtime (memory, disk) for the process, one context a query.

use std::path::Path;
use std::sync::Arc;

use datafusion::catalog::{MemoryCatalogProvider, MemorySchemaProvider, TableProvider};
use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::TrackConsumersPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::sqlparser::parser::ParserError;
use freshet_core::config::ByteSize;
use freshet_core::error::code;
use freshet_core::{Error, Result, ResultExt};

use crate::deduplicate;
use crate::memory::SharedPool;
use crate::semi_join;

/// The catalog in which everything of a project is found.
pub const CATALOG: &str = "freshet";

/// Rows of a batch.
pub const BATCH_ROWS: usize = 8192;

/// The consumers that an out-of-memory error names.
const CONSUMERS_NAMED: std::num::NonZeroUsize = std::num::NonZeroUsize::new(3).expect("not zero");

/// Memory and disk shared by all queries of the process.
#[derive(Debug, Clone)]
pub struct Sessions {
    runtime: Arc<RuntimeEnv>,
    threads: usize,
    schema: String,
}

impl Sessions {
    /// Queries share `memory` and spill into `temp_dir`, or where there is none into the system's
    /// folder for such files, in which nothing is made before it is needed; `schema` is where bare
    /// names are looked up.
    pub fn new(
        memory: ByteSize,
        temp_dir: Option<&Path>,
        threads: usize,
        schema: &str,
    ) -> Result<Self> {
        let pool = TrackConsumersPool::new(SharedPool::new(memory.as_usize()), CONSUMERS_NAMED);
        let mode = match temp_dir {
            Some(folder) => DiskManagerMode::Directories(vec![folder.to_path_buf()]),
            None => DiskManagerMode::OsTmpDirectory,
        };
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(mode))
            .build_arc()
            .or_code(code::IO, || {
                let folder = temp_dir.map(|folder| format!(" in \"{}\"", folder.display()));
                format!("could not make temporary files{}", folder.unwrap_or_default())
            })?;
        Ok(Self { runtime, threads: threads.max(1), schema: schema.to_owned() })
    }

    /// Threads that a query uses.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The shared runtime.
    pub fn runtime(&self) -> &Arc<RuntimeEnv> {
        &self.runtime
    }

    /// A context without tables.
    pub fn context(&self) -> SessionContext {
        let mut config = SessionConfig::new()
            .with_batch_size(BATCH_ROWS)
            .with_target_partitions(self.threads)
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema(CATALOG, &self.schema)
            .with_information_schema(true);
        let options = config.options_mut();
        // Timestamps are microseconds everywhere, as Delta has them.
        options.execution.time_zone = Some("UTC".into());
        // `0.908` is what it says, as in Postgres and DuckDB: a stream and a batch agree to the last digit.
        options.sql_parser.parse_float_as_decimal = true;
        options.execution.parquet.pushdown_filters = true;
        options.execution.parquet.reorder_filters = true;
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(Arc::clone(&self.runtime))
            .with_default_features()
            .with_optimizer_rules(optimizer_rules())
            .with_query_planner(Arc::new(deduplicate::Planner))
            .build();
        let context = SessionContext::new_with_state(state);
        let catalog = MemoryCatalogProvider::new();
        context.register_catalog(CATALOG, Arc::new(catalog));
        ensure_schema(&context, &self.schema);
        context
    }
}

/// DataFusion's rules, with ours where they find what they look for: predicates are pushed down to the
/// operators that they are about, and no projection is put between the two yet.
fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = Optimizer::new().rules;
    let behind = rules.iter().position(|rule| rule.name() == "push_down_filter");
    let at = behind.map_or(0, |rule| rule + 1);
    rules.insert(at, Arc::new(deduplicate::Rule));
    rules.insert(at + 1, Arc::new(semi_join::Rule));
    rules
}

/// Registers `table` as `schema.name`, making the schema where there is none.
pub fn register(
    context: &SessionContext,
    schema: &str,
    name: &str,
    table: Arc<dyn TableProvider>,
) -> Result<()> {
    ensure_schema(context, schema);
    context.register_table(TableReference::full(CATALOG, schema, name), table).map_err(
        |error| Error::internal(format!("could not register table \"{name}\"")).caused_by(error),
    )?;
    Ok(())
}

fn ensure_schema(context: &SessionContext, schema: &str) {
    let catalog = context.catalog(CATALOG).expect("the catalog is registered with the context");
    if catalog.schema(schema).is_none() {
        catalog
            .register_schema(schema, Arc::new(MemorySchemaProvider::new()))
            .expect("a catalog in memory takes any schema");
    }
}

/// Our error for one of DataFusion's: ours again where it came from a source or sink, SQL errors
/// as the user's, the rest as failures of execution.
pub fn query_error(error: DataFusionError, what: impl FnOnce() -> String) -> Error {
    match find_ours(error) {
        Ok(ours) => ours,
        Err(error) => {
            let code = match error.find_root() {
                DataFusionError::SQL(..)
                | DataFusionError::Plan(_)
                | DataFusionError::SchemaError(..)
                | DataFusionError::NotImplemented(_) => code::SQL,
                DataFusionError::ResourcesExhausted(_) => code::LIMIT,
                DataFusionError::Internal(_) => code::INTERNAL,
                _ => code::EXECUTION,
            };
            let wrapped = Error::new(code, what());
            let cause = flatten(&error);
            let wrapped = if code == code::LIMIT {
                wrapped.hint("raise `memory_limit` of the environment in freshet.yml")
            } else if cause.starts_with("Cast error") {
                wrapped.hint("`try_cast` gives null where a value cannot be converted")
            } else {
                wrapped
            };
            wrapped.caused_by(cause)
        }
    }
}

/// DataFusion's message without its chain of prefixes ("External error: …", "Context: …"), and
/// without the Rust around a parser's.
fn flatten(error: &DataFusionError) -> String {
    let text = match error.find_root() {
        DataFusionError::SQL(parser, _) => match parser.as_ref() {
            ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
                message.clone()
            }
            ParserError::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
        },
        root => root.strip_backtrace(),
    };
    let prefixes = ["Arrow error: ", "Error during planning: ", "Execution error: "];
    prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(&text).to_owned()
}

fn find_ours(error: DataFusionError) -> std::result::Result<Error, DataFusionError> {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => Ok(*ours),
            Err(inner) => match inner.downcast::<DataFusionError>() {
                Ok(nested) => find_ours(*nested),
                Err(other) => Err(DataFusionError::External(other)),
            },
        },
        DataFusionError::Context(context, inner) => {
            find_ours(*inner).map_err(|inner| DataFusionError::Context(context, Box::new(inner)))
        }
        DataFusionError::Diagnostic(diagnostic, inner) => find_ours(*inner)
            .map_err(|inner| DataFusionError::Diagnostic(diagnostic, Box::new(inner))),
        DataFusionError::Shared(shared) => match Arc::try_unwrap(shared) {
            Ok(inner) => find_ours(inner),
            Err(shared) => match ours_below(&shared) {
                Some(ours) => Ok(Error::new(ours.code(), ours.chain())
                    .hint(ours.hint_text().unwrap_or_default())),
                None => Err(DataFusionError::Shared(shared)),
            },
        },
        DataFusionError::ArrowError(inner, backtrace) => match *inner {
            arrow::error::ArrowError::ExternalError(inner) => {
                find_ours(DataFusionError::External(inner))
            }
            other => Err(DataFusionError::ArrowError(Box::new(other), backtrace)),
        },
        other => Err(other),
    }
}

/// Our error below a shared one, which cannot be taken out.
fn ours_below<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return Some(ours);
        }
        current = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_sources_come_back_as_they_were() {
        let ours = Error::new(code::FILE_TOO_BAD, "file \"a.csv\" has too many bad records");
        let wrapped = DataFusionError::Context(
            "reading".into(),
            Box::new(DataFusionError::External(Box::new(ours))),
        );
        assert_eq!(query_error(wrapped, || "query failed".into()).code(), code::FILE_TOO_BAD);
    }

    #[test]
    fn errors_shared_between_partitions_keep_their_code() {
        let ours = Error::new(code::FILE_TOO_BAD, "file \"a.csv\" has too many bad records");
        let shared = Arc::new(DataFusionError::External(Box::new(ours)));
        let kept = Arc::clone(&shared);
        let error = query_error(DataFusionError::Shared(shared), || "query failed".into());
        assert_eq!(error.code(), code::FILE_TOO_BAD);
        drop(kept);
    }
}
