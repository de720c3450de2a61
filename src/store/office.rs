//! The state machine of the store: what waits for the log, for whom, and what is said when the log has it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use slab::Slab;

use super::acknowledge::{LateAck, LostAck};
use super::archive::Archive;
use super::dead_letter::Burials;
use super::earlier::Earlier;
use super::events::EventQueues;
use super::history::{Histories, PendingHistory};
use super::letters::Letters;
use super::reads::Reads;
use super::redeliver::Redelivery;
use super::send::{PendingMessage, Place, SendJob};
use crate::base::hash::NameHash;
use crate::base::ids::ShardId;
use crate::base::rng::Rng;
use crate::base::tick::{Now, Tick};
use crate::hub::api::{ApiAnswer, ApiCommand, ApiError, STORE};
use crate::hub::idempotency::Idempotency;
use crate::hub::mail::{Answer, ApiAsk, HomeReply, Mail, ReplyBody, Ticket};
use crate::hub::shard::Common;
use crate::hub::store::{Owner, StoreAsk, StoreFigures, StoreMail};
use crate::limits;
use crate::log::error::{AppendError, RefuseError};
use crate::log::record::Sequence;
use crate::log::request::{Ack, Append, AppendRequest, Appended};

/// Requests that may wait for room in the log's queue before new messages are refused.
const WAITING: usize = 8192;

/// Expired results of idempotent sends dropped in one turn.
const SWEPT: usize = 64;

/// See the module documentation.
pub struct Office<A> {
    pub(super) common: Arc<Common>,
    pub(super) hasher: NameHash,
    pub(super) archive: A,
    pub(super) rng: Rng,
    pub(super) letters: Letters,
    /// The highest record whose acknowledgement has been handled: replays end there.
    pub(super) processed: Sequence,
    /// What the log has been asked for, in order.
    in_flight: VecDeque<(u64, Pending)>,
    /// What the log had no room for, in order.
    waiting: VecDeque<(AppendRequest, Pending)>,
    next_token: u64,
    pub(super) sends: Slab<SendJob>,
    /// Idempotent sends on their way, by user and key: who waits for the same result.
    pub(super) keys: HashMap<(Box<str>, Box<str>), Vec<Place>>,
    /// Offset and epoch of sends by user and key.
    pub(super) idempotency: Idempotency<(u64, u32)>,
    /// Those of sends before the start.
    pub(super) earlier: Earlier,
    pub(super) histories: Histories,
    pub(super) reads: Reads,
    pub(super) late_acks: HashMap<Owner, LateAck>,
    /// When the first of them is due.
    pub(super) acks_due: Option<Tick>,
    /// The process ends: what fails is not tried again.
    pub(super) is_ending: bool,
    pub(super) redeliveries: HashMap<Owner, Redelivery>,
    /// Letters on their way into a durable history.
    pub(super) burials: Burials,
    pub(super) events: EventQueues,
    pub(super) figures: StoreFigures,
}

/// For whom a request waits for its acknowledgement.
#[derive(Debug)]
pub(super) enum Pending {
    /// A message.
    Message(Box<PendingMessage>),
    /// A session's acknowledgement, and the command that waits for it.
    Acknowledge(Box<Owner>, u64, Option<Ticket>),
    /// Something about a durable history.
    History(Box<PendingHistory>),
    /// A call of the server API, answered with nothing but success.
    Api(u64),
    /// Events: the index of their queue, and how many.
    Events(usize, usize),
    /// Nobody.
    Nobody,
}

impl<A: Archive> Office<A> {
    /// An office over a log whose last record so far is `processed`. `seed` makes the ids of messages; it must differ
    /// from run to run.
    #[must_use]
    pub fn new(common: Arc<Common>, archive: A, processed: Sequence, seed: u64) -> Self {
        let (hasher, secret, shards) = (NameHash::new(common.secret), common.secret, common.shards);
        Self {
            common,
            hasher,
            archive,
            rng: Rng::new(seed),
            letters: Letters::new(shards),
            processed,
            in_flight: VecDeque::new(),
            waiting: VecDeque::new(),
            next_token: 0,
            sends: Slab::new(),
            keys: HashMap::new(),
            idempotency: Idempotency::new(secret, limits::IDEMPOTENT_SENDS),
            earlier: Earlier::default(),
            histories: Histories::new(secret),
            reads: Reads::default(),
            late_acks: HashMap::new(),
            acks_due: None,
            is_ending: false,
            redeliveries: HashMap::new(),
            burials: Burials::default(),
            events: EventQueues::default(),
            figures: StoreFigures::default(),
        }
    }

