//! What the control plane counts itself: calls of the server API (names of server-api.md section 6).

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Durations and errors of API calls; cheap to clone.
#[derive(Clone)]
pub(crate) struct ApiMetrics {
    durations: Family<MethodLabels, Histogram, fn() -> Histogram>,
    errors: Family<ErrorLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    protocol: &'static str,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    protocol: &'static str,
    method: &'static str,
    error: u32,
}

const PROTOCOL: &str = "http";

impl ApiMetrics {
    /// Registers the families.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_1, 4.0, 9));
        let metrics = Self { durations: Family::new_with_constructor(histogram), errors: Family::default() };
        registry.register(
            "api_command_duration_seconds_histogram",
            "Time from the parsed request to its answer",
            metrics.durations.clone(),
        );
        registry.register("api_command_errors", "Calls answered with an error", metrics.errors.clone());
        metrics
    }

    /// Counts one call.
    pub(crate) fn observe(&self, method: &'static str, took: Duration, error: Option<u32>) {
        let labels = MethodLabels { protocol: PROTOCOL, method };
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        if let Some(error) = error {
            self.errors.get_or_create(&ErrorLabels { protocol: PROTOCOL, method, error }).inc();
        }
    }
}
