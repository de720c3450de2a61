//! The hot part of a connection: one cache line. An idle connection owns nothing else.
//!
//! Everything that only a busy, slow or unusual connection needs (partial input, output that did not fit, more than
//! two subscriptions, connection info) stands in [`crate::hub::cold`], found by `cold` and given back once empty.

use crate::base::ids::Descriptor;
use crate::base::rate::Bucket;
use crate::base::tick::Tick;
use crate::base::wheel::Link;
use crate::protocol::Encoding;

/// Means "none" in every index of this module.
pub(crate) const NONE: u32 = u32::MAX;

/// Subscriptions that fit into the hot part.
pub(crate) const INLINE_SUBSCRIPTIONS: usize = 2;

/// Where a connection stands. Transitions only go down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Waits for the end of the HTTP request head.
    Handshake,
    /// Upgraded; waits for the connect command.
    Upgraded,
    /// The connect command waits for homes to answer.
    Connecting,
    /// Connected.
    Live,
    /// Connect was answered with an error: any further command is a violation.
    Failed,
    /// A close frame is out; input is discarded, the timer resets the socket.
    Closing,
}

/// Bits of [`Connection::flags`].
pub(crate) mod flag {
    /// Protobuf instead of JSON.
    pub(crate) const PROTOBUF: u8 = 1;
    /// A ping is out and its pong has not come.
    pub(crate) const AWAITING_PONG: u8 = 1 << 1;
    /// A command waits for an answer from another shard, or for the end of a pause; later input is stashed.
    pub(crate) const BLOCKED: u8 = 1 << 2;
    /// The kernel's send buffer was full; output waits for writability.
    pub(crate) const CORKED: u8 = 1 << 3;
    /// Stands in the shard's list of connections with output to flush this turn.
    pub(crate) const DIRTY: u8 = 1 << 4;
    /// Stands in the shard's list of connections to read again.
    pub(crate) const RESUMED: u8 = 1 << 5;
    /// WebSocket ping frames instead of empty replies; any WebSocket pong answers them.
    pub(crate) const NATIVE_PING: u8 = 1 << 6;
    /// Counts in the admission's number of connections that are not authenticated yet.
    pub(crate) const UNAUTHENTICATED: u8 = 1 << 7;
}

/// Bits of a subscription.
pub(crate) mod sub {
    /// The home has not answered yet: nothing is delivered.
    pub(crate) const PENDING: u8 = 1;
    /// Made by the server: by token, personal channel or API.
    pub(crate) const SERVER_SIDE: u8 = 1 << 1;
    /// Gets join and leave pushes.
    pub(crate) const JOIN_LEAVE: u8 = 1 << 2;
    /// Counts in presence.
    pub(crate) const PRESENCE: u8 = 1 << 3;
    /// Announces itself by join and leave.
    pub(crate) const ANNOUNCED: u8 = 1 << 4;
    /// Offset and epoch were promised.
    pub(crate) const POSITIONED: u8 = 1 << 5;
    /// Came from the connection token (compared at refresh).
    pub(crate) const FROM_TOKEN: u8 = 1 << 6;
    /// The server API took it back while it was pending: it ends as soon as it stands.
    pub(crate) const REVOKED: u8 = 1 << 7;
}

/// One subscription of a connection: which channel record, and where in its list of subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// Handle of the local channel record.
    pub(crate) channel: u32,
    /// Index in the channel's subscriber list, `NONE` while alone. While pending: the number its grant must carry.
    pub(crate) index: u32,
}

impl Subscription {
    /// An empty place.
    pub(crate) const EMPTY: Self = Self { channel: NONE, index: NONE };
}

/// One cache line per connection.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Connection {
    /// Links of the timing wheel and the armed deadline.
    pub(crate) timer: Link,
    /// The socket.
    pub(crate) socket: Descriptor,
    /// Distinguishes the occupants of this slot.
    pub(crate) generation: u32,
    /// Handle of the local user record, `NONE` before connect.
    pub(crate) user: u32,
    /// The first subscriptions; the rest is cold.
    pub(crate) subscriptions: [Subscription; INLINE_SUBSCRIPTIONS],
    /// When the next ping is due, or (while awaiting a pong) when it went out.
    pub(crate) ping: Tick,
    /// Tick at which the connection expires, grace included; 0 = never.
    pub(crate) expires: u32,
    /// Index of the cold part, `NONE` for most.
    pub(crate) cold: u32,
    /// Hash of the source address, for the limit per address.
    pub(crate) source: u32,
    /// Command rate.
    pub(crate) rate: Bucket,
    /// Bits of the inline subscriptions.
    pub(crate) subscription_flags: [u8; INLINE_SUBSCRIPTIONS],
    /// Where the connection stands.
    pub(crate) phase: Phase,
    /// See [`flag`].
    pub(crate) flags: u8,
}

const _: () = assert!(size_of::<Connection>() == 64, "a connection is one cache line");

impl Connection {
    /// A connection that was just accepted.
    pub(crate) fn accepted(socket: Descriptor, generation: u32, source: u32, rate: Bucket) -> Self {
        Self {
            timer: Link::default(),
            socket,
            generation,
            user: NONE,
            subscriptions: [Subscription::EMPTY; INLINE_SUBSCRIPTIONS],
            ping: Tick(0),
            expires: 0,
            cold: NONE,
            source,
            rate,
            subscription_flags: [0; INLINE_SUBSCRIPTIONS],
            phase: Phase::Handshake,
            flags: 0,
        }
    }

    /// True if `bit` is set.
    pub(crate) fn has(&self, bit: u8) -> bool {
        self.flags & bit != 0
    }

    /// Sets or clears `bit`.
    pub(crate) fn set(&mut self, bit: u8, on: bool) {
        if on {
            self.flags |= bit;
        } else {
            self.flags &= !bit;
        }
    }

    /// The encoding the client chose.
    pub(crate) fn encoding(&self) -> Encoding {
        if self.has(flag::PROTOBUF) { Encoding::Protobuf } else { Encoding::Json }
    }

    /// True if output waits that the kernel did not take, and nothing says that it takes it now.
    pub(crate) fn is_stuck(&self) -> bool {
        self.has(flag::CORKED) && !self.has(flag::DIRTY)
    }

    /// True while input is to be read and parsed now.
    pub(crate) fn wants_input(&self) -> bool {
        self.phase < Phase::Closing && !self.has(flag::BLOCKED)
    }
}
