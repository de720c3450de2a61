//! The seam between the control plane and the shards: questions out, answers back, correlated by id.
//!
//! Invariants:
//! * Questions and answers cross on bounded queues that `app` owns ([`ShardPort`], [`Answers`](super::answers::Answers)); nothing here blocks.
//! * At most [`GatewaySettings::outstanding_max`] questions are under way; more wait, and give up with [`Overloaded`].
//! * Every question ends: with its answer, or after the timeout with error 100. A late answer is ignored.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::answers::{AnswerInbox, Delivered};
use crate::base::ids::ShardId;
use crate::hub::api::{ApiAnswer, ApiCommand, ApiError};

/// A question to a shard.
#[derive(Debug)]
pub struct ApiAsk {
    /// Comes back with the answer; unique in the life of the process.
    pub id: u64,
    /// What is asked.
    pub command: ApiCommand,
}

/// The shard's queue was full; the question comes back.
#[derive(Debug)]
pub struct Full(pub Box<ApiAsk>);

/// The way into the shards: `app` implements it with its queues and wakes.
pub trait ShardPort: Send + Sync {
    /// Puts a question into the shard's queue and wakes the shard. Must not block.
    ///
    /// # Errors
    /// [`Full`] with the question where the queue has no room.
    fn send(&self, shard: ShardId, ask: ApiAsk) -> Result<(), Full>;
}

/// The home shard of a channel.
pub type HomeOf = Arc<dyn Fn(&str) -> ShardId + Send + Sync>;

/// Bounds of the seam.
#[derive(Clone, Copy, Debug)]
pub struct GatewaySettings {
    /// Shards of this process.
    pub shards: u16,
    /// From the question to the answer.
    pub timeout: Duration,
    /// Questions under way at a time. The answer queue should hold as many.
    pub outstanding_max: usize,
}

/// Neither the shards nor the queues took the question in time: HTTP 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the gateway is overloaded")]
pub struct Overloaded;

/// Asks shards; cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    port: Box<dyn ShardPort>,
    home_of: HomeOf,
    settings: GatewaySettings,
    permits: Semaphore,
    next_id: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

struct Waiting {
    shard: ShardId,
    reply: oneshot::Sender<ApiAnswer>,
}

/// First and longest pause before a full queue is tried again.
const FULL_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(32));

impl Gateway {
    /// A gateway over `port`; [`Gateway::receive`] must run for answers to arrive.
    #[must_use]
    pub fn new(port: Box<dyn ShardPort>, home_of: HomeOf, settings: GatewaySettings) -> Self {
        let inner = Inner {
            port,
            home_of,
            settings,
            permits: Semaphore::new(settings.outstanding_max.clamp(1, Semaphore::MAX_PERMITS)),
            next_id: AtomicU64::new(1),
            waiting: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Gives the answers of the inbox to those who wait for them, for ever.
    ///
    /// # Errors
    /// If the inbox cannot be registered with the runtime.
    pub async fn receive(self, inbox: AnswerInbox) -> std::io::Result<()> {
        inbox.run(|delivered| self.inner.answer(delivered)).await
    }

    /// The home shard of `channel`.
    #[must_use]
    pub fn home_of(&self, channel: &str) -> ShardId {
        (self.inner.home_of)(channel)
    }

    /// Asks one shard. No answer in time is [`ApiError::Internal`].
    ///
    /// # Errors
    /// [`Overloaded`] where the question could not even be put.
    pub async fn call(&self, shard: ShardId, command: ApiCommand) -> Result<ApiAnswer, Overloaded> {
        let inner = &*self.inner;
        let deadline = Instant::now() + inner.settings.timeout;
        let permit = timeout_at(deadline, inner.permits.acquire()).await.map_err(|_| Overloaded)?;
        let _permit = permit.map_err(|_| Overloaded)?;
        let (registration, reply) = inner.register(shard);
        inner.put(shard, ApiAsk { id: registration.id, command }, deadline).await?;
        match timeout_at(deadline, reply).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Ok(ApiAnswer::Error(ApiError::Internal)),
        }
    }

    /// Asks every shard the same, all at once; the answers are in the order of the shards.
    ///
    /// # Errors
    /// [`Overloaded`] where one of them could not be asked.
    pub async fn call_all(&self, command: ApiCommand) -> Result<Vec<ApiAnswer>, Overloaded> {
        let calls = (0..self.inner.settings.shards).map(|shard| self.call(ShardId(shard), command.clone()));
        futures_util::future::join_all(calls).await.into_iter().collect()
    }
}

impl Inner {
    fn register(&self, shard: ShardId) -> (Registration<'_>, oneshot::Receiver<ApiAnswer>) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, receiver) = oneshot::channel();
        self.waiting().insert(id, Waiting { shard, reply });
        (Registration { inner: self, id }, receiver)
    }

