//! millpond: a real-time gateway that holds millions of quiet sockets on one Linux host and delivers to them fast.
//!
//! Pure state machines in the middle, thin shells around them, and bounded queues as the only doors. The modules in
//! layer order, each of which may use only those above it in this list:
//!
//! | module | what it is | I/O |
//! |---|---|---|
//! | [`base`] | data structures: ticks, timing wheel, arenas, tables, token buckets, ids | none |
//! | [`wire`] | HTTP/1.1 request heads and RFC 6455 frames | none |
//! | [`protocol`] | the client protocol: commands, replies, pushes, codes; JSON and Protobuf | none |
//! | [`hub`] | what the gateway does: connections, channels, users, presence, limits, fan-out | none |
//! | [`log`] | the append-only log (stands on `base` only) | files |
//! | [`store`] | the thread that owns the log's doors: mailboxes (stands on `hub` and `log`) | files |
//! | [`net`] | the mio shell of a shard: accept, read, write, wake, clock | sockets |
//! | [`control`] | the tokio shell: server API, webhooks, metrics, health, demo page | sockets |
//! | [`host`] | what bounds a host, and how to tune it: doctor, tune, plan (stands on `net`) | files |
//! | [`app`] | wires shards, control plane and log; start and drain order | threads |

pub mod app;
pub mod base;
pub mod cli;
pub mod config;
pub mod control;
pub mod host;
pub mod hub;
pub mod limits;
pub mod log;
pub mod net;
pub mod protocol;
pub mod store;
pub mod wire;
