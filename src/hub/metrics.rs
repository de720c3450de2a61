//! Figures of one shard, as plain numbers: the hub counts, the control plane renders (server-api.md section 6).
//!
//! Every label is a closed enum, so the number of time series has a bound that no peer can move.

/// Declares an enum of labels, with its members in order.
macro_rules! labels {
    ($(#[$meta:meta])* $name:ident { $($(#[$member_meta:meta])* $member:ident => $label:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$member_meta])* $member),+ }

        impl $name {
            /// Every member, in the order of the arrays of [`ShardMetrics`].
            pub const ALL: &'static [Self] = &[$(Self::$member),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// As it stands in the metrics.
            #[must_use]
            pub fn label(self) -> &'static str {
                match self { $(Self::$member => $label),+ }
            }
        }
    };
}

labels! {
    /// Kinds of messages to clients (`frame_type`).
    SentKind {
        /// Reply to `connect`.
        Connect => "connect",
        /// Reply to `subscribe`.
        Subscribe => "subscribe",
        /// Reply to `unsubscribe`.
        Unsubscribe => "unsubscribe",
        /// Reply to `publish`.
        Publish => "publish",
        /// Reply to `presence`.
        Presence => "presence",
        /// Reply to `presence_stats`.
        PresenceStats => "presence_stats",
        /// Reply to `history`.
        History => "history",
        /// Reply to `rpc`.
        Rpc => "rpc",
        /// Reply to `refresh`.
        Refresh => "refresh",
        /// Reply to `sub_refresh`.
        SubRefresh => "sub_refresh",
        /// Error reply to any command.
        Error => "error",
        /// Ping of the server.
        Ping => "ping",
        /// Publication.
        PushPublication => "push_publication",
        /// Somebody came.
        PushJoin => "push_join",
        /// Somebody left.
        PushLeave => "push_leave",
        /// End of a subscription.
        PushUnsubscribe => "push_unsubscribe",
        /// Server-side subscription.
        PushSubscribe => "push_subscribe",
        /// Message without a channel.
        PushMessage => "push_message",
        /// New expiry.
        PushRefresh => "push_refresh",
    }
}

labels! {
    /// Kinds of commands from clients (`frame_type`).
    ReceivedKind {
        /// `connect`
        Connect => "connect",
        /// `subscribe`
        Subscribe => "subscribe",
        /// `unsubscribe`
        Unsubscribe => "unsubscribe",
        /// `publish`
        Publish => "publish",
        /// `presence`
        Presence => "presence",
        /// `presence_stats`
        PresenceStats => "presence_stats",
        /// `history`
        History => "history",
        /// `rpc`
        Rpc => "rpc",
        /// `send`
        Send => "send",
        /// `refresh`
        Refresh => "refresh",
        /// `sub_refresh`
        SubRefresh => "sub_refresh",
        /// The empty command.
        Pong => "pong",
        /// Anything that could not be understood.
        Malformed => "malformed",
    }
}

labels! {
    /// Why a connection was refused before it became one.
    Refusal {
        /// `connection_limit`, or the capacity of the host.
        ConnectionLimit => "connection_limit",
        /// `connection_rate_limit`.
        RateLimit => "rate_limit",
        /// Too many from one source address.
        AddressLimit => "address_limit",
        /// Memory runs short (`server.memory_limit`).
        Memory => "memory",
        /// The process or the host is out of descriptors.
        Descriptors => "descriptors",
        /// Origin not allowed.
        Origin => "origin",
        /// Not a valid request or upgrade.
        BadRequest => "bad_request",
        /// No such path.
        NotFound => "not_found",
        /// No whole request in time.
        Timeout => "timeout",
        /// Silent, and too many others were.
        Silent => "silent",
        /// The control plane was behind.
        HandOver => "hand_over",
        /// The server is stopping.
        Draining => "draining",
    }
}

