//! Webhooks: delivers events of the log to backends.
//!
//! One task for each webhook, with one request under way at a time, so a backend gets batches one after the other at its
//! own pace, however many clients reconnect:
//!
//! ```text
//!  log ──► Feed: records → batches ──► Sender: sign, POST ──► verdict ─┬─ delivered ──► acknowledge in the log
//!                                          ▲                           ├─ try again: backoff, Retry-After
//!                                          └───────────────────────────┘─ refused too often: skip, count, say so
//! ```
//!
//! * At least once and in order: a batch is acknowledged after the backend has taken it, and the next one is sent then.
//! * Every event has a number, one more than the one before it, in its epoch (a run of the process that wrote it); so
//!   whoever remembers the highest number sees what comes twice, and what is missing is said as an event of its own
//!   (`missed`).

mod backoff;
mod batch;
mod client;
pub mod clock;
mod feed;
pub mod metrics;
pub mod settings;
mod signature;
pub mod source;
pub mod task;
#[cfg(test)]
mod tests;
