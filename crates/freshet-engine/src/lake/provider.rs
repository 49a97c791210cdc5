//! Data files as a table for queries: partition columns filled in, files left out that the
//! filters rule out, columns that a file lacks read as null.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{
    Column, ColumnStatistics, DFSchema, DataFusionError, Result as QueryResult, ScalarValue,
    Statistics,
};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use object_store::ObjectStore;
use object_store::path::Path;

use super::{ColumnStats, DataFile, stats};

/// Bytes at the end of a file that are read at once in the hope that they hold its metadata.
const FOOTER: usize = 64 << 10;

/// Some files of one table.
#[derive(Debug)]
pub(super) struct Files {
    pub store: Arc<dyn ObjectStore>,
    /// The name under which sessions know the store.
    pub store_url: ObjectStoreUrl,
    /// The table's folder in the store.
    pub folder: Path,
    /// All columns in the table's order.
    pub schema: SchemaRef,
    pub partition_by: Vec<String>,
    pub files: Vec<DataFile>,
}

impl Files {
    fn is_partition(&self, name: &str) -> bool {
        self.partition_by.iter().any(|column| column == name)
    }

    /// The columns as a scan has them: partition columns last.
    fn table_schema(&self) -> TableSchema {
        let (partitions, files): (Vec<_>, Vec<_>) =
            self.schema.fields().iter().cloned().partition(|field| self.is_partition(field.name()));
        let file_schema = Arc::new(arrow::datatypes::Schema::new(files));
        // In the order of `partition_by`, which is the order of a file's values.
        let partitions = self
            .partition_by
            .iter()
            .filter_map(|name| partitions.iter().find(|field| field.name() == name).cloned())
            .collect::<Vec<_>>();
        TableSchema::builder(file_schema).with_table_partition_cols(partitions).build()
    }

    fn pruned(&self, state: &dyn Session, filters: &[Expr]) -> QueryResult<Vec<&DataFile>> {
        let Some(filter) = conjunction(filters.to_vec()) else {
            return Ok(self.files.iter().collect());
        };
        let schema = DFSchema::try_from(Arc::clone(&self.schema))?;
        let filter = state.create_physical_expr(filter, &schema)?;
        let predicate =
            PruningPredicateBuilder::new().with_file_schema(Arc::clone(&self.schema)).build(filter);
        let Some(predicate) = predicate else { return Ok(self.files.iter().collect()) };
        let keep = predicate.prune(self)?;
        Ok(self.files.iter().zip(keep).filter(|(_, keep)| *keep).map(|(file, _)| file).collect())
    }

    fn partitioned_file(
        &self,
        file: &DataFile,
        schema: &TableSchema,
    ) -> QueryResult<PartitionedFile> {
        let location = location(&self.folder, &file.path)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let values = schema
            .table_partition_cols()
            .iter()
            .map(|field| partition_value(file, field.name(), field.data_type()))
            .collect::<QueryResult<Vec<_>>>()?;
        let mut partitioned = PartitionedFile::new_from_meta(object_store::ObjectMeta {
            location,
            last_modified: chrono::DateTime::from_timestamp_millis(file.modified_ms)
                .unwrap_or_default(),
            size: file.size,
            e_tag: None,
            version: None,
        })
        .with_metadata_size_hint(FOOTER);
        partitioned.partition_values = values;
        partitioned.statistics = Some(Arc::new(self.file_statistics(file, schema)));
        Ok(partitioned)
    }

    fn file_statistics(&self, file: &DataFile, schema: &TableSchema) -> Statistics {
        let columns = schema.table_schema().fields().iter().map(|field| {
            let mut column = ColumnStatistics::new_unknown();
            if self.is_partition(field.name()) {
                let Ok(value) = partition_value(file, field.name(), field.data_type()) else {
                    return column;
                };
                if let Some(rows) = file.rows {
                    let nulls = if value.is_null() { rows } else { 0 };
                    column.null_count = Precision::Exact(nulls as usize);
                }
                if !value.is_null() {
                    column.min_value = Precision::Inexact(value.clone());
                    column.max_value = Precision::Inexact(value);
                }
            } else if let Some(known) = file.stats.get(field.name()) {
                column.null_count = match known.nulls {
                    Some(nulls) => Precision::Exact(nulls as usize),
                    None => Precision::Absent,
                };
                // Bounds of text are cut, and other writers may cut others too.
                let inexact = |bound| match bound {
                    Some(value) => Precision::Inexact(value),
                    None => Precision::Absent,
                };
                column.min_value = inexact(stats::min_of(known, field));
                column.max_value = inexact(stats::max_of(known, field));
            }
            column
        });
        Statistics {
            num_rows: match file.rows {
                Some(rows) => Precision::Exact(rows as usize),
                None => Precision::Absent,
            },
            total_byte_size: Precision::Inexact(file.size as usize),
            column_statistics: columns.collect(),
        }
    }

