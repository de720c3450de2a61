//! Figures of webhooks for `/metrics`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use crate::hub::events::QueueFigures;

/// What the delivery of a webhook has done since the start.
#[derive(Debug, Default)]
pub struct DeliveryFigures {
    /// Events that the backend took.
    pub delivered: AtomicU64,
    /// Requests with these.
    pub batches: AtomicU64,
    /// Requests that failed and were made again.
    pub retries: AtomicU64,
    /// Events that the backend refused for good.
    pub refused: AtomicU64,
    /// Events that grew too old.
    pub expired: AtomicU64,
}

/// One webhook, from the log to the backend.
#[derive(Clone, Debug)]
pub struct WebhookFigures {
    /// Its name.
    pub name: String,
    /// The store's side.
    pub queue: Arc<QueueFigures>,
    /// The courier's side.
    pub delivery: Arc<DeliveryFigures>,
}

/// All webhooks.
#[derive(Debug)]
pub(crate) struct WebhookCollector(pub(crate) Vec<WebhookFigures>);

/// Name, help, whether it is a counter, and where it stands.
type Series = (&'static str, &'static str, bool, fn(&WebhookFigures) -> &AtomicU64);

const SERIES: [Series; 8] = [
    ("webhook_events_pending", "Events that wait", false, |of| &of.queue.pending),
    ("webhook_events_stored", "Events put into the queue", true, |of| &of.queue.stored),
    ("webhook_events_dropped", "Events for which there was no room", true, |of| &of.queue.dropped),
    ("webhook_events_delivered", "Events that the backend took", true, |of| &of.delivery.delivered),
    ("webhook_events_refused", "Events that the backend refused for good", true, |of| &of.delivery.refused),
    ("webhook_events_expired", "Events that grew too old", true, |of| &of.delivery.expired),
    ("webhook_batches_delivered", "Requests that the backend took", true, |of| &of.delivery.batches),
    ("webhook_retries", "Requests that failed and were made again", true, |of| &of.delivery.retries),
];

impl Collector for WebhookCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, is_counter, figure) in SERIES {
            let kind = if is_counter { MetricType::Counter } else { MetricType::Gauge };
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for webhook in &self.0 {
                let value = figure(webhook).load(Ordering::Relaxed);
                let labels = [("webhook", webhook.name.as_str())];
                let mut metric = family.encode_family(&labels)?;
                if is_counter {
                    metric.encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(&value, None)?;
                } else {
                    metric.encode_gauge(&value)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_webhook_has_its_series() {
        let figures = |name: &str| WebhookFigures {
            name: name.to_owned(),
            queue: Arc::default(),
            delivery: Arc::default(),
        };
        let all = vec![figures("first"), figures("second")];
        all[1].queue.pending.store(7, Ordering::Relaxed);
        all[0].delivery.delivered.store(5, Ordering::Relaxed);
        let mut registry = prometheus_client::registry::Registry::with_prefix("millpond");
        registry.register_collector(Box::new(WebhookCollector(all)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "millpond_webhook_events_pending{webhook=\"second\"} 7",
            "millpond_webhook_events_delivered_total{webhook=\"first\"} 5",
            "millpond_webhook_events_delivered_total{webhook=\"second\"} 0",
            "millpond_webhook_retries_total{webhook=\"first\"} 0",
        ] {
            assert!(text.lines().any(|of| of == line), "{line} is missing in:\n{text}");
        }
    }
}
