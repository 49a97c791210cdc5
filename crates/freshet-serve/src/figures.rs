//! What the listener itself counts.

use std::time::Duration;

use axum::http::StatusCode;
use freshet_core::metrics::MetricName;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

type Labels = Vec<(&'static str, String)>;

/// Counts of requests.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    requests: Family<Labels, Counter>,
    records: Family<Labels, Counter>,
    durations: Histogram,
}

/// Bounds of durations, in seconds.
const DURATIONS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

impl Default for Figures {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            records: Family::default(),
            durations: Histogram::new(DURATIONS),
        }
    }
}

impl Figures {
    /// A request to push into `source` was answered; without a source there was none of that name,
    /// which anybody may make up.
    pub fn asked(
        &self,
        source: Option<&str>,
        status: StatusCode,
        (accepted, rejected): (u64, u64),
        took: Duration,
    ) {
        let source = ("source", source.unwrap_or_default().to_owned());
        let status = ("status", status.as_u16().to_string());
        self.requests.get_or_create(&vec![source.clone(), status]).inc();
        for (outcome, count) in [("accepted", accepted), ("rejected", rejected)] {
            if count > 0 {
                let labels = vec![source.clone(), ("outcome", outcome.to_owned())];
                self.records.get_or_create(&labels).inc_by(count);
            }
        }
        self.durations.observe(took.as_secs_f64());
    }

    /// Adds them to what is exported.
    pub fn register(&self, registry: &mut Registry) {
        register(registry, MetricName::IngestRequestsTotal, self.requests.clone());
        register(registry, MetricName::IngestRecordsTotal, self.records.clone());
        register(registry, MetricName::IngestDurationSeconds, self.durations.clone());
    }
}

fn register(
    registry: &mut Registry,
    name: MetricName,
    metric: impl prometheus_client::registry::Metric,
) {
    // The registry adds `_total` itself.
    let base = name.as_str().strip_suffix("_total").unwrap_or(name.as_str());
    registry.register(base, name.help(), metric);
}
