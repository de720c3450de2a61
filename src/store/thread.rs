//! The store's thread: takes acknowledgements and questions, ends the turn, hands the mail out, sleeps. It holds no
//! decisions.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::archive::LogArchive;
use super::inbox::Acks;
pub use super::inbox::Inbox;
use super::office::Office;
use crate::base::ids::ShardId;
use crate::base::tick::{Now, TICK_MS};
use crate::hub::api::{ApiAnswer, ApiError, STORE};
use crate::hub::events::QueueFigures;
use crate::hub::mail::{Answer, Mail};
use crate::hub::settings::EventQueueSettings;
use crate::hub::shard::Common;
use crate::hub::store::StoreFigures;
use crate::log::Log;
use crate::log::error::StorageError;
use crate::log::record::Sequence;

/// Requests that the log may have at a time.
pub const ALLOWANCE: usize = 4096;

/// Questions taken in one turn, so that acknowledgements and mail do not wait for a storm of clients that connect.
const ASKS_PER_TURN: usize = 256;

/// Longest sleep: figures are refreshed once a second.
const IDLE: Duration = Duration::from_secs(1);

/// Sleep while the inbox of a shard is full: it is running, so look again soon.
const BACKED_UP: Duration = Duration::from_micros(200);

/// How long the end waits for a log that does not answer, in ticks.
const LAST_TICKS: u32 = 100;

/// What the thread needs to run.
pub struct StoreParts {
    /// Settings and secrets of the process.
    pub common: Arc<Common>,
    /// The open log.
    pub log: Log,
    /// Its last record.
    pub last: Sequence,
    /// Where questions come in; made for [`ALLOWANCE`] acknowledgements.
    pub inbox: Arc<Inbox>,
    /// Puts mail into the inbox of a shard and wakes it, or gives the mail back.
    pub deliver: Box<dyn Fn(ShardId, Mail) -> Result<(), Mail> + Send>,
    /// Where answers for the control plane go.
    pub answers: Box<dyn Fn(Answer) + Send>,
    /// Where figures go, once a second.
    pub publish: Box<dyn Fn(StoreFigures) + Send>,
    /// The process's clock.
    pub clock: Box<dyn Fn() -> Now + Send>,
    /// Makes the ids of messages; different in every run.
    pub seed: u64,
    /// Queues of events that backends want, and where their figures go.
    pub queues: EventQueues,
}

/// Queues of events, each with its figures.
pub type EventQueues = Vec<(EventQueueSettings, Arc<QueueFigures>)>;

/// The running store.
#[derive(Debug)]
pub struct Store {
    inbox: Arc<Inbox>,
    thread: JoinHandle<Result<(), StorageError>>,
}

impl Store {
    /// Starts the thread.
    ///
    /// # Errors
    /// Those of `clone(2)`.
    pub fn start(parts: StoreParts) -> io::Result<Self> {
        let inbox = Arc::clone(&parts.inbox);
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || run(parts))?;
        Ok(Self { inbox, thread })
    }

    /// Takes what is queued, waits until the log has it, closes the log. Call it once the shards have ended.
    ///
    /// # Errors
    /// Of the log: the next start recovers from its records.
    pub fn stop(self) -> Result<(), StorageError> {
        self.inbox.stop();
        self.thread.join().unwrap_or(Err(StorageError::Other(0)))
    }
}

fn run(parts: StoreParts) -> Result<(), StorageError> {
    let StoreParts { common, log, last, inbox, deliver, answers, publish, clock, seed, queues } = parts;
    let appender = log.appender(Box::new(Acks(Arc::clone(&inbox))), ALLOWANCE);
    let archive = LogArchive { appender: appender.clone(), reader: log.reader(), pages: RefCell::default() };
    inbox.belongs_to(std::thread::current());
    let mut office = Office::new(common, archive, last, seed).with_events(queues, clock());
    let mut published = None;
    let mut ending = None;
    loop {
        inbox.begin();
        // Asked once: a turn that ends the process has ended what waits for time first.
        let is_stopping = inbox.is_stopping();
        let now = clock();
        let mut acks = 0;
        while let Some(ack) = inbox.next_ack() {
            office.acknowledged(&ack, now);
            acks += 1;
        }
        appender.release(acks);
        if is_stopping {
            office.hasten(now);
        } else {
            office.settle(now);
        }
        // Answers hold whole pages of messages: while the shards do not take them, questions wait where they are bounded.
        let room = if is_stopping || !office.is_behind() { ASKS_PER_TURN } else { 0 };
        let taken = (0..room).map_while(|_| inbox.next_ask()).map(|ask| office.ask(ask, now)).count();
        office.take_answers().for_each(&answers);
        office.drain_mail(&deliver);
        let second = now.unix_seconds();
        if published != Some(second) {
            published = Some(second);
            publish(StoreFigures { queued: inbox.len() as u64, ..with_log(office.figures(), &log) });
        }
        if is_stopping {
            let since = *ending.get_or_insert(now.tick);
            let is_done = office.is_idle() && inbox.is_empty();
            if is_done || now.tick.since(since) > LAST_TICKS {
                break;
            }
        }
        if taken == 0 && acks == 0 && !office.is_reading() {
            std::thread::park_timeout(pause(&office, now));
        }
    }
    inbox.close();
    for ask in inbox.leftover_calls() {
        answers(Answer { id: ask.id, shard: STORE, answer: ApiAnswer::Error(ApiError::StorageUnavailable) });
    }
    log.close()
}

fn pause(office: &Office<LogArchive>, now: Now) -> Duration {
    if office.letters() > 0 {
        return BACKED_UP;
    }
    let due =
        office.wake_at().map(|at| Duration::from_millis(u64::from(at.since(now.tick).max(1)) * TICK_MS));
    due.unwrap_or(IDLE).min(IDLE)
}

fn with_log(figures: StoreFigures, log: &Log) -> StoreFigures {
    let reader = log.reader();
    let status = reader.status();
    let (streams, index_bytes) = reader.index_size();
    StoreFigures {
        log_records: status.records,
        log_bytes: status.bytes,
        log_groups: status.groups,
        log_segments_given_up: status.segments_given_up,
        log_lost_syncs: status.lost_syncs,
        log_expired_reads: status.expired_reads,
        log_damaged_reads: status.damaged_reads,
        log_maintenance_failures: status.maintenance_failures,
        log_faulty: status.fault.is_some(),
        streams: streams as u64,
        index_bytes: index_bytes as u64,
        ..figures
    }
}
