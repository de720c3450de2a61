//! The load generator of millpond: holds millions of WebSocket connections from one machine and measures what a server
//! does with them.
//!
//! One conductor (the main thread) and many workers (threads). A worker has a descriptor table of its own, so that the
//! descriptor limit bounds a worker and not the process; a poller; and a share of the clients, a few bytes each. The
//! conductor gives orders phase by phase, samples the server and the kernel, and writes the report.
//!
//! The generator shares no code with the server, so that one can prove the other.

pub mod app;
pub mod behaviour;
pub mod channels;
pub mod cli;
pub mod client;
pub mod clock;
pub mod counters;
pub mod dialect;
pub mod fleet;
pub mod flow;
pub mod kernel;
pub mod marker;
pub mod monitor;
pub mod peer;
pub mod plan;
pub mod progress;
pub mod proof;
pub mod publisher;
pub mod report;
pub mod run;
pub mod scenario;
pub mod selfcheck;
pub mod source;
pub mod target;
pub mod template;
pub mod token;
pub mod wheel;
pub mod worker;
pub mod ws;
