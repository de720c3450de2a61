//! What the gateway does: connections, channels, users, presence, limits and fan-out, as pure state machines.
//!
//! Nothing here names sockets, threads, files or clocks: bytes, ticks and mail come in; writes go out through
//! [`sockets::Sockets`], mail through outboxes. So a test runs a shard, or a cluster of them, in virtual time.

mod activity;
pub mod admission;
pub mod api;
mod api_calls;
pub mod auth;
mod channel;
pub mod channel_name;
mod cold;
mod commands;
mod connect;
mod connection;
mod connections;
mod deliver;
mod depart;
mod drain;
mod epoch;
pub mod events;
mod figures;
mod handshake;
mod home;
mod home_announce;
mod home_history;
mod home_pages;
mod home_shards;
mod home_store;
mod home_stored;
mod home_users;
pub(crate) mod idempotency;
mod last_seen;
mod locals;
pub mod mail;
pub mod metrics;
mod outbox;
mod output;
pub mod permission;
pub mod post;
pub mod pressure;
pub(crate) mod publication;
mod refusals;
mod registry;
mod replies;
mod session;
mod session_mailbox;
mod session_presence;
pub mod settings;
pub mod shard;
pub mod sockets;
pub mod store;
pub mod stream;
mod subscribe;
mod subscriptions;
mod timers;
mod user_presence;
