//! The names of all metrics: `freshet_<noun>_<unit>[_total]`, base units, few labels.

/// A metric's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricName {
    /// Bytes read from sources.
    SourceReadBytesTotal,
    /// Records decoded, good and bad.
    SourceRecordsTotal,
    /// Records that became dead letters.
    DeadLettersTotal,
    /// Rows published into the lake.
    LakeRowsTotal,
    /// Time that a task took.
    TaskDurationSeconds,
}

impl MetricName {
    /// The name as it is exported.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SourceReadBytesTotal => "freshet_source_read_bytes_total",
            Self::SourceRecordsTotal => "freshet_source_records_total",
            Self::DeadLettersTotal => "freshet_dead_letters_total",
            Self::LakeRowsTotal => "freshet_lake_rows_total",
            Self::TaskDurationSeconds => "freshet_task_duration_seconds",
        }
    }
}
