//! The session side of a mailbox: what a session was given, what it has acknowledged, and when it is given more.
//!
//! A session has a [`MailboxPart`] only while something of its mailbox is under way, or if its client named a device.
//!
//! | the session is | live messages | how it goes on |
//! |---|---|---|
//! | at the top | are handed over at once | |
//! | catching up | are skipped: the store has them | once a page has left the outbox, the shard asks for the next |
//!
//! TCP is ordered, so a pong to a ping that went out behind a message proves that the client has read the message: a
//! ping notes what was sent before it, its pong acknowledges that.

use std::sync::Arc;

use crate::base::tick::Tick;
use crate::hub::cold::Wait;
use crate::hub::connection::Phase;
use crate::hub::mail::{Delivery, Ticket};
use crate::hub::metrics::SentKind;
use crate::hub::object::object;
use crate::hub::publication::{fits_json, view, wrapped};
use crate::hub::settings::MailboxSettings;
use crate::hub::shard::{Common, Shard, ticks_of};
use crate::hub::store::{AckAsk, MailboxGrant, Owner, Page, PageAsk, PageKind, StoreAsk};
use crate::hub::stream::Publication;
use crate::limits;
use crate::protocol::{DisconnectCode, Encoding, ErrorCode, encode_push_publication};

/// What is under way between a session and its mailbox.
#[derive(Debug, Default)]
pub(crate) struct MailboxPart {
    /// Device with a cursor of its own, empty for the user's.
    device: Box<str>,
    /// Offset of the newest message that was handed over.
    sent: u64,
    /// Everything up to here is acknowledged.
    acknowledged: u64,
    /// What was sent before the last ping.
    pinged: u64,
    /// When that ping went out.
    pinged_at: Tick,
    /// When what is not acknowledged is sent again, or what could not be read is asked for again.
    due: Tick,
    /// Incarnation of the mailbox.
    epoch: u32,
    /// Times in a row that messages were sent again.
    attempts: u8,
    replay: Replay,
}

/// Where the replay stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Replay {
    /// At the top.
    #[default]
    Done,
    /// The next page is asked for once the outbox is empty.
    Due,
    /// The next page is under way.
    Asked,
    /// The log could not be read: asked again when `due`.
    Failed,
}

/// Parameters of `mailbox.ack`.
#[derive(serde::Deserialize)]
struct AckParams {
    offset: u64,
}

/// What the `data` of a connect command says, as far as a mailbox is concerned.
#[derive(serde::Deserialize)]
struct ConnectData<'a> {
    #[serde(borrow)]
    device: std::borrow::Cow<'a, str>,
}

/// The device that a client names in the data of its connect command. Anything but 1 to 64 bytes of text in an object
/// names none.
pub(crate) fn device_of(data: Option<&[u8]>) -> Option<Box<str>> {
    let data: ConnectData<'_> = object(data?)?;
    let fits = (1..=limits::DEVICE_BYTES).contains(&data.device.len());
    fits.then(|| data.device.as_ref().into())
}

impl MailboxPart {
    /// A session that has nothing yet.
    pub(crate) fn of_device(device: Box<str>) -> Self {
        Self { device, ..Self::default() }
    }

    /// When something here falls due.
    pub(crate) fn next_due(&self) -> Option<Tick> {
        let waits =
            self.replay == Replay::Failed || (self.replay == Replay::Done && self.is_unacknowledged());
        waits.then_some(self.due)
    }

    /// True if nothing has to be remembered.
    pub(crate) fn is_idle(&self) -> bool {
        self.replay == Replay::Done && !self.is_unacknowledged() && self.device.is_empty()
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.device.len()
    }

    fn is_unacknowledged(&self) -> bool {
        self.sent > self.acknowledged
    }

    /// Messages from `first` to `last` are handed over. True if they are the only ones that wait for an acknowledgement.
    fn hand_over(&mut self, first: u64, last: u64, epoch: u32, due: Tick) -> bool {
        let before = first.saturating_sub(1);
        if self.epoch != epoch {
            (self.epoch, self.sent, self.acknowledged, self.pinged) = (epoch, before, before, before);
        }
        let is_first = !self.is_unacknowledged();
        if is_first {
            self.acknowledged = self.acknowledged.max(before);
            (self.due, self.attempts) = (due, 0);
        }
        self.sent = self.sent.max(last);
        is_first
    }

    /// Everything up to `through` is acknowledged. True if that is news.
    fn acknowledge(&mut self, through: u64, due: Tick) -> bool {
        let through = through.min(self.sent);
        if through <= self.acknowledged {
            return false;
        }
        self.acknowledged = through;
        (self.due, self.attempts) = (due, 0);
        true
    }
}

