//! What clients receive.

use std::collections::BTreeMap;

use prost::Message;
use serde::{Deserialize, Serialize};

use super::{Empty, is_default, raw};

/// One reply or push. Nothing set: a ping.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Reply {
    /// Number of the command; 0 in pushes and pings.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub id: u32,
    /// The command failed.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub error: Option<Error>,
    /// Not an answer to a command.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub push: Option<Push>,
    /// Answer to `connect`.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub connect: Option<Connected>,
    /// Answer to `subscribe`.
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub subscribe: Option<Subscribed>,
    /// Answer to `unsubscribe`.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub unsubscribe: Option<Empty>,
    /// Answer to `publish`.
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub publish: Option<Empty>,
    /// Answer to `presence`.
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub presence: Option<PresenceMap>,
    /// Answer to `presence_stats`.
    #[prost(message, optional, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub presence_stats: Option<PresenceStats>,
    /// Answer to `history`.
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub history: Option<HistoryPage>,
    /// Not used by any server.
    #[prost(message, optional, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub ping: Option<Empty>,
    /// Answer to `rpc`.
    #[prost(message, optional, tag = "13")]
    #[serde(skip_serializing_if = "is_default")]
    pub rpc: Option<RpcAnswer>,
    /// Answer to `refresh`.
    #[prost(message, optional, tag = "14")]
    #[serde(skip_serializing_if = "is_default")]
    pub refresh: Option<Refreshed>,
    /// Answer to `sub_refresh`.
    #[prost(message, optional, tag = "15")]
    #[serde(skip_serializing_if = "is_default")]
    pub sub_refresh: Option<SubRefreshed>,
}

/// Why a command failed.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Error {
    /// See the error codes.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub code: u32,
    /// In words.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub message: String,
    /// Worth another try.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub temporary: bool,
}

/// What the server says by itself.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Push {
    /// Numeric channel id.
    #[prost(int64, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub id: i64,
    /// The channel.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// A publication.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default", rename = "pub")]
    pub publication: Option<Publication>,
    /// A client joined.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub join: Option<Member>,
    /// A client left.
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub leave: Option<Member>,
    /// A subscription ended.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub unsubscribe: Option<Unsubscribed>,
    /// Data outside any channel.
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub message: Option<Note>,
    /// A server-side subscription began.
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub subscribe: Option<SubscribedPush>,
    /// The connection ends.
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub disconnect: Option<Disconnected>,
    /// The expiry of the connection changed.
    #[prost(message, optional, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub refresh: Option<SubRefreshed>,
}

/// Who a client is.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// User id.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub user: String,
    /// Client id.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub client: String,
    /// Info of the connection.
    #[prost(bytes = "vec", tag = "3")]
    #[serde(skip_serializing_if = "is_default", with = "raw")]
    pub conn_info: Vec<u8>,
    /// Info of the subscription.
    #[prost(bytes = "vec", tag = "4")]
    #[serde(skip_serializing_if = "is_default", with = "raw")]
    pub chan_info: Vec<u8>,
}

/// A publication.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Publication {
    /// Payload.
    #[prost(bytes = "vec", tag = "4")]
    #[serde(skip_serializing_if = "is_default", with = "raw")]
    pub data: Vec<u8>,
    /// Who published, for publications of clients.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub info: Option<Info>,
    /// Place in the stream, from 1.
    #[prost(uint64, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Tags.
    #[prost(btree_map = "string, string", tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub tags: BTreeMap<String, String>,
    /// `data` is a patch.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub delta: bool,
    /// Unix milliseconds.
    #[prost(int64, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub time: i64,
    /// Channel, in wildcard subscriptions.
    #[prost(string, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// Key of a map entry.
    #[prost(string, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub key: String,
    /// The map entry is gone.
    #[prost(bool, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub removed: bool,
    /// Order of a map entry.
    #[prost(sint64, tag = "13")]
    #[serde(skip_serializing_if = "is_default")]
    pub score: i64,
    /// Epoch, with offset 1 only.
    #[prost(string, tag = "14")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// Version of a keyed item.
    #[prost(uint64, tag = "16")]
    #[serde(skip_serializing_if = "is_default")]
    pub version: u64,
}

