//! The code tables of the protocol (client-protocol.md section 5): closed enums, so that no other code can leave.
//!
//! A code is its enum's discriminant. Reasons are never empty and never valid JSON: an SDK parses a close reason as JSON
//! first, and reconnects after any close without a reason, terminal codes included.

/// Error in a reply to one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.message())]
#[repr(u32)]
pub enum ErrorCode {
    /// The server failed; the command may be tried again.
    Internal = 100,
    /// The connection has no user where one is required.
    Unauthorized = 101,
    /// The namespace of the channel does not exist.
    UnknownChannel = 102,
    /// The channel's options or the token do not allow it.
    PermissionDenied = 103,
    /// No such RPC method.
    MethodNotFound = 104,
    /// The connection holds this subscription already.
    AlreadySubscribed = 105,
    /// A limit of the connection is reached.
    LimitExceeded = 106,
    /// The command is well-formed but makes no sense.
    BadRequest = 107,
    /// The feature is switched off.
    NotAvailable = 108,
    /// The token is expired; SDKs fetch a new one and try again.
    TokenExpired = 109,
    /// The credentials are expired already.
    Expired = 110,
    /// The connection sends commands too fast.
    TooManyRequests = 111,
    /// The stream cannot be continued from the given position.
    UnrecoverablePosition = 112,
    /// Another page of the same subscription is under way.
    ConcurrentPagination = 113,
}

impl ErrorCode {
    /// Every code, in ascending order.
    pub const ALL: [Self; 14] = [
        Self::Internal,
        Self::Unauthorized,
        Self::UnknownChannel,
        Self::PermissionDenied,
        Self::MethodNotFound,
        Self::AlreadySubscribed,
        Self::LimitExceeded,
        Self::BadRequest,
        Self::NotAvailable,
        Self::TokenExpired,
        Self::Expired,
        Self::TooManyRequests,
        Self::UnrecoverablePosition,
        Self::ConcurrentPagination,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The text on the wire.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Internal => "internal server error",
            Self::Unauthorized => "unauthorized",
            Self::UnknownChannel => "unknown channel",
            Self::PermissionDenied => "permission denied",
            Self::MethodNotFound => "method not found",
            Self::AlreadySubscribed => "already subscribed",
            Self::LimitExceeded => "limit exceeded",
            Self::BadRequest => "bad request",
            Self::NotAvailable => "not available",
            Self::TokenExpired => "token expired",
            Self::Expired => "expired",
            Self::TooManyRequests => "too many requests",
            Self::UnrecoverablePosition => "unrecoverable position",
            Self::ConcurrentPagination => "concurrent pagination",
        }
    }

    /// Whether SDKs may repeat the command with a backoff.
    #[must_use]
    pub const fn temporary(self) -> bool {
        matches!(self, Self::Internal | Self::TooManyRequests | Self::ConcurrentPagination)
    }
}

/// Why the server ended a subscription, in an `unsubscribe` push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum UnsubscribeCode {
    /// Asked for through the server API; terminal.
    Server = 2000,
    /// Publications were lost on the way to this subscriber; SDKs subscribe again with recovery.
    InsufficientState = 2500,
    /// The subscription token ran out; SDKs subscribe again with a new one.
    Expired = 2501,
    /// Position and token are void; SDKs start anew.
    StateInvalidated = 2502,
}

impl UnsubscribeCode {
    /// Every code, in ascending order.
    pub const ALL: [Self; 4] = [Self::Server, Self::InsufficientState, Self::Expired, Self::StateInvalidated];

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The text on the wire.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Server => "server unsubscribe",
            Self::InsufficientState => "insufficient state",
            Self::Expired => "subscription expired",
            Self::StateInvalidated => "state invalidated",
        }
    }

    /// Whether SDKs subscribe again by themselves.
    #[must_use]
    pub const fn resubscribe(self) -> bool {
        self.code() >= 2500
    }
}

/// Why the server ends a connection: code and reason of the WebSocket close frame or of the `disconnect` push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.reason())]
#[repr(u16)]
pub enum DisconnectCode {
    /// The transport is gone. Never sent: the transport is closed without a word.
    ConnectionClosed = 3000,
    /// The node shuts down.
    Shutdown = 3001,
    /// The server failed.
    InternalServerError = 3004,
    /// The connection token ran out and was not refreshed in time.
    ConnectionExpired = 3005,
    /// The token of a server-side subscription ran out.
    SubscriptionExpired = 3006,
    /// The peer reads slower than it is written to. What is queued is dropped.
    Slow = 3008,
    /// A write failed or took too long.
    WriteError = 3009,
    /// Publications were lost on the way to a server-side subscription.
    InsufficientState = 3010,
    /// Asked for through the server API, to come back.
    ForceReconnect = 3011,
    /// A ping stayed without a pong.
    NoPong = 3012,
    /// Commands came too fast for too long.
    TooManyRequests = 3013,
    /// Token and positions are void; SDKs come back without them.
    StateInvalidated = 3014,
    /// The token is not valid.
    InvalidToken = 3500,
    /// The peer does not speak the protocol.
    BadRequest = 3501,
    /// The connection was not authenticated in time.
    Stale = 3502,
    /// Asked for through the server API, not to come back.
    ForceDisconnect = 3503,
    /// Too many connections of this user.
    ConnectionLimit = 3504,
    /// More server-side subscriptions than a connection may hold.
    ChannelLimit = 3505,
    /// A payload cannot be encoded for this connection (not JSON).
    InappropriateProtocol = 3506,
    /// The connection is not permitted.
    PermissionDenied = 3507,
    /// The feature is switched off (`send` without a handler).
    NotAvailable = 3508,
    /// The connection caused too many errors.
    TooManyErrors = 3509,
}