labels! {
    /// Why a message for a mailbox was refused.
    SendRefusal {
        /// The mailbox is at its limit.
        MailboxFull => "mailbox_full",
        /// The disk.
        Storage => "storage",
        /// The record is larger than a segment takes.
        TooLarge => "too_large",
        /// The log or a shard is far behind.
        Overloaded => "overloaded",
    }
}

labels! {
    /// What the memory of a shard is held for.
    MemoryCategory {
        /// Slab of connections.
        Connections => "connections",
        /// Cold parts of connections: partial frames, queues, tokens.
        ConnectionsCold => "connections_cold",
        /// Frames waiting for slow readers.
        OutQueues => "out_queues",
        /// Users and their sessions.
        Users => "users",
        /// Channels homed here and their subscribers.
        Channels => "channels",
        /// Subscriptions of connections.
        Subscriptions => "subscriptions",
        /// Presence.
        Presence => "presence",
        /// Publications kept for history and recovery.
        History => "history",
        /// Timing wheel.
        Timers => "timers",
        /// Queues between shards and to the control plane.
        Mail => "mail",
        /// Buffers of the shell: the read buffer, pools.
        Buffers => "buffers",
    }
}

/// Disconnect codes that are counted one by one; all others (custom ones) share the last place of
/// [`ShardMetrics::disconnects`].
pub const DISCONNECT_CODES: [u16; 27] = [
    1000, 1001, 1002, 1007, 1008, 1009, 3000, 3001, 3003, 3004, 3005, 3006, 3008, 3009, 3010, 3011, 3012,
    3013, 3500, 3501, 3502, 3503, 3504, 3505, 3506, 3507, 3508,
];
/// Unsubscribe codes that are counted one by one; all others share the last place.
pub const UNSUBSCRIBE_CODES: [u16; 4] = [2000, 2500, 2501, 2502];
/// Lowest error code of a reply; [`ShardMetrics::reply_errors`] counts from it, others share the last place.
pub const FIRST_ERROR_CODE: u16 = 100;
/// Error codes counted one by one.
pub const ERROR_CODES: usize = 14;

/// Figures of one shard. Gauges say how it is, counters only grow; all wrap at 2^64, which is never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardMetrics {
    /// Gauge: sockets, from accept to close.
    pub connections: u64,
    /// Gauge: connections that completed the connect command.
    pub clients: u64,
    /// Gauge: distinct users homed here.
    pub users: u64,
    /// Gauge: subscriptions of connections of this shard.
    pub subscriptions: u64,
    /// Subscriptions that were granted.
    pub subscriptions_accepted: u64,
    /// Gauge: channels with subscribers homed here.
    pub channels: u64,
    /// Gauge: bytes that wait for slow readers.
    pub out_queue_bytes: u64,
    /// Gauge: mail from other shards not yet handled.
    pub mail_queue: u64,
    /// Gauge: bytes by category, at the index of [`MemoryCategory`].
    pub memory: [u64; MemoryCategory::COUNT],
    /// Connections accepted.
    pub accepts: u64,
    /// Connections refused, at the index of [`Refusal`].
    pub refusals: [u64; Refusal::COUNT],
    /// Messages to clients, at the index of [`SentKind`].
    pub sent: [u64; SentKind::COUNT],
    /// Commands of clients, at the index of [`ReceivedKind`].
    pub received: [u64; ReceivedKind::COUNT],
    /// Bytes written to sockets.
    pub bytes_sent: u64,
    /// Bytes read from sockets.
    pub bytes_received: u64,
    /// Writes to sockets (system calls).
    pub writes: u64,
    /// Those of them that told of nothing but joins, leaves and counts.
    pub announcement_writes: u64,
    /// Disconnects by the server, at the index of [`DISCONNECT_CODES`], the last place for all others.
    pub disconnects: [u64; DISCONNECT_CODES.len() + 1],
    /// Unsubscribes by the server, at the index of [`UNSUBSCRIBE_CODES`], the last place for all others.
    pub unsubscribes: [u64; UNSUBSCRIBE_CODES.len() + 1],
    /// Error replies, at the index of code − [`FIRST_ERROR_CODE`], the last place for all others.
    pub reply_errors: [u64; ERROR_CODES + 1],
    /// Recoveries that found every missed publication.
    pub recovered: u64,
    /// Recoveries that did not.
    pub not_recovered: u64,
    /// Pings sent.
    pub pings: u64,
    /// Pongs received in time.
    pub pongs: u64,
    /// Publications taken in by the channels homed here.
    pub publications: u64,
    /// Publications left out for readers who were behind (`drop_oldest`, and what a subscription misses that ended).
    pub publications_dropped: u64,
    /// Publications that waited for a reader when a newer one took their place (`keep_latest`).
    pub publications_conflated: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Mail from other shards.
    pub mail_in: u64,
    /// Mail to other shards.
    pub mail_out: u64,
    /// Times mail waited because the other shard's queue was full.
    pub mail_full: u64,
    /// Gauge: connections short of their connect command.
    pub unauthenticated: u64,
    /// Gaps between two turns so long that pong deadlines started anew.
    pub stalls: u64,
    /// Times that the shard stood still for a second and more with work to do. The watchdog counts them, and the
    /// application puts them here.
    pub standstills: u64,
    /// Commands beyond the rate.
    pub commands_over_rate: u64,
    /// Requests passed to the control plane.
    pub handed_over: u64,
    /// Bytes of input that were copied to wait behind a command.
    pub input_bytes_kept: u64,
    /// Records looked at for the gauges of memory.
    pub records_surveyed: u64,
    /// Framing violations of clients.
    pub violations: u64,
    /// Messages of mailboxes that were handed to live sessions as they were stored.
    pub mailbox_delivered: u64,
    /// Messages that were handed over page by page.
    pub mailbox_replayed: u64,
    /// Messages that were handed to the same session again.
    pub mailbox_redelivered: u64,
}

