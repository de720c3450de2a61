//! The task of one webhook: a batch at a time, for ever.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::backoff::Backoff;
use super::batch::Batch;
use super::client::{Client, Verdict};
use super::clock::unix_ms;
use super::feed::{Feed, Next};
use super::metrics::DeliveryFigures;
use super::settings::WebhookSettings;
use super::source::{EventSource, Place};
use crate::hub::events::QueueFigures;

pub use super::client::ClientError;

/// Pause before an acknowledgement is tried again that found no room.
const ACKNOWLEDGE_PAUSE: Duration = Duration::from_millis(20);
/// How often that is tried; after it the acknowledgement of a later batch has to do.
const ACKNOWLEDGE_TRIES: u32 = 100;

/// Who delivers events to one backend.
pub struct Courier {
    settings: WebhookSettings,
    node: String,
    source: Arc<dyn EventSource>,
    client: Client,
    figures: Arc<DeliveryFigures>,
    of_queue: Arc<QueueFigures>,
    backoff: Backoff,
    /// The run that `expected` is of.
    run: u64,
    /// Number of the event that the backend waits for; `None`: not known yet.
    expected: Option<u64>,
    /// Number of the event after the last one that is counted: every one before was delivered, refused, expired, or
    /// dropped. `None`: not known yet.
    counted: Option<u64>,
}

/// How the delivery of a batch ended.
enum End {
    Delivered,
    /// Given up, with all its events.
    Refused,
    Expired,
}

