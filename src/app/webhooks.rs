//! Webhooks in this process: the log as couriers see it, and the couriers.

use std::sync::Arc;

use super::store::OpenStore;
use crate::config::{Config, WebhookConfig};
use crate::control::webhook::clock::unix_ms;
use crate::control::webhook::metrics::{DeliveryFigures, WebhookFigures};
use crate::control::webhook::source::{EventPages, EventSource, Place, StoredEvents, Unreadable};
use crate::control::webhook::task::{ClientError, Courier};
use crate::hub::events::EventRecord;
use crate::hub::store::{DeliveredAsk, StoreAsk};
use crate::log::reader::{Reader, Replay};
use crate::log::record::Class;
use crate::store::events::record_of;
use crate::store::thread::{EventQueues, Inbox};

/// Records read at once: a few batches, of which a record is about 10 kB.
const PAGE: usize = 16;

/// The log as couriers see it: read here, and moved on by the store.
pub(super) struct LogEvents {
    reader: Reader,
    inbox: Arc<Inbox>,
}

/// What the parts of the process need for their share in webhooks.
#[derive(Default)]
pub(super) struct Webhooks {
    pub(super) queues: EventQueues,
    pub(super) couriers: Vec<Courier>,
    pub(super) figures: Vec<WebhookFigures>,
}

impl Webhooks {
    /// Everything for the configured webhooks; none without a store.
    pub(super) fn new(config: &Config, store: Option<&OpenStore>) -> Result<Self, ClientError> {
        let mut webhooks = Self::default();
        let Some(store) = store else { return Ok(webhooks) };
        let source = Arc::new(LogEvents { reader: store.reader(), inbox: Arc::clone(&store.inbox) });
        for (index, WebhookConfig { queue, delivery }) in (0_u64..).zip(&config.webhooks) {
            let figures = WebhookFigures {
                name: queue.name.clone(),
                queue: Arc::default(),
                delivery: Arc::new(DeliveryFigures::default()),
            };
            let settings = &config.settings;
            let who = (settings.node_name.as_str(), settings.version.as_str());
            let seed = store.seed() ^ index;
            let figures_of_both = (Arc::clone(&figures.delivery), Arc::clone(&figures.queue));
            let source = Arc::clone(&source);
            webhooks.couriers.push(Courier::new(delivery.clone(), who, source, figures_of_both, seed)?);
            webhooks.queues.push((queue.clone(), Arc::clone(&figures.queue)));
            webhooks.figures.push(figures);
        }
        Ok(webhooks)
    }
}

impl EventSource for LogEvents {
    fn open(&self, queue: &str, after: Option<Place>) -> Option<Box<dyn EventPages>> {
        let info = self.reader.info(Class::Webhook, queue, "")?;
        let after = after.filter(|place| place.epoch == info.state.epoch);
        let after = after.map_or(info.cursor, |place| place.offset.max(info.cursor));
        if info.state.last_offset <= after {
            return None;
        }
        let now = u32::try_from(unix_ms() / 1000).unwrap_or(u32::MAX);
        let replay = self.reader.replay(Class::Webhook, queue, after, PAGE, now)?;
        Some(Box::new(Pages(replay)))
    }

    fn first_waiting(&self, queue: &str) -> Option<u64> {
        let info = self.reader.info(Class::Webhook, queue, "")?;
        self.record_after(queue, info.cursor).map(|record| record.first)
    }

    fn number_after(&self, queue: &str, place: Place) -> Option<u64> {
        let info = self.reader.info(Class::Webhook, queue, "")?;
        let before = place.offset.checked_sub(1).filter(|_| info.state.epoch == place.epoch)?;
        self.record_after(queue, before).map(|record| record.end())
    }

    fn acknowledge(&self, queue: &str, through: Place, next: Option<u64>) -> bool {
        let Place { epoch, offset: through } = through;
        let ask = DeliveredAsk { queue: queue.into(), epoch, through, next };
        self.inbox.ask(StoreAsk::Delivered(Box::new(ask))).is_ok()
    }
}

impl LogEvents {
    /// The first record behind an offset, expired or not.
    fn record_after(&self, queue: &str, offset: u64) -> Option<EventRecord> {
        // At the beginning of time nothing has expired.
        let mut replay = self.reader.replay(Class::Webhook, queue, offset, 1, 0)?;
        let page = replay.next_page().ok()?;
        page.iter().find_map(|stored| record_of(&stored.body))
    }
}

/// A replay of the log.
struct Pages(Replay);

impl EventPages for Pages {
    fn next(&mut self) -> Result<Vec<StoredEvents>, Unreadable> {
        let epoch = self.0.position().epoch;
        loop {
            let page = self.0.next_page().map_err(|_| Unreadable)?;
            let is_end = page.is_empty();
            let events: Vec<_> = page
                .into_iter()
                .filter_map(|stored| {
                    let place = Place { epoch, offset: stored.offset };
                    let record = record_of(&stored.body)?;
                    Some(StoredEvents { place, expires_at: stored.expires_at, record })
                })
                .collect();
            if is_end || !events.is_empty() {
                return Ok(events);
            }
        }
    }

    fn end(&self) -> Place {
        let position = self.0.position();
        Place { epoch: position.epoch, offset: position.last_offset }
    }
}
