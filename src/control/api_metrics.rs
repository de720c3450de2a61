//! What the control plane counts itself: calls of the server API (names of server-api.md section 6).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

/// Durations and errors of API calls; cheap to clone.
#[derive(Clone)]
pub(crate) struct ApiMetrics {
    durations: Family<MethodLabels, Histogram, fn() -> Histogram>,
    errors: Family<ErrorLabels, Counter>,
    refusals: Family<ReasonLabels, Counter>,
    untold: Arc<Mutex<HashMap<&'static str, Untold>>>,
}

/// Refusals of one reason since the last line about them.
struct Untold {
    count: u64,
    last: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
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

/// Between two lines about refusals of one reason.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

impl ApiMetrics {
    /// Registers the families.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_1, 4.0, 9));
        let metrics = Self {
            durations: Family::new_with_constructor(histogram),
            errors: Family::default(),
            refusals: Family::default(),
            untold: Arc::default(),
        };
        registry.register(
            "api_command_duration_seconds_histogram",
            "Time from the parsed request to its answer",
            metrics.durations.clone(),
        );
        registry.register("api_command_errors", "Calls answered with an error", metrics.errors.clone());
        registry.register("api_refusals", "Requests that are no call of the API", metrics.refusals.clone());
        metrics
    }

    /// Counts a request that was refused before it was a call, and tells the log of it, at most once a second.
    pub(crate) fn refuse(&self, reason: &'static str) {
        self.refusals.get_or_create(&ReasonLabels { reason }).inc();
        let now = Instant::now();
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match untold.get_mut(reason) {
            Some(of) if now.duration_since(of.last) < LINE_INTERVAL => {
                of.count += 1;
                return;
            }
            Some(of) => std::mem::take(&mut of.count) + 1,
            None => 1,
        };
        untold.insert(reason, Untold { count: 0, last: now });
        drop(untold);
        tracing::warn!(reason, count, "a request to the server API is refused");
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
