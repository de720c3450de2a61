//! What the gateway does: connections, channels, users, presence, limits and fan-out, as pure state machines.
//!
//! Nothing here names sockets, threads, files or clocks: bytes, ticks and mail come in; writes go out through
//! [`sockets::Sockets`], mail through outboxes. So a test runs a shard, or a cluster of them, in virtual time.

pub mod api;
pub mod auth;
pub mod channel_name;
pub mod permission;
pub mod settings;
pub mod sockets;
