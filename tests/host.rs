//! `doctor`, `tune` and `plan` held against recorded hosts and against real ones: a network namespace, an unprivileged
//! user. Recordings are in `host/fixtures`: `this-machine` and `namespace` were made with `millpond doctor --record`,
//! the others by hand after the defaults of the systems they are named for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "host/findings.rs"]
mod findings;
#[path = "host/live.rs"]
mod live;
#[path = "support/skip.rs"]
mod skip;
#[path = "host/support.rs"]
mod support;