/// Result of `connect`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Connected {
    /// Client id.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub client: String,
    /// Version of the server.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub version: String,
    /// A refresh is due within `ttl`.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// Custom data.
    #[prost(bytes = "vec", tag = "5")]
    #[serde(skip_serializing_if = "is_default", with = "raw")]
    pub data: Vec<u8>,
    /// Server-side subscriptions by channel.
    #[prost(btree_map = "string, message", tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub subs: BTreeMap<String, Subscribed>,
    /// Seconds between pings.
    #[prost(uint32, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub ping: u32,
    /// Pings must be answered.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub pong: bool,
    /// Session id.
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub session: String,
    /// Node id.
    #[prost(string, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub node: String,
    /// Server time in Unix milliseconds.
    #[prost(int64, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub time: i64,
    /// Granted features.
    #[prost(int64, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub flag: i64,
}

/// Result of `subscribe`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Subscribed {
    /// A refresh is due within `ttl`.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// Can be recovered.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub recoverable: bool,
    /// Epoch of the stream.
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// Missed publications.
    #[prost(message, repeated, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub publications: Vec<Publication>,
    /// Recovery succeeded.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub recovered: bool,
    /// Position.
    #[prost(uint64, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// The server watches the position.
    #[prost(bool, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub positioned: bool,
    /// Custom data.
    #[prost(bytes = "vec", tag = "11")]
    #[serde(skip_serializing_if = "is_default", with = "raw")]
    pub data: Vec<u8>,
    /// Recovery was asked for.
    #[prost(bool, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub was_recovering: bool,
    /// Delta compression is granted.
    #[prost(bool, tag = "13")]
    #[serde(skip_serializing_if = "is_default")]
    pub delta: bool,
    /// Numeric channel id.
    #[prost(int64, tag = "14")]
    #[serde(skip_serializing_if = "is_default")]
    pub id: i64,
    /// Type of the subscription.
    #[prost(int32, tag = "15")]
    #[serde(skip_serializing_if = "is_default", rename = "type")]
    pub kind: i32,
    /// Phase of a map subscription.
    #[prost(int32, tag = "16")]
    #[serde(skip_serializing_if = "is_default")]
    pub phase: i32,
    /// Next page.
    #[prost(string, tag = "17")]
    #[serde(skip_serializing_if = "is_default")]
    pub cursor: String,
    /// Page of map entries.
    #[prost(message, repeated, tag = "18")]
    #[serde(skip_serializing_if = "is_default")]
    pub state: Vec<Publication>,
    /// Milliseconds.
    #[prost(uint32, tag = "19")]
    #[serde(skip_serializing_if = "is_default")]
    pub publish_debounce: u32,
}

/// Result of `presence`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct PresenceMap {
    /// Clients by client id.
    #[prost(btree_map = "string, message", tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub presence: BTreeMap<String, Info>,
}

/// Result of `presence_stats`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct PresenceStats {
    /// Connections.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub num_clients: u32,
    /// Distinct users.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub num_users: u32,
}

/// Result of `history`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryPage {
    /// In the asked order.
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub publications: Vec<Publication>,
    /// Epoch of the stream.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// Top of the stream.
    #[prost(uint64, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
}

/// Result of `rpc`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct RpcAnswer {
    /// What the method returned.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(skip_serializing_if = "is_default", with = "raw")]
    pub data: Vec<u8>,
}

/// Result of `refresh`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Refreshed {
    /// Client id.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub client: String,
    /// Version of the server.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub version: String,
    /// Another refresh is due within `ttl`.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
}

/// Result of `sub_refresh`, and the `refresh` push.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct SubRefreshed {
    /// Another refresh is due within `ttl`.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// Known values of tracked keys.
    #[prost(message, repeated, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub items: Vec<Publication>,
}

/// Body of `join` and `leave`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Who.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub info: Option<Info>,
}

/// Body of the `unsubscribe` push.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Unsubscribed {
    /// See the unsubscribe codes.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub code: u32,
    /// In words.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub reason: String,
}

/// Body of the `message` push.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// The data.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(skip_serializing_if = "is_default", with = "raw")]
    pub data: Vec<u8>,
}

/// Body of the `subscribe` push.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct SubscribedPush {
    /// Can be recovered.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub recoverable: bool,
    /// Epoch of the stream.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// Top of the stream.
    #[prost(uint64, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// The server watches the position.
    #[prost(bool, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub positioned: bool,
    /// Custom data.
    #[prost(bytes = "vec", tag = "7")]
    #[serde(skip_serializing_if = "is_default", with = "raw")]
    pub data: Vec<u8>,
}

/// Body of the `disconnect` push.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Disconnected {
    /// See the disconnect codes.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub code: u32,
    /// In words.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub reason: String,
    /// Not sent any more.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub reconnect: bool,
}