    /// One value a file, from what is known of a column.
    fn bounds(
        &self,
        column: &Column,
        bound: impl Fn(&ColumnStats, &arrow::datatypes::Field) -> Option<ScalarValue>,
    ) -> Option<ArrayRef> {
        let field = self.schema.field_with_name(&column.name).ok()?;
        let null = ScalarValue::try_from(field.data_type()).ok()?;
        let values = self.files.iter().map(|file| {
            let known = if self.is_partition(&column.name) {
                partition_value(file, &column.name, field.data_type()).ok()
            } else {
                file.stats.get(&column.name).and_then(|stats| bound(stats, field))
            };
            known.unwrap_or_else(|| null.clone())
        });
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for Files {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, stats::min_of)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, stats::max_of)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let field = self.schema.field_with_name(&column.name).ok()?;
        let counts: UInt64Array = self
            .files
            .iter()
            .map(|file| {
                if self.is_partition(&column.name) {
                    let value = partition_value(file, &column.name, field.data_type()).ok()?;
                    if value.is_null() { file.rows } else { Some(0) }
                } else {
                    file.stats.get(&column.name)?.nulls
                }
            })
            .collect();
        Some(Arc::new(counts))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.files.iter().map(|file| file.rows).collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// The place of a data file in the lake's store.
pub(super) fn location(folder: &Path, path: &str) -> Result<Path, object_store::path::Error> {
    Path::parse(format!("{folder}/{path}"))
}

/// The value of a partition column in a file.
pub(super) fn partition_value(
    file: &DataFile,
    column: &str,
    data_type: &DataType,
) -> QueryResult<ScalarValue> {
    match file.partition_values.get(column).cloned().flatten() {
        None => ScalarValue::try_from(data_type),
        Some(text) if text.is_empty() && *data_type != DataType::Utf8View => {
            ScalarValue::try_from(data_type)
        }
        Some(text) => ScalarValue::try_from_string(text, data_type),
    }
}

#[async_trait]
impl TableProvider for Files {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> QueryResult<Arc<dyn ExecutionPlan>> {
        self.plan(state, projection, filters, limit)
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> QueryResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    fn statistics(&self) -> Option<Statistics> {
        let schema = TableSchema::from(Arc::clone(&self.schema));
        let files = self.files.iter().map(|file| self.file_statistics(file, &schema));
        let files: Vec<_> = files.collect();
        Statistics::try_merge_iter(&files, &self.schema).ok()
    }
}

impl Files {
    fn plan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> QueryResult<Arc<dyn ExecutionPlan>> {
        let files = self.pruned(state, filters)?;
        if files.is_empty() {
            let schema = match projection {
                Some(projection) => Arc::new(self.schema.project(projection)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        state.runtime_env().register_object_store(self.store_url.as_ref(), Arc::clone(&self.store));
        let schema = self.table_schema();
        // From the table's order to the scan's.
        let every: Vec<usize> = (0..self.schema.fields().len()).collect();
        let indices = projection
            .unwrap_or(&every)
            .iter()
            .map(|index| Ok(schema.table_schema().index_of(self.schema.field(*index).name())?))
            .collect::<QueryResult<Vec<_>>>()?;
        let files = files
            .into_iter()
            .map(|file| self.partitioned_file(file, &schema))
            .collect::<QueryResult<Vec<_>>>()?;
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let options = state.table_options().parquet.clone();
        let mut source = ParquetSource::new(schema.clone()).with_table_parquet_options(options);
        source = source.with_metadata_size_hint(FOOTER);
        let statistics = groups
            .iter()
            .flat_map(|group| group.iter())
            .filter_map(|file| file.statistics.as_ref().map(|statistics| statistics.as_ref()));
        let statistics = Statistics::try_merge_iter(statistics, schema.table_schema())?;
        let config = FileScanConfigBuilder::new(self.store_url.clone(), Arc::new(source))
            .with_statistics(statistics)
            .with_file_groups(groups)
            .with_projection_indices(Some(indices))?
            // The limit counts before the filters that are left.
            .with_limit(if filters.is_empty() { limit } else { None })
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}
