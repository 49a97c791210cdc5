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
