//! The server API as plain data: what `control` asks of the shards and what they answer. No transport, no JSON.

use bytes::Bytes;

/// One call of the server API, already parsed and bounded. Fields as in server-api.md section 1.2.
#[derive(Clone, Debug)]
pub enum ApiCommand {
    /// Publish into one channel (the control plane splits a broadcast into these).
    Publish(Box<ApiPublish>),
    /// Subscribe every session of a user (narrowed by `target`) to a channel.
    Subscribe(Box<ApiSubscribe>),
    /// Unsubscribe; pushes code 2000.
    Unsubscribe {
        /// Whose sessions.
        target: Target,
        /// From which channel.
        channel: String,
    },
    /// Disconnect sessions.
    Disconnect {
        /// Whose sessions.
        target: Target,
        /// Client ids to spare.
        whitelist: Vec<String>,
        /// Close code, default 3503.
        code: u16,
        /// Non-empty close reason.
        reason: String,
    },
    /// Change or end the expiry of sessions.
    Refresh {
        /// Whose sessions.
        target: Target,
        /// Disconnect with 3005 now.
        expired: bool,
        /// New expiry in Unix seconds, 0 = never.
        expire_at: u64,
        /// New connection info.
        info: Option<Bytes>,
    },
    /// Who is in a channel.
    Presence {
        /// The channel.
        channel: String,
    },
    /// Who is in a channel, page by page.
    PresencePage {
        /// The channel.
        channel: String,
        /// At most so many, at least 1.
        limit: u32,
        /// Where the page before ended, empty for the first.
        cursor: String,
    },
    /// How many are in a channel.
    PresenceStats {
        /// The channel.
        channel: String,
    },
    /// Publications of a channel.
    History {
        /// The channel.
        channel: String,
        /// 0 = position only, -1 = all retained.
        limit: i32,
        /// Start position.
        since: Option<Position>,
        /// Newest first.
        reverse: bool,
    },
    /// Drop the data of a channel, keep offset and epoch.
    HistoryRemove {
        /// The channel.
        channel: String,
    },
    /// Channels with subscribers on the asked shard's home share, in name order after `after`.
    Channels {
        /// Glob, empty = all.
        pattern: String,
        /// At most so many.
        limit: u32,
        /// Only names greater than this one.
        after: String,
    },
    /// Counters of the asked shard.
    Info,
    /// The sessions of a user on the asked shard.
    Connections {
        /// User id.
        user: String,
    },
    /// Who of these users is online: the asked shard answers for those homed on it.
    UserPresence {
        /// User ids.
        users: Vec<String>,
    },
    /// Put a message into mailboxes. Like the other commands for mailboxes it goes to [`STORE`], and is answered once
    /// the log has it.
    Send(Box<ApiSend>),
    /// Where a mailbox stands.
    MailboxInfo {
        /// User id.
        user: String,
        /// Device whose cursor is wanted, empty for the user's.
        device: String,
    },
    /// Messages that wait in a mailbox, oldest first.
    MailboxList {
        /// User id.
        user: String,
        /// Only messages above this offset.
        since: u64,
        /// At most so many, at least 1.
        limit: u32,
    },
    /// Acknowledge for a user or one of its devices.
    MailboxAck {
        /// User id.
        user: String,
        /// Device whose cursor moves, empty for the user's.
        device: String,
        /// Everything up to here is done with; beyond the end it means the end.
        offset: u64,
    },
    /// A device of a user is gone: nothing waits for it any more.
    MailboxForget {
        /// User id.
        user: String,
        /// The device.
        device: String,
    },
    /// Drop everything that waits in a mailbox.
    MailboxPurge {
        /// User id.
        user: String,
    },
}

/// Number that stands for the store where shards have theirs: its thread answers what concerns the log.
pub const STORE: crate::base::ids::ShardId = crate::base::ids::ShardId(u16::MAX);

/// Which sessions a command is for. An absent user or session is a success without effect.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// User id, empty = anonymous sessions.
    pub user: String,
    /// Narrow to one client id.
    pub client: Option<String>,
    /// Narrow to one session id (emulated transports).
    pub session: Option<String>,
}

/// Parameters of `publish`.
#[derive(Clone, Debug, Default)]
pub struct ApiPublish {
    /// The channel.
    pub channel: String,
    /// Payload.
    pub data: Bytes,
    /// Do not keep it in history.
    pub skip_history: bool,
    /// Tags in insertion order.
    pub tags: Vec<(String, String)>,
    /// Second publication with this key within 5 minutes has no effect.
    pub idempotency_key: String,
    /// Publications with a version not above the stored one are suppressed; 0 = unversioned.
    pub version: u64,
    /// Versions of different epochs are not compared.
    pub version_epoch: String,
}

