//! What only a busy, slow or unusual connection needs, pooled: taken when needed, given back once empty.

use bytes::Bytes;
use slab::Slab;

use crate::base::tick::Tick;
use crate::hub::connect::PendingConnect;
use crate::hub::connection::{NONE, Subscription};
use crate::hub::outbox::Outbox;
use crate::hub::session_mailbox::MailboxPart;
use crate::hub::session_presence::PendingUsers;
use crate::limits;
use crate::wire::http::HeadScan;
use crate::wire::message::Assembly;

/// Ticks of a second.
const SECOND: u32 = 10;

/// Emptied parts kept for reuse at most.
const SPARE_LIMIT: usize = 16;

/// The cold part of one connection.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    /// An HTTP request head that has not ended yet.
    pub(crate) head: Vec<u8>,
    /// How much of it was looked at.
    pub(crate) head_scan: HeadScan,
    /// A WebSocket frame or message that has not ended yet.
    pub(crate) assembly: Option<Box<Assembly>>,
    /// When the open message must have ended.
    pub(crate) assembly_deadline: Option<Tick>,
    /// Output that is not in the kernel yet.
    pub(crate) outbox: Outbox,
    /// The peer has sent its FIN: while it is not read, commands before it wait for no output that the kernel does not
    /// take; later, once the output is out, nothing is left to wait for.
    pub(crate) has_hung_up: bool,
    /// The command that waits for another shard, and the input behind it.
    pub(crate) blocked: Option<Box<Blocked>>,
    /// Connection info from the token (`conn_info`).
    pub(crate) info: Option<Bytes>,
    /// Subscriptions beyond the inline ones.
    pub(crate) more: Vec<(Subscription, u8)>,
    /// Info and expiry of subscriptions that have them.
    pub(crate) extras: Vec<SubscriptionExtra>,
    /// Commands over the rate, until none came for [`limits::STRIKES_TICKS`].
    pub(crate) strikes: u8,
    /// When the last of them came.
    pub(crate) struck_at: Tick,
    /// End of the pause in reading, while `blocked` waits for it.
    pub(crate) paused_until: Option<Tick>,
    /// Control frames since `control_since`.
    pub(crate) control_frames: u8,
    /// Start of the second in which control frames are counted.
    pub(crate) control_since: Tick,
    /// What is under way between the session and its mailbox.
    pub(crate) mailbox: Option<Box<MailboxPart>>,
}

/// What few subscriptions have.
#[derive(Debug)]
pub(crate) struct SubscriptionExtra {
    /// Handle of the local channel record.
    pub(crate) channel: u32,
    /// Info of the subscription (`chan_info`).
    pub(crate) info: Option<Bytes>,
    /// When the subscription expires, grace included.
    pub(crate) expires: Option<Tick>,
}

/// A command that waits, and what arrived behind it.
#[derive(Debug)]
pub(crate) struct Blocked {
    /// Number of the wait; answers with another number are late.
    pub(crate) number: u32,
    /// What waits.
    pub(crate) wait: Wait,
    /// The rest of the frame the command stood in.
    pub(crate) commands: Rest,
    /// Bytes that were read behind that frame.
    pub(crate) input: Rest,
}

/// Bytes that wait, looked at where they stand: whatever blocks again takes the buffer along, so that what waits behind
/// a thousand commands is not copied a thousand times.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    bytes: Vec<u8>,
    from: usize,
}

impl Rest {
    /// A copy of `bytes`.
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), from: 0 }
    }

    /// Adds bytes at the end.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// What waits.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.from..).unwrap_or_default()
    }

    /// What waits, to be unmasked in place.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.from..).unwrap_or_default()
    }

    /// Only the last `count` bytes wait any longer.
    pub(crate) fn keep_last(&mut self, count: usize) {
        self.from = self.bytes.len().saturating_sub(count);
    }

    /// True if nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.from == self.bytes.len()
    }

    fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}

/// What waits.
#[derive(Debug)]
pub(crate) enum Wait {
    /// The connect command.
    Connect(Box<PendingConnect>),
    /// A subscribe command.
    Subscribe {
        /// Id of the command.
        id: u32,
        /// `expires` and `ttl` for the reply.
        ttl: Option<u32>,
    },
    /// `presence.get`.
    Users(Box<PendingUsers>),
    /// Publish, presence, presence stats or history.
    Command {
        /// Id of the command.
        id: u32,
    },
    /// Nothing: too many commands came, and the rest of them waits for the end of the pause.
    Pause,
    /// Nothing: so much output waits that the next commands wait for it.
    Output {
        /// Bytes that have yet to leave.
        left: usize,
    },
}

impl Blocked {
    fn memory_bytes(&self) -> usize {
        let wait = if let Wait::Connect(pending) = &self.wait { pending.memory_bytes() } else { 0 };
        size_of::<Self>() + self.commands.memory_bytes() + self.input.memory_bytes() + wait
    }
}

