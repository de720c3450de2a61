//! The store: the one thread that owns the log's doors. Mailboxes go through it, and so does all that is stored.
//!
//! ```text
//!  shards ──┐                      ┌──► Appender ─► log writer ─┐
//!           ├─► Inbox ─► Office ───┤                            │
//!  control ─┘     ▲                └──► Reader                  │
//!                 └───────────── acknowledgements ◄─────────────┘
//!           Office ─► homes ─► shards        Office ─► control
//! ```
//!
//! [`office::Office`] is a state machine without clock, thread or file: what it is asked, acknowledgements and the time
//! come in; requests for the log, mail for the shards and answers come out. [`thread::Store`] runs it.
//!
//! Invariants:
//! * nothing is delivered or answered before the log has acknowledged it;
//! * mail about one stream leaves in the order of its offsets, and a replay shows exactly the records whose
//!   acknowledgement the office has handled: what comes later comes live;
//! * whatever the disk does, every question is answered, and nothing that was acknowledged to a sender is dropped here.

mod acknowledge;
pub mod archive;
mod calls;
mod dead_letter;
mod earlier;
pub mod events;
mod history;
mod inbox;
mod letters;
pub mod office;
mod reads;
mod redeliver;
mod replay;
mod send;
pub mod thread;
