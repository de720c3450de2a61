//! Disconnecting everybody, spread over a window so that the clients do not all come back at once.

use crate::base::tick::Tick;
use crate::hub::connection::Phase;
use crate::hub::metrics::Refusal;
use crate::hub::shard::Shard;
use crate::protocol::DisconnectCode;
use crate::wire::reject::Reject;

/// Connections a node may let go in one tick without spreading: 1,000 a second are always fine.
const LEAST_PER_TICK: usize = 100;

/// A drain under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    until: Tick,
    /// The next slot to look at.
    cursor: usize,
    last: Tick,
    /// Nobody is left, and the other shards know.
    pub(crate) emptied: bool,
}

impl Shard {
    /// Begins (or hastens) a drain: nobody is let in any more, everybody is disconnected with 3001 within
    /// `window_ticks`.
    pub(crate) fn drain(&mut self, window_ticks: u32) {
        let until = self.now.tick.after(window_ticks);
        let (cursor, emptied) = self.draining.map_or((0, false), |drain| (drain.cursor, drain.emptied));
        self.draining = Some(Drain { until, cursor, last: Tick(0), emptied });
        self.homes.presence.stop();
    }

    /// One tick's share of a drain.
    pub(crate) fn drain_step(&mut self) {
        let now = self.now.tick;
        let Some(mut drain) = self.draining else { return };
        if !drain.emptied && self.is_emptied() {
            drain.emptied = true;
            self.draining = Some(drain);
            self.common.admission.note_emptied();
        }
        if drain.last == now {
            return;
        }
        drain.last = now;
        let least = LEAST_PER_TICK.div_ceil(usize::from(self.common.shards.max(1)));
        let ticks_left = drain.until.since(now) as usize + 1;
        let mut share = self.connections.0.len().div_ceil(ticks_left).max(least);
        while share > 0 && drain.cursor < self.connections.0.capacity() {
            let slot = drain.cursor as u32;
            drain.cursor += 1;
            match self.connections.0.get(slot as usize).map(|connection| connection.phase) {
                None | Some(Phase::Closing) => continue,
                // Closing at once would meet a request on its way with RST (D04).
                Some(Phase::Handshake) => {
                    self.metrics.refuse(Refusal::Draining);
                    self.reject(slot, Reject::Unavailable { retry_after: 1 });
                }
                Some(_) => self.disconnect(slot, DisconnectCode::Shutdown),
            }
            share -= 1;
        }
        if drain.cursor >= self.connections.0.capacity() && !self.connections.0.is_empty() {
            drain.cursor = 0;
        }
        self.draining = Some(drain);
    }
}