impl Courier {
    /// A courier with a connection of its own; nothing is sent before [`Courier::run`]. `seed` is for jitter.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn new(
        settings: WebhookSettings,
        (node, version): (&str, &str),
        source: Arc<dyn EventSource>,
        (figures, of_queue): (Arc<DeliveryFigures>, Arc<QueueFigures>),
        seed: u64,
    ) -> Result<Self, ClientError> {
        let client = Client::new(&settings, version)?;
        let backoff = Backoff::new(settings.retry_min, settings.retry_max, seed);
        let node = node.to_owned();
        Ok(Self {
            settings,
            node,
            source,
            client,
            figures,
            of_queue,
            backoff,
            run: 0,
            expected: None,
            counted: None,
        })
    }

    /// Delivers for ever. Dropping the future stops at once: what was not acknowledged is delivered after the next start.
    pub async fn run(mut self) {
        let (source, name) = (Arc::clone(&self.source), self.settings.name.clone());
        let first = spawn_blocking(move || source.first_waiting(&name));
        self.expected = first.await.ok().flatten();
        // What this run has stored by now does not wait from before.
        self.counted = self.expected.map(|first| self.begin().map_or(first, |begin| begin.min(first)));
        let (source, name) = (Arc::clone(&self.source), self.settings.name.clone());
        let mut feed = Feed::new(source, name, self.settings.batch_max_events);
        loop {
            let looked = spawn_blocking(move || {
                let next = feed.next();
                (feed, next)
            });
            let Ok((back, next)) = looked.await else {
                tracing::error!(webhook = self.settings.name, "reading events has panicked: no more of them");
                return;
            };
            feed = back;
            match next {
                Ok(Next::Batch(batch, more_wait)) => {
                    self.handle(batch).await;
                    if !more_wait {
                        sleep(self.settings.batch_max_delay).await;
                    }
                }
                Ok(Next::Gone(through)) => self.gone(through).await,
                Ok(Next::Nothing) => sleep(self.settings.batch_max_delay).await,
                Err(error) => {
                    tracing::error!(webhook = self.settings.name, %error, "events wait");
                    sleep(self.settings.retry_max).await;
                }
            }
        }
    }

    async fn handle(&mut self, mut batch: Batch) {
        if batch.run() != self.run {
            self.run = batch.run();
            // While anything waits the numbers go on from run to run, else they begin anew.
            self.expected = self.expected.filter(|expected| *expected <= batch.first());
            self.counted = self.counted.filter(|counted| *counted <= batch.first());
        }
        self.count_gone(batch.first());
        self.counted = Some(batch.end());
        self.expected.get_or_insert(batch.first());
        let end = self.deliver(&mut batch).await;
        let events = batch.len() as u64;
        match end {
            End::Delivered => {
                self.expected = Some(batch.end());
                self.figures.delivered.fetch_add(events, Ordering::Relaxed);
                self.figures.batches.fetch_add(1, Ordering::Relaxed);
            }
            End::Refused => drop(self.figures.refused.fetch_add(events, Ordering::Relaxed)),
            End::Expired => {}
        }
        self.acknowledge(batch.through(), Some(batch.end())).await;
    }

    /// All that waited has expired, or is damaged.
    async fn gone(&mut self, through: Place) {
        let (source, name) = (Arc::clone(&self.source), self.settings.name.clone());
        let end = spawn_blocking(move || source.number_after(&name, through)).await.ok().flatten();
        if let Some(end) = end {
            self.count_gone(end);
            self.counted = self.counted.max(Some(end));
        }
        self.acknowledge(through, end).await;
    }

    /// Events that were never read expired, or the log lost them, but for those that it has not even taken.
    fn count_gone(&self, next: u64) {
        let gone = next.saturating_sub(self.counted.or(self.begin()).unwrap_or(next));
        let unstored = self.of_queue.unstored.load(Ordering::Relaxed).min(gone);
        self.of_queue.unstored.fetch_sub(unstored, Ordering::Relaxed);
        if gone > unstored {
            self.figures.expired.fetch_add(gone - unstored, Ordering::Relaxed);
            tracing::warn!(
                webhook = self.settings.name,
                events = gone - unstored,
                "events are too old and dropped"
            );
        }
    }

    fn begin(&self) -> Option<u64> {
        Some(self.of_queue.begin.load(Ordering::Relaxed)).filter(|begin| *begin > 0)
    }

    /// Sends a batch until it is delivered, or there is no point in it any more.
    async fn deliver(&mut self, batch: &mut Batch) -> End {
        let (mut refusals, mut attempt, mut body) = (0, 0, None);
        loop {
            let expired = batch.expire(unix_ms() / 1000);
            if expired > 0 {
                self.figures.expired.fetch_add(expired as u64, Ordering::Relaxed);
                tracing::warn!(webhook = self.settings.name, expired, "events are too old and dropped");
                body = None;
            }
            if batch.is_empty() {
                return End::Expired;
            }
            let expected = self.expected.unwrap_or(batch.first());
            let bytes =
                body.get_or_insert_with(|| batch.body(&self.settings.name, &self.node, expected, unix_ms()));
            attempt += 1;
            let pause = match self.client.post(&batch.id(), attempt, bytes.clone()).await {
                Verdict::Delivered => {
                    self.recovered();
                    return End::Delivered;
                }
                Verdict::Again(trouble, asked) => self.failed(&trouble, asked),
                Verdict::Refused(status) => {
                    refusals += 1;
                    if refusals >= self.settings.refusals_max {
                        self.give_up(batch, status.as_u16());
                        return End::Refused;
                    }
                    self.failed(&status, None)
                }
            };
            sleep(pause).await;
        }
    }

    /// Says that a batch did not get through, once until one does, and returns the pause before the next try.
    fn failed(&mut self, why: &dyn std::fmt::Display, asked: Option<Duration>) -> Duration {
        if self.backoff.failures() == 0 {
            tracing::warn!(webhook = self.settings.name, %why, "events cannot be delivered; trying again");
        }
        self.figures.retries.fetch_add(1, Ordering::Relaxed);
        self.backoff.next(asked)
    }

    fn recovered(&mut self) {
        let failures = self.backoff.failures();
        if failures > 0 {
            tracing::info!(webhook = self.settings.name, failures, "events are delivered again");
        }
        self.backoff.reset();
    }

    fn give_up(&mut self, batch: &Batch, status: u16) {
        let (events, id) = (batch.len(), batch.id());
        let tries = self.settings.refusals_max;
        tracing::error!(
            webhook = self.settings.name,
            batch = id,
            events,
            status,
            "the backend has refused a batch {tries} times: skipped, so that those behind it go on"
        );
        self.backoff.reset();
    }

    /// An acknowledgement that is not noted costs a repetition after a restart, nothing else.
    async fn acknowledge(&self, through: Place, next: Option<u64>) {
        for _ in 0..ACKNOWLEDGE_TRIES {
            if self.source.acknowledge(&self.settings.name, through, next) {
                return;
            }
            sleep(ACKNOWLEDGE_PAUSE).await;
        }
        tracing::warn!(webhook = self.settings.name, "an acknowledgement could not be noted");
    }
}