impl Common {
    /// The user whose mailbox a channel stands for. Of a user whose id has the marks of channel names in it, the name of
    /// the personal channel means others, so there is no mailbox.
    #[must_use]
    pub fn mailbox_user<'a>(&self, channel: &'a str) -> Option<&'a str> {
        self.settings.mailbox.as_ref()?;
        let namespace = self.settings.client.personal_channel.as_ref()?.namespace.as_str();
        let names = &self.settings.channel;
        let rest = match namespace {
            "" => channel,
            namespace => channel.strip_prefix(namespace)?.strip_prefix(names.namespace_boundary.as_str())?,
        };
        let user = rest.strip_prefix(names.user_boundary.as_str())?;
        (self.personal_user(channel) == Some(user)).then_some(user)
    }
}

impl Shard {
    /// Set where the channel is the session's own mailbox.
    pub(crate) fn mailbox_owner(&mut self, slot: u32, channel: &str) -> Option<Box<Owner>> {
        let user = self.common.mailbox_user(channel).filter(|user| *user == self.user_of(slot))?.into();
        let part = self.cold_if_any(slot).and_then(|cold| cold.mailbox.as_ref());
        Some(Box::new(Owner { user, device: part.map(|part| part.device.clone()).unwrap_or_default() }))
    }

    /// The client named a device.
    pub(crate) fn set_device(&mut self, slot: u32, device: Box<str>) {
        if let Some(cold) = self.cold(slot) {
            cold.mailbox = Some(Box::new(MailboxPart::of_device(device)));
        }
    }

    /// A subscription to the session's own mailbox stands, and its first page is on the way to the client.
    pub(crate) fn open_mailbox(&mut self, slot: u32, grant: &MailboxGrant) {
        let due = self.acknowledgement_due();
        if self.connections.0.get(slot as usize).is_none_or(|connection| connection.phase != Phase::Live) {
            return;
        }
        let Some(cold) = self.cold(slot) else { return };
        let part = cold.mailbox.get_or_insert_default();
        let device = std::mem::take(&mut part.device);
        **part = MailboxPart {
            device,
            sent: grant.sent,
            acknowledged: grant.acknowledged.min(grant.sent),
            pinged: grant.acknowledged.min(grant.sent),
            due,
            epoch: grant.epoch,
            replay: if grant.next == PageKind::Last { Replay::Done } else { Replay::Due },
            ..MailboxPart::default()
        };
        if grant.next == PageKind::Failed {
            self.ask_again_later(slot);
        }
        self.settle_mailbox(slot);
        self.arm(slot);
    }

    /// The subscription ended; the device stays known.
    pub(crate) fn close_mailbox(&mut self, slot: u32) {
        if let Some(part) = self.cold_if_any(slot).and_then(|cold| cold.mailbox.as_deref_mut()) {
            *part = MailboxPart::of_device(std::mem::take(&mut part.device));
        }
        self.settle_mailbox(slot);
    }

    /// A message that was stored just now, for one of the subscribers of its channel.
    pub(crate) fn deliver_message(&mut self, slot: u32, handle: u32, delivery: &Arc<Delivery>) {
        let Some((offset, epoch)) = delivery.mailbox else { return };
        if self.common.mailbox_user(&delivery.channel).is_none_or(|user| user != self.user_of(slot)) {
            return self.deliver_to(slot, handle, delivery);
        }
        let part = self.cold_if_any(slot).and_then(|cold| cold.mailbox.as_ref());
        if part
            .is_some_and(|part| part.replay != Replay::Done || (part.epoch == epoch && part.sent >= offset))
        {
            return;
        }
        if part.is_some_and(|part| part.epoch == epoch && part.sent + 1 < offset) {
            return self.fill_gap(slot);
        }
        let active = self.subscription_flags(slot, handle).is_some_and(|flags| self.stands(slot, flags));
        self.deliver_to(slot, handle, delivery);
        if active {
            self.metrics.mailbox_delivered += 1;
            self.note_hand_over(slot, offset, offset, epoch);
        }
    }

    /// A live message does not follow on what was handed over: the store knows what lies between, if anything does. To
    /// hand it over would let its pong acknowledge what the client never got.
    fn fill_gap(&mut self, slot: u32) {
        if let Some(part) = self.cold_if_any(slot).and_then(|cold| cold.mailbox.as_mut()) {
            part.replay = Replay::Due;
        }
        self.mailbox_drained(slot);
    }

    fn note_hand_over(&mut self, slot: u32, first: u64, last: u64, epoch: u32) {
        let due = self.acknowledgement_due();
        if self.connections.0.get(slot as usize).is_none_or(|connection| connection.phase != Phase::Live) {
            return;
        }
        let Some(cold) = self.cold(slot) else { return };
        if cold.mailbox.get_or_insert_default().hand_over(first, last, epoch, due) {
            self.arm(slot);
        }
    }

