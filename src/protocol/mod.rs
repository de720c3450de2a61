//! The client protocol as pure functions: commands in, replies and pushes out, in JSON and in Protobuf.
//!
//! Invariants:
//! - Nothing here keeps state, reads a clock or recurses over a peer's input. A frame either decodes or is
//!   [`Malformed`]; decoding takes time linear in the frame.
//! - Decoded text and data borrow from the frame wherever their bytes stand there as they are.
//! - Encoders append exactly one message and allocate only by growing `out`. Every message is laid out once (field
//!   numbers, names, order), for both encodings.
//! - Data of the application passes through verbatim, less the newlines that would break the JSON framing.

pub mod client;
pub mod codes;
mod command;
mod fields;
mod json;
mod protobuf;
mod push;
mod reply;
mod schema;
mod value;

pub use codes::{DisconnectCode, ErrorCode, UnsubscribeCode};
pub use command::{
    Body, ChannelOnly, Command, Commands, Connect, Filter, History, Malformed, Position, Publish, Refresh,
    Rpc, SendData, SubRefresh, Subscribe, commands,
};
pub use json::{is_json, write_json_string};
pub use push::{
    encode_ping, encode_push_disconnect, encode_push_join, encode_push_leave, encode_push_message,
    encode_push_publication, encode_push_refresh, encode_push_subscribe, encode_push_unsubscribe,
};
pub use reply::{
    ClientInfo, ConnectResult, EmptyKind, PublicationView, RefreshResult, SubscribeResult, encode_connect,
    encode_empty, encode_error, encode_history, encode_presence, encode_presence_stats, encode_refresh,
    encode_rpc, encode_sub_refresh, encode_subscribe,
};

/// How the messages of one connection are encoded; chosen at the upgrade and fixed from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One JSON object a line.
    #[default]
    Json,
    /// Messages preceded by their length as a varint.
    Protobuf,
}
