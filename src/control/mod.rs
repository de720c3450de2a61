//! The tokio shell: server API, webhooks, metrics, health and the demo page, on one thread of its own.
//!
//! It meets the shards at three seams only, all of them bounded and none of them blocking a shard: questions
//! ([`gateway::ShardPort`]), answers ([`answers::Answers`]) and sockets ([`handover::HandoverReceiver`]). Events for
//! webhooks come from the log ([`webhook::source::EventSource`]).

pub mod answers;
mod api;
mod api_metrics;
pub mod demo;
pub mod gateway;
pub mod handover;
pub mod metrics;
mod process;
pub mod server;
pub mod settings;
mod stream;
pub mod webhook;