    /// A page of the session's mailbox.
    pub(crate) fn mailbox_page(&mut self, page: &Page) {
        let slot = page.key.slot;
        if !self.is_current(slot, page.key.generation) || !self.is_subscribed(slot, &page.channel) {
            return;
        }
        let again = matches!(page.kind, PageKind::Again { .. });
        let Some(part) = self.cold_if_any(slot).and_then(|cold| cold.mailbox.as_mut()) else { return };
        let awaited = if again { Replay::Done } else { Replay::Asked };
        if part.replay != awaited || (!again && part.sent != page.after) {
            return;
        }
        match page.kind {
            PageKind::More => part.replay = Replay::Due,
            PageKind::Last => part.replay = Replay::Done,
            PageKind::Failed => return self.ask_again_later(slot),
            PageKind::Again { through } if part.epoch == page.epoch => {
                part.acknowledged = part.acknowledged.max(through.min(part.sent));
            }
            PageKind::Again { .. } => {}
        }
        let count = page.publications.len() as u64;
        if again {
            self.metrics.mailbox_redelivered += count;
        } else {
            self.metrics.mailbox_replayed += count;
        }
        self.send_messages(slot, &page.channel, &page.publications);
        if let (false, Some(first), Some(last)) = (again, page.publications.first(), page.publications.last())
        {
            self.note_hand_over(slot, first.offset, last.offset, page.epoch);
        }
        self.mailbox_drained(slot);
        self.settle_mailbox(slot);
        self.arm(slot);
    }

    /// Messages as ordinary publications.
    pub(crate) fn send_messages(&mut self, slot: u32, channel: &str, publications: &[Arc<Publication>]) {
        let speaks_json =
            self.connections.0.get(slot as usize).is_some_and(|c| c.encoding() == Encoding::Json);
        for publication in publications {
            let is_unfit = speaks_json && !fits_json(publication);
            if is_unfit && !self.common.is_on_disk(channel) {
                return self.disconnect(slot, DisconnectCode::InappropriateProtocol);
            }
            let wrapped = is_unfit.then(|| wrapped(publication));
            let publication = wrapped.as_ref().unwrap_or(publication);
            self.say(slot, SentKind::PushPublication, |out, encoding| {
                encode_push_publication(out, encoding, channel, &view(publication));
            });
        }
    }

    /// The outbox of a session is empty: one that catches up wants more.
    pub(crate) fn mailbox_drained(&mut self, slot: u32) {
        let Some(cold) = self.cold_if_any(slot).filter(|cold| cold.outbox.is_empty()) else { return };
        let Some(part) = cold.mailbox.as_mut().filter(|part| part.replay == Replay::Due) else { return };
        part.replay = Replay::Asked;
        if let Some(ask) = self.page_ask(slot) {
            self.post.ask_store(StoreAsk::More(ask));
        }
    }

    fn ask_again_later(&mut self, slot: u32) {
        let pause = limits::UNREADABLE_TICKS + self.rng.below(limits::UNREADABLE_TICKS);
        let due = self.now.tick.after(pause);
        if let Some(part) = self.cold_if_any(slot).and_then(|cold| cold.mailbox.as_mut()) {
            (part.replay, part.due) = (Replay::Failed, due);
        }
        self.arm(slot);
    }

    fn page_ask(&mut self, slot: u32) -> Option<Box<PageAsk>> {
        let channel = self.mailbox_channel(slot)?;
        let owner = *self.mailbox_owner(slot, &channel)?;
        let key = self.key(slot);
        let part = self.cold_if_any(slot)?.mailbox.as_ref()?;
        Some(Box::new(PageAsk { key, channel, owner, after: part.sent, epoch: part.epoch }))
    }

    fn mailbox_channel(&self, slot: u32) -> Option<Box<str>> {
        let namespace = &self.common.settings.client.personal_channel.as_ref()?.namespace;
        let user = Some(self.user_of(slot)).filter(|user| !user.is_empty())?;
        Some(crate::hub::channel_name::personal(&self.common.settings.channel, namespace, user).into())
    }

    /// A ping goes out.
    pub(crate) fn mailbox_pinged(&mut self, slot: u32) {
        let now = self.now.tick;
        if let Some(part) = self.cold_if_any(slot).and_then(|cold| cold.mailbox.as_mut()) {
            (part.pinged, part.pinged_at) = (part.sent, now);
        }
    }

    /// Names the last ping of a session with a mailbox, so that its pong is known from those of earlier ones; empty
    /// where no pong acknowledges anything.
    pub(crate) fn mailbox_ping_payload(&mut self, slot: u32) -> Vec<u8> {
        let part = self.cold_if_any(slot).and_then(|cold| cold.mailbox.as_ref());
        part.map(|part| part.pinged_at.0.to_be_bytes().to_vec()).unwrap_or_default()
    }