/// Parameters of `send`: one message for the mailbox of each user.
#[derive(Clone, Debug, Default)]
pub struct ApiSend {
    /// User ids, at least one.
    pub users: Vec<String>,
    /// Payload.
    pub data: Bytes,
    /// Tags in insertion order.
    pub tags: Vec<(String, String)>,
    /// Seconds until the message is not delivered any more, 0 = as long as the mailbox keeps it by default.
    pub ttl_seconds: u32,
    /// A second message with this key for the same user within 5 minutes has no effect.
    pub idempotency_key: String,
}

/// Parameters of `subscribe`.
#[derive(Clone, Debug, Default)]
pub struct ApiSubscribe {
    /// Whose sessions.
    pub target: Target,
    /// The channel.
    pub channel: String,
    /// Channel info of the subscriber.
    pub info: Option<Bytes>,
    /// Custom data for the `subscribe` push.
    pub data: Option<Bytes>,
    /// Recover from this position.
    pub recover_since: Option<Position>,
    /// Overrides of namespace options.
    pub overrides: Overrides,
    /// Subscription expiry in Unix seconds, 0 = never.
    pub expire_at: u64,
}

/// `override` of a subscription: `None` leaves the namespace's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Presence for this subscription.
    pub presence: Option<bool>,
    /// Join and leave messages for this subscription.
    pub join_leave: Option<bool>,
    /// Push join and leave messages to this subscriber.
    pub force_push_join_leave: Option<bool>,
    /// Positioning.
    pub force_positioning: Option<bool>,
    /// Recovery.
    pub force_recovery: Option<bool>,
}

/// A place in a channel's stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Publications up to here are known.
    pub offset: u64,
    /// Incarnation of the stream.
    pub epoch: String,
}

/// A shard's answer to one [`ApiCommand`].
#[derive(Clone, Debug)]
pub enum ApiAnswer {
    /// `{}`: subscribe, unsubscribe, disconnect, refresh, history_remove.
    Done,
    /// Position of a publication; `None` without history.
    Published(Option<Position>),
    /// Members of a channel.
    Presence(Vec<Member>),
    /// Members of a channel, and where the next page begins; empty: this was the last.
    PresencePage {
        /// The members.
        members: Vec<Member>,
        /// For the next page.
        cursor: String,
    },
    /// Counts of a channel.
    PresenceStats {
        /// Sessions.
        num_clients: u32,
        /// Distinct users.
        num_users: u32,
    },
    /// Publications and the top of the stream.
    History {
        /// In the asked order.
        publications: Vec<StoredPublication>,
        /// Top of the stream.
        position: Position,
    },
    /// `(name, num_clients)` in name order.
    Channels(Vec<(String, u32)>),
    /// Counters of one shard.
    Info(ShardInfo),
    /// Sessions on the asked shard.
    Connections(Vec<ConnectionView>),
    /// Users homed on the asked shard.
    UserPresence(Vec<(String, UserView)>),
    /// Where the message stands in each mailbox, in the order of the users.
    Sent(Vec<Result<Position, ApiError>>),
    /// Where a mailbox stands; all zero where there is none.
    MailboxInfo(MailboxView),
    /// Messages of a mailbox, and its top.
    MailboxList {
        /// Oldest first.
        messages: Vec<StoredMessage>,
        /// Top of the mailbox.
        position: Position,
    },
    /// An API error (codes of server-api.md section 1.1).
    Error(ApiError),
}

