//! The names of all metrics: `freshet_<noun>_<unit>[_total]`, base units, few labels.

/// How a metric's values follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// They ascend, and begin at zero with each life of what they count.
    Counter,
    /// They are as they are.
    Gauge,
    /// They are counted by their size.
    Histogram,
}

macro_rules! metrics {
    ($($name:ident $kind:ident $text:literal $help:literal)*) => {
        /// A metric's name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum MetricName {
            $(#[doc = concat!($help, ".")] $name,)*
        }

        impl MetricName {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name as it is exported.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => concat!("freshet_", $text),)*
                }
            }

            /// What it says, in a sentence without its full stop.
            pub fn help(self) -> &'static str {
                match self {
                    $(Self::$name => $help,)*
                }
            }

            /// How its values follow each other.
            pub fn kind(self) -> MetricKind {
                match self {
                    $(Self::$name => MetricKind::$kind,)*
                }
            }
        }
    };
}

metrics! {
    JobRunning Gauge "job_running_ratio"
        "1 while a job runs, 0 while it starts, has failed or has ended"
    JobRestartsTotal Counter "job_restarts_total"
        "How often a job began again after a failure"
    JobWaitSeconds Gauge "job_wait_seconds"
        "How long a job has been waiting for something other than rows, by what waits"
    StageInRowsTotal Counter "stage_in_rows_total"
        "Rows that a task took up; of a source, records good and bad"
    StageInBytesTotal Counter "stage_in_bytes_total"
        "Bytes that a task took up; of a source, as they were fetched"
    StageOutRowsTotal Counter "stage_out_rows_total"
        "Rows that a task's last operator gave"
    StageOutBytesTotal Counter "stage_out_bytes_total"
        "Bytes that a task's last operator gave"
    StageBusySecondsTotal Counter "stage_busy_seconds_total"
        "Time in which a task worked"
    StageBlockedSecondsTotal Counter "stage_blocked_seconds_total"
        "Time in which a task waited for room behind it"
    StageIdleSecondsTotal Counter "stage_idle_seconds_total"
        "Time in which a task waited for rows"
    StageQueueRows Gauge "stage_queue_rows"
        "Rows that wait in front of a task"
    StageQueueBytes Gauge "stage_queue_bytes"
        "Bytes that wait in front of a task"
    StageQueueRatio Gauge "stage_queue_ratio"
        "How full the fullest queue in front of a task is"
    StageWatermarkSeconds Gauge "stage_watermark_seconds"
        "How far event time has come in a task, in seconds since 1970"
    StageWatermarkDelaySeconds Gauge "stage_watermark_delay_seconds"
        "How far event time is behind the time of day in a task"
    StageMaxBadPassedTotal Counter "stage_max_bad_passed_total"
        "Times that a source had more bad records than its `max_bad` allows"
    OperatorInRowsTotal Counter "operator_in_rows_total"
        "Rows that an operator took"
    OperatorFilteredRowsTotal Counter "operator_filtered_rows_total"
        "Rows that a condition left out"
    OperatorLateRowsTotal Counter "operator_late_rows_total"
        "Rows that came after their time"
    OperatorDeduplicatedRowsTotal Counter "operator_deduplicated_rows_total"
        "Rows whose key was seen before"
    OperatorUnmatchedRowsTotal Counter "operator_unmatched_rows_total"
        "Rows that found no partner"
    OperatorStateBytes Gauge "operator_state_bytes"
        "Bytes of an operator's state, about"
    OperatorStateKeys Gauge "operator_state_keys"
        "Keys of an operator's state"
    PartitionRecordsTotal Counter "partition_records_total"
        "Records that were read of a source's partition, good and bad"
    PartitionReadBytesTotal Counter "partition_read_bytes_total"
        "Bytes that were read of a source's partition, as they were fetched"
    PartitionDeadLettersTotal Counter "partition_dead_letters_total"
        "Records of a source's partition that became dead letters"
    PartitionSkippedRecordsTotal Counter "partition_skipped_records_total"
        "Records of a source's partition that the source itself left out"
    PartitionLagRecords Gauge "partition_lag_records"
        "Records of a source's partition that are there and were not read"
    PartitionLagSeconds Gauge "partition_lag_seconds"
        "How old the newest record is that was read of a source's partition, where there are later ones"
    PartitionWatermarkDelaySeconds Gauge "partition_watermark_delay_seconds"
        "How far event time is behind the time of day in a source's partition"
    CheckpointsCompletedTotal Counter "checkpoints_completed_total"
        "Checkpoints that were made"
    CheckpointsFailedTotal Counter "checkpoints_failed_total"
        "Checkpoints that were begun and not ended"
    CheckpointRetriesTotal Counter "checkpoint_retries_total"
        "Tries to write a part of a checkpoint, or to commit, that failed and were made again"
    CheckpointDurationSeconds Gauge "checkpoint_duration_seconds"
        "How long the newest checkpoint took"
    CheckpointAgeSeconds Gauge "checkpoint_age_seconds"
        "How old the newest checkpoint is"
    CheckpointNewBytes Gauge "checkpoint_new_bytes"
        "Bytes of state that were written for the newest checkpoint"
    CheckpointBytes Gauge "checkpoint_bytes"
        "Bytes of all state that the newest checkpoint needs"
    CheckpointUnderWaySeconds Gauge "checkpoint_under_way_seconds"
        "How long the checkpoint that is being made has taken; 0 where none is"
    SinkRowsTotal Counter "sink_rows_total"
        "Rows that were given to a sink"
    SinkCommitsTotal Counter "sink_commits_total"
        "Commits of a sink"
    SinkCommitDurationSeconds Gauge "sink_commit_duration_seconds"
        "How long the newest commit of a sink took"
    SinkCommitAgeSeconds Gauge "sink_commit_age_seconds"
        "How long ago a sink committed"
    IngestRequestsTotal Counter "ingest_requests_total"
        "Requests to push records, by their status"
    IngestRecordsTotal Counter "ingest_records_total"
        "Records that were pushed and kept: accepted, or rejected by the contract"
    IngestDurationSeconds Histogram "ingest_duration_seconds"
        "How long requests to push records took"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are() {
        let units = ["bytes", "rows", "records", "seconds", "ratio", "keys"];
        for metric in MetricName::ALL {
            let name = metric.as_str();
            let base = name.strip_suffix("_total");
            assert_eq!(base.is_some(), metric.kind() == MetricKind::Counter, "{name}");
            let has_unit = units.iter().any(|unit| name.ends_with(unit));
            assert!(base.is_some() || has_unit, "{name}");
            assert!(!metric.help().ends_with('.'), "{name}");
        }
        let names: std::collections::HashSet<_> =
            MetricName::ALL.iter().map(|m| m.as_str()).collect();
        assert_eq!(names.len(), MetricName::ALL.len());
    }
}
