//! `GET /metrics`: the figures of jobs and of the listener in the text format of OpenMetrics, which
//! Prometheus reads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, StatusCode, header};
use freshet_core::metrics::{MetricKind, MetricName};
use freshet_core::stream::EventTime;
use freshet_runtime::figures::{JobFigures, Phase, SplitFigures, StageFigures, TaskFigures};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::answer::Problem;
use crate::server::Shared;

/// The content type of the format.
const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(crate) async fn get(State(shared): State<Arc<Shared>>) -> Response<Body> {
    match text(shared.services.jobs.figures(), &shared) {
        Ok(text) => {
            let mut response = Response::new(Body::from(text));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(KIND));
            response
        }
        Err(error) => {
            let error =
                freshet_core::Error::internal("metrics could not be written").caused_by(error);
            Problem { status: StatusCode::INTERNAL_SERVER_ERROR, error }.into()
        }
    }
}

fn text(jobs: Vec<JobFigures>, shared: &Shared) -> Result<String, fmt::Error> {
    let mut samples = Samples::default();
    for job in &jobs {
        samples.job(job);
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(samples));
    shared.figures.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

type Labels = Vec<(&'static str, String)>;

/// Values by their metric: all of one stand together, as the format wants them.
#[derive(Debug, Default)]
struct Samples(BTreeMap<MetricName, Vec<(Labels, Value)>>);

#[derive(Debug, Clone, Copy)]
enum Value {
    Whole(u64),
    Part(f64),
}

/// Microseconds as seconds.
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

impl Samples {
    fn whole(&mut self, name: MetricName, labels: &Labels, value: u64) {
        self.0.entry(name).or_default().push((labels.clone(), Value::Whole(value)));
    }

    fn part(&mut self, name: MetricName, labels: &Labels, value: f64) {
        self.0.entry(name).or_default().push((labels.clone(), Value::Part(value)));
    }

    fn job(&mut self, job: &JobFigures) {
        use MetricName as M;
        let labels = vec![("job", job.job.clone())];
        let running = matches!(job.phase, Phase::Running | Phase::Draining);
        self.whole(M::JobRunning, &labels, u64::from(running));
        self.whole(M::JobRestartsTotal, &labels, job.restarts);
        // Several waits of one thing are one line: the longest.
        let mut waits: BTreeMap<&str, i64> = BTreeMap::new();
        for wait in &job.waits {
            let age = waits.entry(&wait.what).or_default();
            *age = (*age).max(job.at - wait.since);
        }
        for (what, age) in waits {
            let labels = with(&labels, [("what", what.to_owned())]);
            self.part(M::JobWaitSeconds, &labels, seconds(age));
        }
        for (stage, index, task) in job.tasks() {
            let labels = with(&labels, [("stage", stage.id.clone()), ("task", index.to_string())]);
            self.task(job.at, stage, task, &labels);
        }
        self.checkpoints(job, &labels);
        for sink in &job.sinks {
            let labels = with(&labels, [("sink", sink.id.clone())]);
            self.whole(M::SinkRowsTotal, &labels, sink.rows);
            self.whole(M::SinkCommitsTotal, &labels, sink.commits);
            if let Some(latency) = sink.latency {
                self.part(M::SinkCommitDurationSeconds, &labels, seconds(latency));
            }
            if let Some(at) = sink.committed_at {
                self.part(M::SinkCommitAgeSeconds, &labels, seconds(job.at - at));
            }
        }
    }

    fn checkpoints(&mut self, job: &JobFigures, labels: &Labels) {
        use MetricName as M;
        let checkpoints = &job.checkpoints;
        self.whole(M::CheckpointsCompletedTotal, labels, checkpoints.completed);
        self.whole(M::CheckpointsFailedTotal, labels, checkpoints.failed);
        self.whole(M::CheckpointRetriesTotal, labels, checkpoints.retries);
        let begun = checkpoints.under_way.as_ref().map_or(0, |begun| job.at - begun.since);
        self.part(M::CheckpointUnderWaySeconds, labels, seconds(begun));
        if let Some(last) = &checkpoints.last {
            self.part(M::CheckpointDurationSeconds, labels, seconds(last.duration));
            self.part(M::CheckpointAgeSeconds, labels, seconds(job.at - last.at));
            self.whole(M::CheckpointNewBytes, labels, last.new_bytes);
            self.whole(M::CheckpointBytes, labels, last.bytes);
        }
    }

    fn task(&mut self, now: i64, stage: &StageFigures, task: &TaskFigures, labels: &Labels) {
        use MetricName as M;
        self.whole(M::StageInRowsTotal, labels, task.rows_in);
        self.whole(M::StageInBytesTotal, labels, task.bytes_in);
        self.whole(M::StageOutRowsTotal, labels, task.rows_out);
        self.whole(M::StageOutBytesTotal, labels, task.bytes_out);
        self.part(M::StageBusySecondsTotal, labels, task.busy as f64 / 1e6);
        self.part(M::StageBlockedSecondsTotal, labels, task.blocked as f64 / 1e6);
        self.part(M::StageIdleSecondsTotal, labels, task.idle as f64 / 1e6);
        if stage.is_source {
            self.whole(M::StageMaxBadPassedTotal, labels, task.alerts);
        }
        if let Some(queue) = &task.queue {
            self.whole(M::StageQueueRows, labels, queue.rows);
            self.whole(M::StageQueueBytes, labels, queue.bytes);
            self.part(M::StageQueueRatio, labels, queue.fill);
        }
        if let Some(EventTime(time)) = task.watermark.filter(|time| *time != EventTime::MAX) {
            self.part(M::StageWatermarkSeconds, labels, seconds(time));
            self.part(M::StageWatermarkDelaySeconds, labels, seconds(now.saturating_sub(time)));
        }
        for (place, operator) in task.operators.iter().enumerate() {
            // The same operator may stand twice in a chain: its place tells them apart.
            let name = stage.operators.get(place).cloned().unwrap_or_default();
            let labels = with(labels, [("place", place.to_string()), ("operator", name)]);
            self.whole(M::OperatorInRowsTotal, &labels, operator.rows_in);
            self.whole(M::OperatorFilteredRowsTotal, &labels, operator.filtered);
            self.whole(M::OperatorLateRowsTotal, &labels, operator.late);
            self.whole(M::OperatorDeduplicatedRowsTotal, &labels, operator.deduplicated);
            self.whole(M::OperatorUnmatchedRowsTotal, &labels, operator.unmatched);
            self.whole(M::OperatorStateBytes, &labels, operator.state_bytes);
            self.whole(M::OperatorStateKeys, &labels, operator.state_keys);
        }
        for split in &task.splits {
            let labels = with(labels, [("partition", split.split.clone())]);
            self.split(now, split, &labels);
        }
    }

    fn split(&mut self, now: i64, split: &SplitFigures, labels: &Labels) {
        use MetricName as M;
        self.whole(M::PartitionRecordsTotal, labels, split.records);
        self.whole(M::PartitionReadBytesTotal, labels, split.bytes);
        self.whole(M::PartitionDeadLettersTotal, labels, split.dead_letters);
        self.whole(M::PartitionSkippedRecordsTotal, labels, split.skipped);
        if let Some(records) = split.lag_records() {
            self.whole(M::PartitionLagRecords, labels, records);
        }
        if let Some(lag) = split.lag(now) {
            self.part(M::PartitionLagSeconds, labels, seconds(lag));
        }
        if let Some(EventTime(time)) = split.watermark.filter(|time| *time != EventTime::MAX) {
            let delay = seconds(now.saturating_sub(time));
            self.part(M::PartitionWatermarkDelaySeconds, labels, delay);
        }
    }
}

fn with<const N: usize>(labels: &Labels, more: [(&'static str, String); N]) -> Labels {
    labels.iter().cloned().chain(more).collect()
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for (name, values) in &self.0 {
            let is_counter = name.kind() == MetricKind::Counter;
            let kind = if is_counter { MetricType::Counter } else { MetricType::Gauge };
            // The encoder adds `_total` itself.
            let base = name.as_str().strip_suffix("_total").unwrap_or(name.as_str());
            let mut metric = encoder.encode_descriptor(base, name.help(), None, kind)?;
            for (labels, value) in values {
                let mut metric = metric.encode_family(labels)?;
                match (is_counter, value) {
                    (true, Value::Whole(value)) => {
                        metric.encode_counter::<Labels, u64, f64>(value, None)?;
                    }
                    (true, Value::Part(value)) => {
                        metric.encode_counter::<Labels, f64, f64>(value, None)?;
                    }
                    (false, Value::Whole(value)) => metric.encode_gauge(value)?,
                    (false, Value::Part(value)) => metric.encode_gauge(value)?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use freshet_core::stream::{Epoch, Wait};
    use freshet_runtime::figures::{
        CheckpointFigures, MadeCheckpoint, OperatorFigures, QueueFigures, SinkFigures,
    };

    use super::*;

    fn job(name: &str) -> JobFigures {
        let split = SplitFigures {
            split: "0".into(),
            position: Some(90),
            end: Some(100),
            records: 90,
            dead_letters: 2,
            written: Some(1_000_000),
            watermark: Some(EventTime(2_000_000)),
            ..SplitFigures::default()
        };
        let source = TaskFigures {
            rows_in: 90,
            dead_letters: 2,
            busy: 1_500_000,
            watermark: Some(EventTime(2_000_000)),
            splits: vec![split],
            ..TaskFigures::default()
        };
        let operator = OperatorFigures { rows_in: 88, late: 3, ..OperatorFigures::default() };
        let windows = TaskFigures {
            rows_in: 88,
            queue: Some(QueueFigures { rows: 5, bytes: 100, fill: 0.25 }),
            // The same operator twice in a chain.
            operators: vec![operator, operator],
            watermark: Some(EventTime::MAX),
            ..TaskFigures::default()
        };
        let stage = |id: &str, is_source, operators: &[&str], task: TaskFigures| StageFigures {
            id: id.into(),
            is_source,
            operators: operators.iter().map(ToString::to_string).collect(),
            tasks: vec![task.clone(), task],
        };
        let wait = |since| Wait { what: "store".into(), reason: "it is full".into(), since };
        JobFigures {
            job: name.into(),
            at: 5_000_000,
            phase: Phase::Running,
            since: 0,
            generation: 3,
            restarts: 1,
            failure: None,
            stages: vec![
                stage("source a \"b\"\n\\", true, &[], source),
                stage("windows", false, &["tumble", "tumble"], windows),
            ],
            checkpoints: CheckpointFigures {
                completed: 7,
                last: Some(MadeCheckpoint {
                    epoch: Epoch(9),
                    at: 4_000_000,
                    duration: 20_000,
                    new_bytes: 10,
                    bytes: 1000,
                }),
                ..CheckpointFigures::default()
            },
            sinks: vec![SinkFigures { id: "table".into(), rows: 11, ..SinkFigures::default() }],
            waits: vec![wait(1_000_000), wait(3_000_000)],
        }
    }

    fn exported(jobs: &[JobFigures]) -> String {
        let mut samples = Samples::default();
        jobs.iter().for_each(|job| samples.job(job));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(samples));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("it is written");
        text
    }

    #[test]
    fn figures_are_lines_of_the_format() {
        let text = exported(&[job("dev/m")]);
        let job = "job=\"dev/m\"";
        let stage = "stage=\"source a \\\"b\\\"\\n\\\\\",task=\"0\"";
        for line in [
            format!("freshet_job_running_ratio{{{job}}} 1"),
            format!("freshet_job_wait_seconds{{{job},what=\"store\"}} 4.0"),
            format!("freshet_stage_busy_seconds_total{{{job},{stage}}} 1.5"),
            format!("freshet_stage_watermark_delay_seconds{{{job},{stage}}} 3.0"),
            format!("freshet_partition_lag_records{{{job},{stage},partition=\"0\"}} 10"),
            format!("freshet_partition_lag_seconds{{{job},{stage},partition=\"0\"}} 4.0"),
            format!("freshet_checkpoint_age_seconds{{{job}}} 1.0"),
            format!("freshet_sink_rows_total{{{job},sink=\"table\"}} 11"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn each_series_is_told_once_below_its_metric() {
        let text = exported(&[job("dev/m"), job("dev/n")]);
        let (mut series, mut metrics) = (HashSet::new(), HashSet::new());
        let mut metric = String::new();
        for line in text.lines() {
            if let Some(described) = line.strip_prefix("# TYPE ") {
                metric = described.split(' ').next().expect("a name").to_owned();
                assert!(metrics.insert(metric.clone()), "{metric} is described once");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                assert!(name.starts_with(&metric), "{line} below {metric}");
                assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
                assert!(series.insert(name.to_owned()), "{line} once");
            }
        }
        assert!(text.ends_with("# EOF\n"));
        // What nobody knows is left out: no watermark at the end of time, no commit.
        assert!(!text.contains("sink_commit_age_seconds{"), "{text}");
    }
}