impl Cold {
    fn is_empty(&self) -> bool {
        self.head.is_empty()
            && self.assembly.is_none()
            && self.outbox.is_empty()
            && self.blocked.is_none()
            && self.info.is_none()
            && self.more.is_empty()
            && self.extras.is_empty()
            && self.paused_until.is_none()
            && self.strikes == 0
            && self.control_frames == 0
            && self.mailbox.is_none()
            && !self.has_hung_up
    }

    /// The connect command that waits, if one does.
    pub(crate) fn pending_connect(&mut self) -> Option<&mut PendingConnect> {
        match &mut self.blocked.as_mut()?.wait {
            Wait::Connect(pending) => Some(pending),
            _ => None,
        }
    }

    /// When something here falls due.
    pub(crate) fn next_due(&self) -> Option<Tick> {
        let extras = self.extras.iter().filter_map(|extra| extra.expires).min();
        let strikes = (self.strikes > 0).then(|| self.struck_at.after(limits::STRIKES_TICKS));
        let control = (self.control_frames > 0).then(|| self.control_since.after(SECOND));
        let mailbox = self.mailbox.as_ref().and_then(|part| part.next_due());
        [extras, self.paused_until, self.assembly_deadline, strikes, control, mailbox]
            .into_iter()
            .flatten()
            .min()
    }

    /// Forgets what was counted in a time that is over.
    pub(crate) fn forget_counts(&mut self, now: Tick) {
        if now.since(self.struck_at) >= limits::STRIKES_TICKS {
            self.strikes = 0;
        }
        if now.since(self.control_since) >= SECOND {
            self.control_frames = 0;
        }
    }

    /// So many bytes of the output went into the kernel.
    pub(crate) fn advance(&mut self, count: usize) {
        self.outbox.advance(count);
        if let Some(Wait::Output { left }) = self.blocked.as_mut().map(|blocked| &mut blocked.wait) {
            *left = left.saturating_sub(count);
        }
    }

    /// Drops everything but what is still to be written.
    pub(crate) fn keep_output_only(&mut self) {
        let outbox = std::mem::take(&mut self.outbox);
        *self = Self { outbox, ..Self::default() };
    }

    fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.head.capacity()
            + self.outbox.memory_bytes()
            + self.assembly.as_ref().map_or(0, |assembly| assembly.memory())
            + self.blocked.as_ref().map_or(0, |blocked| blocked.memory_bytes())
            + self.info.as_ref().map_or(0, Bytes::len)
            + self.more.capacity() * size_of::<(Subscription, u8)>()
            + self.extras.capacity() * size_of::<SubscriptionExtra>()
            + self.mailbox.as_ref().map_or(0, |part| part.memory_bytes())
    }
}

/// All cold parts of a shard.
#[derive(Debug, Default)]
pub(crate) struct ColdPool {
    parts: Slab<Box<Cold>>,
    #[allow(clippy::vec_box, reason = "the boxes move between the two, their content does not")]
    spare: Vec<Box<Cold>>,
}

impl ColdPool {
    /// Parts in use.
    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }

    /// The part at `index`.
    pub(crate) fn get(&self, index: u32) -> Option<&Cold> {
        self.parts.get(index as usize).map(|part| &**part)
    }

    /// The part at `index`, to change.
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Cold> {
        self.parts.get_mut(index as usize).map(|part| &mut **part)
    }

    /// The part at `*index`, made if there is none.
    pub(crate) fn obtain(&mut self, index: &mut u32) -> &mut Cold {
        if *index == NONE {
            let part = self.spare.pop().unwrap_or_default();
            *index = self.parts.insert(part) as u32;
        }
        &mut self.parts[*index as usize]
    }

    /// Takes the part back if it is empty.
    pub(crate) fn release_if_empty(&mut self, index: &mut u32) {
        if self.get(*index).is_some_and(Cold::is_empty) {
            self.discard(index);
        }
    }

    /// Takes the part back with whatever it holds.
    pub(crate) fn discard(&mut self, index: &mut u32) {
        let Some(mut part) = self.parts.try_remove(*index as usize) else { return };
        *index = NONE;
        if self.spare.len() < SPARE_LIMIT {
            let mut outbox = std::mem::take(&mut part.outbox);
            outbox.clear();
            *part = Cold { outbox, ..Cold::default() };
            self.spare.push(part);
        }
        if self.parts.is_empty() {
            self.parts = Slab::new();
        }
    }

    /// Gives spare parts back.
    pub(crate) fn shrink(&mut self) {
        self.spare = Vec::new();
    }

    /// Adds what the part at `at` holds, output that waits apart. False beyond the last one.
    pub(crate) fn survey(&self, at: usize, held: &mut usize, waiting: &mut usize) -> bool {
        if let Some(part) = self.parts.get(at) {
            let output = part.outbox.memory_bytes();
            *held += part.memory_bytes() - output;
            *waiting += output;
        }
        at < self.parts.capacity()
    }

    /// Bytes of the pool itself and its spare parts.
    pub(crate) fn own_bytes(&self) -> usize {
        let spare: usize = self.spare.iter().map(|part| size_of::<Cold>() + part.outbox.memory_bytes()).sum();
        self.parts.len() * 16 + spare
    }
}
