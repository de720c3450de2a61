//! The tokio shell: server API, metrics, health and the demo page, on one thread of its own.

pub mod answers;
pub mod gateway;