impl DisconnectCode {
    /// Every code, in ascending order.
    pub const ALL: [Self; 22] = [
        Self::ConnectionClosed,
        Self::Shutdown,
        Self::InternalServerError,
        Self::ConnectionExpired,
        Self::SubscriptionExpired,
        Self::Slow,
        Self::WriteError,
        Self::InsufficientState,
        Self::ForceReconnect,
        Self::NoPong,
        Self::TooManyRequests,
        Self::StateInvalidated,
        Self::InvalidToken,
        Self::BadRequest,
        Self::Stale,
        Self::ForceDisconnect,
        Self::ConnectionLimit,
        Self::ChannelLimit,
        Self::InappropriateProtocol,
        Self::PermissionDenied,
        Self::NotAvailable,
        Self::TooManyErrors,
    ];

    /// The number on the wire, 3000..=3999.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The text on the wire: not empty, not JSON, at most 123 bytes (RFC 6455 section 5.5).
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ConnectionClosed => "connection closed",
            Self::Shutdown => "shutdown",
            Self::InternalServerError => "internal server error",
            Self::ConnectionExpired => "connection expired",
            Self::SubscriptionExpired => "subscription expired",
            Self::Slow => "slow",
            Self::WriteError => "write error",
            Self::InsufficientState => "insufficient state",
            Self::ForceReconnect => "force reconnect",
            Self::NoPong => "no pong",
            Self::TooManyRequests => "too many requests",
            Self::StateInvalidated => "state invalidated",
            Self::InvalidToken => "invalid token",
            Self::BadRequest => "bad request",
            Self::Stale => "stale",
            Self::ForceDisconnect => "force disconnect",
            Self::ConnectionLimit => "connection limit",
            Self::ChannelLimit => "channel limit",
            Self::InappropriateProtocol => "inappropriate protocol",
            Self::PermissionDenied => "permission denied",
            Self::NotAvailable => "not available",
            Self::TooManyErrors => "too many errors",
        }
    }

    /// Whether SDKs reconnect after this code.
    #[must_use]
    pub const fn reconnect(self) -> bool {
        reconnects(self.code())
    }

    /// Whether what is queued for the peer is still written before the transport is closed.
    #[must_use]
    pub const fn flushes(self) -> bool {
        !matches!(self, Self::ConnectionClosed | Self::Slow)
    }
}

/// Whether SDKs reconnect after a close with `code`, of the server or of the application (client-protocol.md section 3).
#[must_use]
pub const fn reconnects(code: u16) -> bool {
    !matches!(code, 3500..=3999 | 4500..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disconnect_reason_is_short_text_that_is_not_json() {
        for disconnect in DisconnectCode::ALL {
            let reason = disconnect.reason();
            assert!(!reason.is_empty() && reason.len() <= 123, "{reason}");
            assert!(!crate::protocol::is_json(reason.as_bytes()), "{reason}");
        }
    }

    #[test]
    fn reconnect_follows_the_range_of_the_code() {
        for disconnect in DisconnectCode::ALL {
            assert_eq!(disconnect.reconnect(), disconnect.code() < 3500, "{disconnect}");
        }
        for (code, expected) in [(3499, true), (3500, false), (3999, false), (4000, true), (4499, true)] {
            assert_eq!(reconnects(code), expected, "{code}");
        }
        for (code, expected) in [(4500, false), (4999, false), (5000, true), (1001, true)] {
            assert_eq!(reconnects(code), expected, "{code}");
        }
    }

    #[test]
    fn the_tables_are_those_of_the_protocol() {
        let errors = ErrorCode::ALL.map(|error| (error.code(), error.message(), error.temporary()));
        assert_eq!(errors.map(|(code, ..)| code), std::array::from_fn(|index| 100 + index as u32));
        let temporary = errors.iter().filter(|(_, _, temporary)| *temporary).map(|(code, ..)| *code);
        assert_eq!(temporary.collect::<Vec<_>>(), [100, 111, 113]);
        assert_eq!(errors[2].1, "unknown channel");
        assert_eq!(errors[12].1, "unrecoverable position");

        let disconnects = DisconnectCode::ALL.map(DisconnectCode::code);
        assert_eq!(disconnects[..6], [3000, 3001, 3004, 3005, 3006, 3008]);
        assert_eq!(disconnects[6..12], [3009, 3010, 3011, 3012, 3013, 3014]);
        assert_eq!(disconnects[12..], std::array::from_fn::<u16, 10, _>(|index| 3500 + index as u16));

        let unsubscribes = UnsubscribeCode::ALL.map(|code| (code.code(), code.resubscribe()));
        assert_eq!(unsubscribes, [(2000, false), (2500, true), (2501, true), (2502, true)]);
    }

    #[test]
    fn a_slow_or_lost_peer_is_not_flushed() {
        let abrupt = DisconnectCode::ALL.into_iter().filter(|disconnect| !disconnect.flushes());
        assert_eq!(abrupt.collect::<Vec<_>>(), [DisconnectCode::ConnectionClosed, DisconnectCode::Slow]);
    }
}