    /// A WebSocket pong came in. Several pings may be under way, and pongs may come unasked (RFC 6455, section 5.5.3):
    /// only the echo of the last ping acknowledges.
    pub(crate) fn mailbox_ponged_natively(&mut self, slot: u32, payload: &[u8]) {
        let last = self.mailbox_ping_payload(slot);
        if !last.is_empty() && last == payload {
            self.mailbox_ponged(slot);
        }
    }

    /// The pong to that ping came in.
    pub(crate) fn mailbox_ponged(&mut self, slot: u32) {
        let Some(settings) = self.common.settings.mailbox.as_ref().filter(|of| of.ack_by_pong) else {
            return;
        };
        let wait = ticks_of(settings.ack_wait);
        let Some(part) = self.cold_if_any(slot).and_then(|cold| cold.mailbox.as_mut()) else { return };
        if !part.acknowledge(part.pinged, part.pinged_at.after(wait)) {
            return;
        }
        let (through, epoch) = (part.acknowledged, Some(part.epoch));
        let channel = self.mailbox_channel(slot);
        if let Some(owner) = channel.and_then(|channel| self.mailbox_owner(slot, &channel)) {
            let ask = AckAsk { owner: *owner, through, epoch, ticket: None };
            self.post.ask_store(StoreAsk::Acknowledge(Box::new(ask)));
        }
        self.settle_mailbox(slot);
    }

    /// `mailbox.ack`
    pub(crate) fn mailbox_ack(&mut self, slot: u32, id: u32, data: &[u8]) -> Result<(), ErrorCode> {
        if self.common.settings.mailbox.is_none() {
            return Err(ErrorCode::NotAvailable);
        }
        let params: AckParams = object(data).ok_or(ErrorCode::BadRequest)?;
        let channel = self.mailbox_channel(slot).ok_or(ErrorCode::PermissionDenied)?;
        let owner = *self.mailbox_owner(slot, &channel).ok_or(ErrorCode::PermissionDenied)?;
        let part = self.cold_if_any(slot).and_then(|cold| cold.mailbox.as_ref());
        let epoch = part.map(|part| part.epoch).filter(|epoch| *epoch != 0);
        let number = self.block(slot, Wait::Command { id });
        let ticket = Some(Ticket { key: self.key(slot), number });
        let ask = AckAsk { owner, through: params.offset, epoch, ticket };
        self.post.ask_store(StoreAsk::Acknowledge(Box::new(ask)));
        Ok(())
    }

    /// The log has the acknowledgement that a command asked for.
    pub(crate) fn mailbox_acknowledged(&mut self, slot: u32, id: u32, through: u64) {
        let due = self.acknowledgement_due();
        if let Some(part) = self.cold_if_any(slot).and_then(|cold| cold.mailbox.as_mut()) {
            part.acknowledge(through, due);
        }
        self.settle_mailbox(slot);
        self.rpc_result(slot, id, b"{}");
    }

    /// The timer of a live session fired: maybe for its mailbox.
    pub(crate) fn mailbox_timer(&mut self, slot: u32) {
        let (now, wait) = (self.now.tick, self.acknowledgement_wait());
        let jitter = self.rng.below(wait / 4 + 1);
        let Some(cold) = self.cold_if_any(slot) else { return };
        let is_read = cold.outbox.is_empty();
        let Some(part) = cold.mailbox.as_mut().filter(|of| of.next_due().is_some_and(|due| due <= now))
        else {
            return;
        };
        if part.replay == Replay::Failed {
            part.replay = Replay::Due;
            return self.mailbox_drained(slot);
        }
        // What still waits in our own queue was not given to anybody.
        part.attempts =
            if is_read { part.attempts.saturating_add(1).min(limits::BACKOFF_DOUBLINGS) } else { 0 };
        part.due = now.after((wait << part.attempts).saturating_add(jitter << part.attempts));
        if is_read && let Some(ask) = self.page_ask(slot) {
            self.post.ask_store(StoreAsk::Redeliver(ask));
        }
    }

    /// Forgets what need not be remembered.
    fn settle_mailbox(&mut self, slot: u32) {
        if let Some(cold) = self.cold_if_any(slot)
            && cold.mailbox.as_ref().is_some_and(|part| part.is_idle())
        {
            cold.mailbox = None;
            self.release_cold(slot);
        }
    }

    fn acknowledgement_wait(&self) -> u32 {
        let wait = |settings: &MailboxSettings| ticks_of(settings.ack_wait);
        self.common.settings.mailbox.as_ref().map_or(0, wait).clamp(1, u32::MAX >> 10)
    }

    fn acknowledgement_due(&self) -> Tick {
        self.now.tick.after(self.acknowledgement_wait())
    }
}