/// An application error of the server API: goes out as `{"error":{code,message}}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// 100
    #[error("internal server error")]
    Internal,
    /// 102
    #[error("unknown channel")]
    UnknownChannel,
    /// 104
    #[error("not found")]
    NotFound,
    /// 107
    #[error("bad request")]
    BadRequest,
    /// 107, of `send`: the user cannot have a mailbox.
    #[error(
        "bad request: the id of this user cannot stand in the name of a personal channel: it is too long there, or has characters that names do not take or that mean several users"
    )]
    UserName,
    /// 107, of `send`: the namespace of personal channels takes other data.
    #[error(
        "bad request: this data is not in the publication_data_format of the namespace of personal channels"
    )]
    DataFormat,
    /// 107: the log cannot take so much in one record.
    #[error("bad request: data and tags are more than the log takes in one record (storage.segment_size)")]
    TooLarge,
    /// 107: one more device than have cursors.
    #[error("bad request: the user has as many devices as may have cursors (mailbox.max_devices)")]
    TooManyDevices,
    /// 108
    #[error("not available")]
    NotAvailable,
    /// 112
    #[error("unrecoverable position")]
    UnrecoverablePosition,
    /// 113
    #[error("conflict")]
    Conflict,
    /// 120, of this server: the mailbox is at its limit and its policy is to reject.
    #[error("mailbox full")]
    MailboxFull,
    /// 121, of this server: the log cannot store (disk full, failing disk). Live traffic goes on.
    #[error("storage unavailable")]
    StorageUnavailable,
    /// 122, of this server: the log or a shard is so far behind that nothing new is stored. Try again.
    #[error("overloaded")]
    Overloaded,
}

impl ApiError {
    /// The numeric code.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Internal => 100,
            Self::UnknownChannel => 102,
            Self::NotFound => 104,
            Self::BadRequest | Self::UserName | Self::DataFormat | Self::TooLarge | Self::TooManyDevices => {
                107
            }
            Self::NotAvailable => 108,
            Self::UnrecoverablePosition => 112,
            Self::Conflict => 113,
            Self::MailboxFull => 120,
            Self::StorageUnavailable => 121,
            Self::Overloaded => 122,
        }
    }
}

/// One session in a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Client id.
    pub client: String,
    /// User id.
    pub user: String,
    /// JSON (or bytes) from the token or the proxy.
    pub conn_info: Option<Bytes>,
    /// Info of this subscription.
    pub chan_info: Option<Bytes>,
}

/// What a user is to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum UserState {
    /// No session, and no lost one that may still come back.
    #[default]
    Offline,
    /// Every session is idle or set away, or every session was lost without goodbye and may still come back.
    Away,
    /// A live session whose user is active.
    Online,
}

impl UserState {
    /// As clients and backends see it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Away => "away",
            Self::Online => "online",
        }
    }
}

/// One session of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionView {
    /// Client id.
    pub client: String,
    /// `websocket`
    pub transport: &'static str,
    /// `json` or `protobuf`
    pub protocol: &'static str,
    /// Where the socket leads: the client, or the proxy before it.
    pub address: Option<std::net::IpAddr>,
    /// Unix seconds of the accept, right to a second or 1 % of its age.
    pub since: u64,
    /// Idle, or set away by its client. Always false without user presence.
    pub away: bool,
    /// Subscriptions in name order.
    pub channels: Vec<String>,
    /// Bytes that wait for the client to read.
    pub queue_bytes: usize,
}

/// What is known of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserView {
    /// State.
    pub state: UserState,
    /// Live sessions.
    pub devices: u32,
    /// Unix seconds of the last sign of life of a user without live sessions; `None` where it is not known (any more).
    pub last_seen: Option<u64>,
}

/// Where a mailbox stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailboxView {
    /// Its newest message.
    pub position: Position,
    /// Everything up to here is acknowledged by the device asked for (or by the user).
    pub cursor: u64,
    /// Messages that wait.
    pub messages: u32,
    /// Their bytes in the log.
    pub bytes: u64,
    /// Devices with a cursor of their own.
    pub devices: u32,
}

/// A message that waits in a mailbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredMessage {
    /// Place in the mailbox, from 1.
    pub offset: u64,
    /// Id of the message, the same in every delivery.
    pub id: String,
    /// Payload.
    pub data: Bytes,
    /// Tags.
    pub tags: Vec<(String, String)>,
    /// Milliseconds since 1970 of the send.
    pub sent_at_ms: u64,
    /// Seconds since 1970 from which on it is not delivered any more, 0 = never.
    pub expires_at: u32,
}

/// A publication as history keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredPublication {
    /// Place in the stream, from 1.
    pub offset: u64,
    /// Payload.
    pub data: Bytes,
    /// Who published, for client-originated ones.
    pub info: Option<Member>,
    /// Tags.
    pub tags: Vec<(String, String)>,
    /// Version given by the publisher, 0 = none.
    pub version: u64,
}

/// Figures of one shard for `info`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardInfo {
    /// Connections that completed the connect command.
    pub num_clients: u64,
    /// Distinct users homed on this shard.
    pub num_users: u64,
    /// Subscriptions of this shard's connections.
    pub num_subs: u64,
    /// Channels with subscribers, homed on this shard.
    pub num_channels: u64,
}