    /// Takes in one question.
    pub fn ask(&mut self, ask: StoreAsk, now: Now) {
        self.take_in_turn(ask, now);
    }

    pub(super) fn take(&mut self, ask: StoreAsk, now: Now) {
        match ask {
            StoreAsk::Open(ask) => self.open(*ask, now),
            StoreAsk::More(ask) => self.more(*ask, now),
            StoreAsk::Redeliver(ask) => self.redeliver(*ask, now),
            StoreAsk::Acknowledge(ask) => self.acknowledge(*ask, now),
            StoreAsk::History(ask) => self.history(*ask, now),
            StoreAsk::Api(ask) if self.is_ending => {
                self.answer(ask.id, ApiAnswer::Error(ApiError::StorageUnavailable));
            }
            StoreAsk::Api(ask) => self.call(*ask, now),
            StoreAsk::Events(batch) => self.take_events(&batch, now),
            StoreAsk::Delivered(ask) => self.delivered(&ask),
        }
    }

    /// Takes in an acknowledgement of the log.
    pub fn acknowledged(&mut self, ack: &Ack, now: Now) {
        let Some((token, pending)) = self.in_flight.pop_front() else { return };
        debug_assert_eq!(token, ack.token, "the log answers in the order of the requests");
        if let Ok(appended) = ack.result {
            self.processed = self.processed.max(appended.sequence);
        }
        self.done(pending, ack.result, now);
    }

    /// Ends a turn: what waited for room goes to the log, what waited for time is done.
    pub fn settle(&mut self, now: Now) {
        while let Some((request, pending)) = self.waiting.pop_front() {
            if !self.try_append(request, pending, now) {
                break;
            }
        }
        self.end_burials(now);
        self.flush_acks(now);
        self.flush_events(now);
        self.idempotency.sweep(now.tick, SWEPT);
        self.histories.sweep(now, SWEPT);
        self.go_on_reading(now);
    }

    /// When [`settle`](Self::settle) has something to do again, acknowledgements and readers aside.
    #[must_use]
    pub fn wake_at(&self) -> Option<Tick> {
        self.acks_due.into_iter().chain(self.events.wake_at()).min()
    }

    /// The end is near: nothing waits for time any more.
    pub fn hasten(&mut self, now: Now) {
        self.is_ending = true;
        self.end_reading();
        self.late_acks.values_mut().for_each(|late| late.due = now.tick);
        self.acks_due = self.acks_due.map(|_| now.tick);
        self.events.hasten(now);
        self.settle(now);
    }

