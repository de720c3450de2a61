//! What every worker needs to know, fixed before the first one starts.

use crate::channels::Channels;
use crate::dialect::Dialect;
use crate::source::Routes;

/// The fixed part of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where connections come from and go to.
    pub routes: Routes,
    /// What is spoken.
    pub dialect: Dialect,
    /// The `Host` header.
    pub host: String,
    /// The request target, path and query.
    pub target: String,
    /// Further header lines of the upgrade request.
    pub headers: Vec<String>,
    /// Channels and user names.
    pub channels: Channels,
    /// How to sign tokens; `None` connects without.
    pub token: Option<TokenPlan>,
    /// The most clients that any phase asks for.
    pub connections: u32,
    /// Threads; client `n` lives on worker `n % workers`.
    pub workers: u32,
    /// Handshakes under way at once on each worker that brings connections up.
    pub outstanding: u32,
    /// A handshake that takes longer has failed.
    pub handshake_timeout_ms: u32,
    /// Whether to remember each client's place in its channels, for recovery.
    pub track_positions: bool,
    /// Whether to send the opening together with the upgrade request, before the server has answered. RFC 6455 section
    /// 4.1 forbids it; some servers take it.
    pub eager: bool,
}

/// How tokens are signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPlan {
    /// The shared HMAC secret.
    pub secret: Vec<u8>,
    /// How long a token lives.
    pub lifetime_seconds: u64,
}

/// How many of `workers` bring connections up at once: enough for all cores.
#[must_use]
pub fn ramping_workers(workers: u32) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cores).unwrap_or(1).saturating_mul(2).clamp(1, workers.max(1))
}

impl Plan {
    /// How many of the first `connections` clients live on `worker`.
    #[must_use]
    pub fn share(&self, connections: u32, worker: u32) -> u32 {
        let (each, rest) = (connections / self.workers, connections % self.workers);
        each + u32::from(worker < rest)
    }

    /// The number of the `local`th client of `worker`.
    #[must_use]
    pub fn number(&self, worker: u32, local: u32) -> u32 {
        local * self.workers + worker
    }
}