impl ShardMetrics {
    /// Counts a refusal.
    pub fn refuse(&mut self, reason: Refusal) {
        bump(&mut self.refusals, reason as usize);
    }

    /// Counts a message to a client.
    pub fn send(&mut self, kind: SentKind) {
        bump(&mut self.sent, kind as usize);
    }

    /// Counts a command of a client.
    pub fn receive(&mut self, kind: ReceivedKind) {
        bump(&mut self.received, kind as usize);
    }

    /// Counts a disconnect by the server.
    pub fn disconnect(&mut self, code: u16) {
        bump(&mut self.disconnects, place(&DISCONNECT_CODES, code));
    }

    /// Counts an unsubscribe by the server.
    pub fn unsubscribe(&mut self, code: u16) {
        bump(&mut self.unsubscribes, place(&UNSUBSCRIBE_CODES, code));
    }

    /// Counts an error reply.
    pub fn reply_error(&mut self, code: u16) {
        let place = code
            .checked_sub(FIRST_ERROR_CODE)
            .map_or(ERROR_CODES, |place| usize::from(place).min(ERROR_CODES));
        bump(&mut self.reply_errors, place);
    }
}

fn place(codes: &[u16], code: u16) -> usize {
    codes.iter().position(|known| *known == code).unwrap_or(codes.len())
}

fn bump(counters: &mut [u64], place: usize) {
    if let Some(counter) = counters.get_mut(place) {
        *counter = counter.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_place_and_strangers_share_one() {
        let mut metrics = ShardMetrics::default();
        for code in [3012, 3012, 4711] {
            metrics.disconnect(code);
        }
        for code in [99, 100, 113, 114, u16::MAX] {
            metrics.reply_error(code);
        }
        assert_eq!(metrics.disconnects.iter().sum::<u64>(), 3);
        assert_eq!(metrics.disconnects.last(), Some(&1));
        assert_eq!((metrics.reply_errors[0], metrics.reply_errors[13], metrics.reply_errors[14]), (1, 1, 3));
    }

    #[test]
    fn members_stand_at_their_own_index() {
        for (place, kind) in SentKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, place);
        }
    }
}