    /// True if the log owes nothing and has been asked for everything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
            && self.waiting.is_empty()
            && self.late_acks.is_empty()
            && self.events.is_idle()
    }

    /// Hands out mail for the shards until `accept` gives it back. Returns how much left.
    pub fn drain_mail(&mut self, accept: impl FnMut(ShardId, Mail) -> Result<(), Mail>) -> usize {
        self.letters.drain(accept)
    }

    /// Answers for the control plane.
    pub fn take_answers(&mut self) -> impl Iterator<Item = Answer> {
        self.letters.take_answers()
    }

    /// Letters that have not left.
    #[must_use]
    pub fn letters(&self) -> usize {
        self.letters.len()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn figures(&self) -> StoreFigures {
        StoreFigures {
            in_flight: self.in_flight.len() as u64,
            waiting: self.waiting.len() as u64,
            letters: self.letters.len() as u64,
            late_acks: self.late_acks.len() as u64,
            ..self.figures
        }
    }

    /// True while the log or a shard is so far behind that nothing new should be stored.
    pub(super) fn is_overloaded(&self) -> bool {
        self.waiting.len() >= WAITING || self.letters.is_congested()
    }

    /// True while requests wait for room in the log's queue.
    pub(super) fn has_backlog(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Asks the log to append, behind everything that was asked before.
    pub(super) fn append(&mut self, append: Append, pending: Pending, now: Now) {
        let request = AppendRequest { token: self.next_token, append };
        self.next_token += 1;
        if self.waiting.is_empty() {
            self.try_append(request, pending, now);
        } else {
            self.waiting.push_back((request, pending));
        }
    }

    /// False if there was no room: the request then stands first in the queue.
    fn try_append(&mut self, request: AppendRequest, pending: Pending, now: Now) -> bool {
        let token = request.token;
        match self.archive.append(request).map_err(|refusal| *refusal) {
            Ok(()) => self.in_flight.push_back((token, pending)),
            Err((RefuseError::Full, request)) => {
                self.waiting.push_front((request, pending));
                return false;
            }
            Err((RefuseError::TooLarge, _)) => self.refused(pending, ApiError::TooLarge, now),
            Err((RefuseError::Closed, _)) => self.refused(pending, ApiError::StorageUnavailable, now),
        }
        true
    }

    fn done(&mut self, pending: Pending, result: Result<Appended, AppendError>, now: Now) {
        match (pending, result) {
            (Pending::Message(message), Ok(appended)) => self.stored(*message, appended, now),
            (Pending::Acknowledge(owner, through, ticket), Ok(appended)) => {
                self.burials.acknowledged(&owner, through);
                self.ack_stored(&owner, appended, ticket);
            }
            (Pending::History(history), Ok(appended)) => self.history_done(*history, Ok(appended), now),
            (Pending::Api(id), Ok(_)) => self.answer(id, ApiAnswer::Done),
            (Pending::Events(queue, count), Ok(_)) => self.events.stored(queue, count, true),
            (Pending::Nobody, Ok(_)) => {}
            (pending, Err(error)) => self.refused(pending, api_error(error), now),
        }
    }

    /// The log does not take a request.
    fn refused(&mut self, pending: Pending, error: ApiError, now: Now) {
        match pending {
            Pending::Message(message) => self.not_stored(*message, error),
            Pending::Acknowledge(owner, through, ticket) => {
                self.ack_failed(LostAck { owner: *owner, through, ticket }, error, now);
            }
            Pending::History(history) => self.history_done(*history, Err(error), now),
            Pending::Api(id) => self.answer(id, ApiAnswer::Error(error)),
            Pending::Events(queue, count) => self.events.stored(queue, count, false),
            Pending::Nobody => {}
        }
    }

    fn call(&mut self, ask: ApiAsk, now: Now) {
        let ApiAsk { id, command } = ask;
        if self.common.settings.mailbox.is_none() {
            return self.answer(id, ApiAnswer::Error(ApiError::NotAvailable));
        }
        match command {
            ApiCommand::Send(send) => self.send(id, &send, now),
            ApiCommand::MailboxInfo { user, device } => self.mailbox_info(id, &user, &device, now),
            ApiCommand::MailboxList { user, since, limit } => self.mailbox_list(id, user, since, limit, now),
            ApiCommand::MailboxAck { user, device, offset } => {
                self.mailbox_ack(id, user, device, offset, now);
            }
            ApiCommand::MailboxForget { user, device } => self.mailbox_forget(id, user, device, now),
            ApiCommand::MailboxPurge { user } => self.mailbox_purge(id, user, now),
            _ => self.answer(id, ApiAnswer::Error(ApiError::NotAvailable)),
        }
    }

    pub(super) fn answer(&mut self, id: u64, answer: ApiAnswer) {
        self.letters.answer(Answer { id, shard: STORE, answer });
    }

    /// Mail to the home of a channel.
    pub(super) fn tell_home(&mut self, channel: &str, mail: StoreMail) {
        let home = self.common.home_of_channel(&self.hasher, channel);
        self.letters.send(home, Mail::Store(Box::new(mail)));
    }

    /// An answer to a command that does not concern a stream's order.
    pub(super) fn reply(&mut self, ticket: Ticket, body: ReplyBody) {
        let reply = HomeReply { ticket, channel: "".into(), body };
        self.letters.send(ticket.key.shard, Mail::Reply(Box::new(reply)));
    }
}

fn api_error(error: AppendError) -> ApiError {
    match error {
        AppendError::MailboxFull => ApiError::MailboxFull,
        AppendError::NotStored(_) | AppendError::Uncertain(_) | AppendError::Closed => {
            ApiError::StorageUnavailable
        }
        AppendError::TooManyDevices => ApiError::TooManyDevices,
    }
}