    /// Puts the question, waiting a little where the queue is full: publishers are slowed before anything is refused.
    async fn put(&self, shard: ShardId, ask: ApiAsk, deadline: Instant) -> Result<(), Overloaded> {
        let (mut pause, longest) = FULL_PAUSE;
        let mut full = match self.port.send(shard, ask) {
            Ok(()) => return Ok(()),
            Err(full) => full,
        };
        while Instant::now() + pause < deadline {
            sleep(pause).await;
            pause = longest.min(pause * 2);
            full = match self.port.send(shard, *full.0) {
                Ok(()) => return Ok(()),
                Err(full) => full,
            };
        }
        Err(Overloaded)
    }

    fn answer(&self, delivered: Delivered) {
        let mut waiting = self.waiting();
        if waiting.get(&delivered.id).is_some_and(|waiting| waiting.shard == delivered.shard)
            && let Some(waiting) = waiting.remove(&delivered.id)
        {
            // Nobody listens any more where the request was abandoned in this very moment.
            let _ = waiting.reply.send(delivered.answer);
        }
    }

    /// Only the control thread takes this lock, so it is never contended.
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the question however the call ends, also when its future is dropped.
struct Registration<'a> {
    inner: &'a Inner,
    id: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.inner.waiting().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::{Answers, answer_queue};
    use super::*;
    use std::sync::atomic::AtomicUsize;

    type Script = dyn Fn(ShardId, ApiAsk) -> Result<(), Full> + Send + Sync;

    struct Scripted(Box<Script>);

    impl ShardPort for Scripted {
        fn send(&self, shard: ShardId, ask: ApiAsk) -> Result<(), Full> {
            (self.0)(shard, ask)
        }
    }

    fn gateway(
        outstanding_max: usize,
        script: impl Fn(&Answers, ShardId, ApiAsk) -> Result<(), Full> + Send + Sync + 'static,
    ) -> Gateway {
        let (answers, inbox) = answer_queue(64).unwrap();
        let port = Scripted(Box::new(move |shard, ask| script(&answers, shard, ask)));
        let settings = GatewaySettings { shards: 3, timeout: Duration::from_secs(5), outstanding_max };
        let gateway = Gateway::new(Box::new(port), Arc::new(|_| ShardId(1)), settings);
        tokio::spawn(gateway.clone().receive(inbox));
        gateway
    }

    #[tokio::test]
    async fn answers_find_their_questions() {
        let gateway = gateway(16, |answers, shard, ask| {
            // A stranger's answer with the same id must not be taken for the asked shard's.
            answers.deliver(ask.id, ShardId(shard.0 + 1), ApiAnswer::Done);
            answers.deliver(ask.id, shard, ApiAnswer::Channels(vec![(String::new(), u32::from(shard.0))]));
            Ok(())
        });
        let all = gateway.call_all(ApiCommand::Info).await.unwrap();
        for (shard, answer) in (0..).zip(all) {
            assert!(matches!(answer, ApiAnswer::Channels(of) if of == [(String::new(), shard)]));
        }
        assert!(gateway.inner.waiting().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_an_internal_error_and_late_answers_are_ignored() {
        let kept = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&kept);
        let gateway = gateway(1, move |answers, shard, ask| {
            *slot.lock().unwrap() = Some((answers.clone(), shard, ask.id));
            Ok(())
        });
        for _ in 0..3 {
            let answer = gateway.call(ShardId(2), ApiCommand::Info).await.unwrap();
            assert!(matches!(answer, ApiAnswer::Error(ApiError::Internal)));
            let (answers, shard, id) = kept.lock().unwrap().take().unwrap();
            answers.deliver(id, shard, ApiAnswer::Done);
        }
        assert!(gateway.inner.waiting().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_is_tried_again_before_it_is_an_overload() {
        let tries = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&tries);
        let gateway = gateway(16, move |answers, shard, ask| {
            if count.fetch_add(1, Ordering::Relaxed) < 3 {
                return Err(Full(Box::new(ask)));
            }
            answers.deliver(ask.id, shard, ApiAnswer::Done);
            Ok(())
        });
        assert!(matches!(gateway.call(ShardId(0), ApiCommand::Info).await, Ok(ApiAnswer::Done)));
        assert_eq!(tries.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_stays_full_is_an_overload() {
        let gateway = gateway(16, |_, _, ask| Err(Full(Box::new(ask))));
        assert_eq!(gateway.call(ShardId(0), ApiCommand::Info).await.unwrap_err(), Overloaded);
        assert!(gateway.inner.waiting().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn more_questions_than_allowed_wait() {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let gateway = gateway(2, move |_, _, _| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let calls = (0..5).map(|_| gateway.call(ShardId(0), ApiCommand::Info));
        let before_the_first_timeout = Duration::from_secs(4);
        let ends =
            tokio::time::timeout(before_the_first_timeout, futures_util::future::join_all(calls)).await;
        assert!(ends.is_err());
        assert_eq!(sent.load(Ordering::Relaxed), 2);
        assert!(gateway.inner.waiting().is_empty(), "abandoned questions are forgotten");
    }
}
