//! What clients send.

use std::collections::BTreeMap;

use prost::Message;
use serde::{Deserialize, Serialize};

use super::{is_default, raw};

/// One command. Nothing set: a pong.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Command {
    /// Number that the reply repeats, from 1; 0 for `send` and pongs.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub id: u32,
    /// Authenticate.
    #[prost(message, optional, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub connect: Option<Connect>,
    /// Subscribe to a channel.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub subscribe: Option<Subscribe>,
    /// Unsubscribe from a channel.
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub unsubscribe: Option<Channel>,
    /// Publish into a channel.
    #[prost(message, optional, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub publish: Option<Publish>,
    /// Who is in a channel.
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub presence: Option<Channel>,
    /// How many are in a channel.
    #[prost(message, optional, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub presence_stats: Option<Channel>,
    /// Publications of a channel.
    #[prost(message, optional, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub history: Option<History>,
    /// Not used by any client; servers disconnect.
    #[prost(message, optional, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub ping: Option<Empty>,
    /// Data without a reply.
    #[prost(message, optional, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub send: Option<Send>,
    /// Call a method.
    #[prost(message, optional, tag = "13")]
    #[serde(skip_serializing_if = "is_default")]
    pub rpc: Option<Rpc>,
    /// New connection token.
    #[prost(message, optional, tag = "14")]
    #[serde(skip_serializing_if = "is_default")]
    pub refresh: Option<Refresh>,
    /// New subscription token.
    #[prost(message, optional, tag = "15")]
    #[serde(skip_serializing_if = "is_default")]
    pub sub_refresh: Option<SubRefresh>,
}

/// Parameters of `connect`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Connect {
    /// Connection JWT.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub token: String,
    /// Custom data.
    #[prost(bytes = "vec", tag = "2")]
    #[serde(skip_serializing_if = "is_default", with = "raw")]
    pub data: Vec<u8>,
    /// Server-side subscriptions to recover, by channel.
    #[prost(btree_map = "string, message", tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub subs: BTreeMap<String, Subscribe>,
    /// Name of the client software.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Version of the client software.
    #[prost(string, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub version: String,
    /// Emulated HTTP headers.
    #[prost(btree_map = "string, string", tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub headers: BTreeMap<String, String>,
    /// Bit 0 offers dictionary compression.
    #[prost(int64, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub flag: i64,
    /// Dictionary held.
    #[prost(string, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub dict: String,
    /// Connection profile.
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub profile: String,
}

/// Parameters of `subscribe`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Subscribe {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// Subscription JWT.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub token: String,
    /// Continue from `offset` and `epoch`.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub recover: bool,
    /// Epoch of the known position.
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// Offset of the known position.
    #[prost(uint64, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Custom data.
    #[prost(bytes = "vec", tag = "8")]
    #[serde(skip_serializing_if = "is_default", with = "raw")]
    pub data: Vec<u8>,
    /// Asks for positioning.
    #[prost(bool, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub positioned: bool,
    /// Asks for recovery.
    #[prost(bool, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub recoverable: bool,
    /// Asks for join and leave pushes.
    #[prost(bool, tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub join_leave: bool,
    /// Asks for delta compression.
    #[prost(string, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub delta: String,
    /// Asks for filtering by tags.
    #[prost(message, optional, tag = "13")]
    #[serde(skip_serializing_if = "is_default", rename = "tf")]
    pub filter: Option<FilterNode>,
    /// Bit 0 offers channel compaction, bit 1 rejects instead of subscribing unrecovered.
    #[prost(int64, tag = "14")]
    #[serde(skip_serializing_if = "is_default")]
    pub flag: i64,
    /// 0 stream, 1..=3 map, 4 shared poll.
    #[prost(int32, tag = "15")]
    #[serde(skip_serializing_if = "is_default", rename = "type")]
    pub kind: i32,
    /// Phase of a map subscription.
    #[prost(int32, tag = "16")]
    #[serde(skip_serializing_if = "is_default")]
    pub phase: i32,
    /// Page of a map subscription.
    #[prost(string, tag = "17")]
    #[serde(skip_serializing_if = "is_default")]
    pub cursor: String,
    /// Page size of a map subscription.
    #[prost(int32, tag = "18")]
    #[serde(skip_serializing_if = "is_default")]
    pub limit: i32,
    /// Order of a map subscription.
    #[prost(bool, tag = "19")]
    #[serde(skip_serializing_if = "is_default")]
    pub asc: bool,
}

/// Node of a tags filter.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct FilterNode {
    /// Empty for a leaf, or `and`, `or`, `not`.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub op: String,
    /// Tag to compare.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub key: String,
    /// Comparison.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub cmp: String,
    /// Value to compare with.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub val: String,
    /// Values to compare with.
    #[prost(string, repeated, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub vals: Vec<String>,
    /// Operands.
    #[prost(message, repeated, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub nodes: Vec<FilterNode>,
}

/// Parameters of `unsubscribe`, `presence` and `presence_stats`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Channel {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
}

/// Parameters of `publish`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Publish {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// Payload.
    #[prost(bytes = "vec", tag = "2")]
    #[serde(skip_serializing_if = "is_default", with = "raw")]
    pub data: Vec<u8>,
    /// 0 normal, 1 map.
    #[prost(int32, tag = "3")]
    #[serde(skip_serializing_if = "is_default", rename = "type")]
    pub kind: i32,
    /// Key of a map entry.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub key: String,
    /// Removes the map entry.
    #[prost(bool, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub removed: bool,
}

/// Parameters of `history`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// 0 = only the position, -1 = as many as there are.
    #[prost(int32, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub limit: i32,
    /// Start position, not included.
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub since: Option<Position>,
    /// Newest first.
    #[prost(bool, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub reverse: bool,
}

/// A place in a channel's stream.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Position {
    /// Publications up to here are known.
    #[prost(uint64, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Incarnation of the stream; empty = any.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
}

/// Nothing, but present.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Empty {}

/// Parameters of `send`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Send {
    /// The payload.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(skip_serializing_if = "is_default", with = "raw")]
    pub data: Vec<u8>,
}

/// Parameters of `rpc`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Rpc {
    /// Parameters of the method.
    #[prost(bytes = "vec", tag = "1")]
    #[serde(skip_serializing_if = "is_default", with = "raw")]
    pub data: Vec<u8>,
    /// Method name.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub method: String,
}

/// Parameters of `refresh`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct Refresh {
    /// New connection JWT.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub token: String,
}

/// Parameters of `sub_refresh`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct SubRefresh {
    /// The channel.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub channel: String,
    /// New subscription JWT.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub token: String,
    /// 0 token refresh, 1 track, 2 untrack.
    #[prost(int32, tag = "3")]
    #[serde(skip_serializing_if = "is_default", rename = "type")]
    pub kind: i32,
    /// Keys to track.
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub track: Vec<TrackBatch>,
    /// Keys to track no more.
    #[prost(string, repeated, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub untrack: Vec<String>,
}

/// Keys of a shared-poll subscription under one signature.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct TrackBatch {
    /// Proof that they may be tracked.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub signature: String,
    /// The keys.
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub items: Vec<KeyedItem>,
}

/// One tracked key.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyedItem {
    /// The key.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub key: String,
    /// Version known of it.
    #[prost(uint64, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub version: u64,
}
