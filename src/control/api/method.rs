//! The names of the methods.

/// A method of the server API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Publish,
    Broadcast,
    Subscribe,
    Unsubscribe,
    Disconnect,
    Refresh,
    Presence,
    PresenceStats,
    History,
    HistoryRemove,
    Channels,
    Info,
    Rpc,
    UserPresence,
    Connections,
    Send,
    MailboxInfo,
    MailboxList,
    MailboxAck,
    MailboxForget,
    MailboxPurge,
    Batch,
    /// Known elsewhere, for subscription types that this program does not offer: error 108.
    NotOffered,
}

impl Method {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "publish" => Self::Publish,
            "broadcast" => Self::Broadcast,
            "subscribe" => Self::Subscribe,
            "unsubscribe" => Self::Unsubscribe,
            "disconnect" => Self::Disconnect,
            "refresh" => Self::Refresh,
            "presence" => Self::Presence,
            "presence_stats" => Self::PresenceStats,
            "history" => Self::History,
            "history_remove" => Self::HistoryRemove,
            "channels" => Self::Channels,
            "info" => Self::Info,
            "rpc" => Self::Rpc,
            "user_presence" => Self::UserPresence,
            "connections" => Self::Connections,
            "send" => Self::Send,
            "mailbox_info" => Self::MailboxInfo,
            "mailbox_list" => Self::MailboxList,
            "mailbox_ack" => Self::MailboxAck,
            "mailbox_forget" => Self::MailboxForget,
            "mailbox_purge" => Self::MailboxPurge,
            "batch" => Self::Batch,
            "map_publish"
            | "map_remove"
            | "map_read_state"
            | "map_read_stream"
            | "map_stats"
            | "map_clear"
            | "shared_poll_publish" => Self::NotOffered,
            _ => return None,
        })
    }

    /// As in the path and in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Broadcast => "broadcast",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Disconnect => "disconnect",
            Self::Refresh => "refresh",
            Self::Presence => "presence",
            Self::PresenceStats => "presence_stats",
            Self::History => "history",
            Self::HistoryRemove => "history_remove",
            Self::Channels => "channels",
            Self::Info => "info",
            Self::Rpc => "rpc",
            Self::UserPresence => "user_presence",
            Self::Connections => "connections",
            Self::Send => "send",
            Self::MailboxInfo => "mailbox_info",
            Self::MailboxList => "mailbox_list",
            Self::MailboxAck => "mailbox_ack",
            Self::MailboxForget => "mailbox_forget",
            Self::MailboxPurge => "mailbox_purge",
            Self::Batch => "batch",
            Self::NotOffered => "not_offered",
        }
    }
}
