//! HTTP/1.1 request heads and RFC 6455 frames: sans-io, without `unsafe`, without a panic that input can reach.
//!
//! Bytes come in as slices and answers go out into buffers of the caller; nothing here knows a socket or a clock. Every
//! fault of a peer is one variant of a closed enum: [`reject::Reject`] before the upgrade, [`message::Violation`] after.
//!
//! | module | what it does |
//! |---|---|
//! | [`http`] | finds and parses a request head within hard caps |
//! | [`origin`] | normalises `Origin` and matches it with patterns |
//! | [`upgrade`] | decides on a WebSocket upgrade and writes the 101 |
//! | [`reject`] | the HTTP refusals |
//! | [`frame`] | headers of single frames, both directions |
//! | [`mask`] | client masking |
//! | [`utf8`] | UTF-8 of text that arrives in pieces |
//! | [`message`] | bytes of a connection → messages and control frames |
//! | [`close`] | close codes, reasons and frames |

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod assembly;
pub mod close;
pub mod frame;
mod head_scan;
pub mod http;
pub mod mask;
pub mod message;
pub mod origin;
pub mod reject;
pub mod upgrade;
pub mod utf8;
pub mod violation;
