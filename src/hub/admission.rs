//! Node-wide counts that every shard looks at when somebody knocks: plain atomics, shared by all shards.
//!
//! Connections per source address are counted in a fixed table of [`ROWS`] × [`COLUMNS`] counters under two keyed
//! hashes (a count-min sketch: G. Cormode, S. Muthukrishnan, 2005). The smaller of an address's two counters is never
//! less than its true count; it is more only where both hashes collide with other addresses, so with far fewer than
//! 65,536 addresses the limit is exact, and its memory (512 KiB) has a bound that no peer can move.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::base::tick::Now;
use crate::hub::metrics::Refusal;
use crate::hub::pressure::{Pressure, PressureLevel};
use crate::hub::settings::ClientSettings;
use crate::hub::shard::Shard;
use crate::limits;

const ROWS: usize = 2;
const COLUMNS: usize = 1 << 16;

/// The counts.
#[derive(Debug)]
pub struct Admission {
    connections: AtomicU32,
    /// Those of them that have sent no request yet.
    requestless: AtomicU32,
    /// Shards that a drain has emptied.
    emptied: AtomicU32,
    /// How near the memory limit is.
    pub pressure: Pressure,
    /// Second (upper half) and number of connections in it (lower half).
    this_second: AtomicU64,
    sources: Box<[AtomicU32]>,
}

impl Default for Admission {
    fn default() -> Self {
        let sources = (0..ROWS * COLUMNS).map(|_| AtomicU32::new(0)).collect();
        Self {
            connections: AtomicU32::new(0),
            requestless: AtomicU32::new(0),
            emptied: AtomicU32::new(0),
            pressure: Pressure::default(),
            this_second: AtomicU64::new(0),
            sources,
        }
    }
}

impl Admission {
    /// Connections of the node, in whatever phase.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections that have sent no request yet.
    pub(crate) fn requestless(&self) -> u32 {
        self.requestless.load(Ordering::Relaxed)
    }

    /// A connection was accepted, and has sent no request.
    pub(crate) fn note_requestless(&self) {
        self.requestless.fetch_add(1, Ordering::Relaxed);
    }

    /// It has sent one, or ended.
    pub(crate) fn note_request_or_end(&self) {
        self.requestless.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections that count for somebody who asks for one now: not those silent ones that are about to go, as they are
    /// more than may be (R02). Those who ever sent a request stay within the limits, as each of them was counted.
    fn connections_to_stay(&self, capacity: u32) -> u32 {
        let others = self.requestless().saturating_sub(1);
        let to_go = others.saturating_sub(capacity / limits::UNAUTHENTICATED_SHARE);
        self.connections().saturating_sub(to_go)
    }

    /// A drain has emptied one more shard, and its mail has left.
    pub(crate) fn note_emptied(&self) {
        self.emptied.fetch_add(1, Ordering::AcqRel);
    }

    /// Shards that a drain has emptied.
    pub(crate) fn emptied(&self) -> u32 {
        self.emptied.load(Ordering::Acquire)
    }

    /// Counts a new connection against the rate limit; false if the second is full.
    fn takes_rate(&self, per_second: u32, now: Now) -> bool {
        if per_second == 0 {
            return true;
        }
        let second = u64::from(now.tick.0 / 10) << 32;
        let taken = self.this_second.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |current| {
            let count = if current & !0xFFFF_FFFF == second { current & 0xFFFF_FFFF } else { 0 };
            (count < u64::from(per_second)).then_some(second | (count + 1))
        });
        taken.is_ok()
    }

    fn cells(&self, source: u32) -> [&AtomicU32; ROWS] {
        let (low, high) = (source as usize & (COLUMNS - 1), (source >> 16) as usize);
        [&self.sources[low], &self.sources[COLUMNS + high]]
    }

    fn of_source(&self, source: u32) -> u32 {
        self.cells(source).iter().map(|cell| cell.load(Ordering::Relaxed)).min().unwrap_or(0)
    }
}

impl Shard {
    /// Whether a request that asks for a connection may have one. It is counted already.
    pub(crate) fn admits(&self, source: u32) -> Result<(), Refusal> {
        let client: &ClientSettings = &self.common.settings.client;
        let admission = &self.common.admission;
        let over = |limit: u32, count: u32| limit > 0 && count > limit;
        if self.draining.is_some() {
            return Err(Refusal::Draining);
        }
        if admission.pressure.level() >= PressureLevel::Refuse {
            return Err(Refusal::Memory);
        }
        let capacity = self.common.settings.max_connections;
        let connections = admission.connections_to_stay(capacity);
        if over(client.connection_limit, connections) || over(capacity, connections) {
            return Err(Refusal::ConnectionLimit);
        }
        if over(client.address_connection_limit, admission.of_source(source)) {
            return Err(Refusal::AddressLimit);
        }
        let unauthenticated_max = (capacity / u32::from(self.common.shards) / limits::UNAUTHENTICATED_SHARE)
            .max(limits::UNAUTHENTICATED_LEAST);
        if self.metrics.unauthenticated > u64::from(unauthenticated_max) {
            return Err(Refusal::RateLimit);
        }
        if !admission.takes_rate(client.connection_rate_limit, self.now) {
            return Err(Refusal::RateLimit);
        }
        Ok(())
    }

    pub(crate) fn admission_enter(&mut self, source: u32) {
        self.common.admission.connections.fetch_add(1, Ordering::Relaxed);
        if self.common.settings.client.address_connection_limit > 0 {
            for cell in self.common.admission.cells(source) {
                cell.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.metrics.unauthenticated += 1;
    }

    pub(crate) fn admission_leave(&mut self, source: u32) {
        self.common.admission.connections.fetch_sub(1, Ordering::Relaxed);
        if self.common.settings.client.address_connection_limit > 0 {
            for cell in self.common.admission.cells(source) {
                cell.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
