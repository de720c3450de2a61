//! Who is not a client yet: connections without a request, and upgraded ones without a connect command (R02).
//!
//! They may hold a share of the slots. Beyond it the oldest silent one goes: a client sends its request with the end of the TCP
//! handshake and its connect command a round trip after the 101, so who has said nothing for longer is none, and a herd
//! of real clients passes however large it is. Each is read once more before it is decided (see [`crate::hub::timers`]).
//!
//! Both queues are in order of age. An entry is not removed when its connection goes on or ends, but dropped when it comes
//! to the front, or with all others of its kind once they are the most: every step is O(1) amortized, and a queue holds at
//! most [`SPARE`] and twice as many entries as there are newcomers.

use std::collections::VecDeque;

use crate::base::tick::Tick;
use crate::hub::connection::{Phase, flag};
use crate::hub::metrics::Refusal;
use crate::hub::shard::Shard;
use crate::hub::timers::Overdue;
use crate::limits;
use crate::protocol::DisconnectCode;

/// Entries that are not worth a look.
const SPARE: usize = 64;

/// A connection, and since when it owes us the next word.
#[derive(Clone, Copy, Debug)]
struct Newcomer {
    slot: u32,
    generation: u32,
    since: Tick,
}

/// The queues of a shard.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    silent: VecDeque<Newcomer>,
    upgraded: VecDeque<Newcomer>,
}

impl Newcomers {
    /// Bytes of the queues.
    pub(crate) fn memory_bytes(&self) -> usize {
        (self.silent.capacity() + self.upgraded.capacity()) * size_of::<Newcomer>()
    }
}

impl Shard {
    /// A connection was accepted.
    pub(crate) fn note_accepted(&mut self, slot: u32, generation: u32) {
        let since = self.now.tick;
        self.common.admission.note_requestless();
        self.newcomers.silent.push_back(Newcomer { slot, generation, since });
        self.tidy_newcomers();
    }

    /// A connection was upgraded.
    pub(crate) fn note_upgraded(&mut self, slot: u32) {
        let (since, generation) = (self.now.tick, self.key(slot).generation);
        self.common.admission.note_request_or_end();
        self.newcomers.upgraded.push_back(Newcomer { slot, generation, since });
        self.tidy_newcomers();
    }

    /// How many of this shard's connections may be newcomers.
    fn newcomers_max(&self) -> u32 {
        let capacity = self.common.settings.max_connections / u32::from(self.common.shards.max(1));
        (capacity / limits::UNAUTHENTICATED_SHARE).max(1)
    }

    fn excess(&self) -> usize {
        usize::try_from(self.metrics.unauthenticated.saturating_sub(u64::from(self.newcomers_max())))
            .unwrap_or(usize::MAX)
    }

    /// Asks for a last look at the oldest of those beyond the share, some in a turn.
    pub(crate) fn thin_out(&mut self) {
        let under_way = self.overdue.len() + self.examined.len();
        let most = self.excess().saturating_sub(under_way).min(limits::EVICTIONS_PER_TURN);
        let requestless = self.common.admission.requestless().saturating_sub(self.share()) as usize;
        let mut silent = requestless.saturating_sub(under_way);
        for _ in 0..most {
            let Some((Newcomer { slot, generation, .. }, phase)) = self.next_to_go(silent > 0) else {
                return;
            };
            silent -= usize::from(phase == Phase::Handshake);
            self.overdue.push_back(Overdue { slot, generation, crowded: Some(phase) });
        }
    }

    /// When the next of them has been silent for long enough to go, while there are too many.
    pub(crate) fn next_eviction(&self) -> Option<Tick> {
        if self.excess() == 0 {
            return None;
        }
        let patience = self.patience();
        let fronts =
            [self.newcomers.silent.front(), self.newcomers.upgraded.front()].into_iter().zip(patience);
        let first = fronts.filter_map(|(front, patience)| Some(front?.since.after(patience?))).min();
        first.map(|at| at.max(self.now.tick.after(1)))
    }

    /// Connections of the node that may be silent.
    fn share(&self) -> u32 {
        self.common.settings.max_connections / limits::UNAUTHENTICATED_SHARE
    }

    /// How long a silent connection may be so, and an upgraded one, before it makes room; `None` while the node has room
    /// for it, whatever share of it this shard has.
    fn patience(&self) -> [Option<u32>; 2] {
        let (admission, capacity) = (&self.common.admission, self.common.settings.max_connections);
        let (connections, share) = (admission.connections(), self.share());
        let is_full = connections >= capacity - share;
        let for_silent = if is_full { limits::NEWCOMER_TICKS_FULL } else { limits::NEWCOMER_TICKS };
        [
            (admission.requestless() > share).then_some(for_silent),
            (connections >= capacity / 2).then_some(limits::NEWCOMER_TICKS),
        ]
    }

    fn next_to_go(&mut self, or_silent: bool) -> Option<(Newcomer, Phase)> {
        let [for_silent, for_upgraded] = self.patience();
        let silent = for_silent
            .filter(|_| or_silent)
            .and_then(|ticks| self.pop_older(|of| &mut of.silent, is_silent, ticks));
        if let Some(silent) = silent {
            return Some((silent, Phase::Handshake));
        }
        let upgraded = for_upgraded.and_then(|ticks| self.pop_older(|of| &mut of.upgraded, is_idle, ticks));
        upgraded.map(|upgraded| (upgraded, Phase::Upgraded))
    }

    fn pop_older(
        &mut self,
        queue: impl Fn(&mut Newcomers) -> &mut VecDeque<Newcomer>,
        stays: fn(Phase) -> bool,
        patience: u32,
    ) -> Option<Newcomer> {
        while let Some(first) = queue(&mut self.newcomers).front().copied() {
            if !self.is_still(&first, stays) {
                queue(&mut self.newcomers).pop_front();
            } else if self.now.tick.since(first.since) >= patience {
                return queue(&mut self.newcomers).pop_front();
            } else {
                return None;
            }
        }
        None
    }

    fn is_still(&self, of: &Newcomer, stays: fn(Phase) -> bool) -> bool {
        let connection = self.connections.0.get(of.slot as usize);
        connection.is_some_and(|connection| connection.generation == of.generation && stays(connection.phase))
    }

    /// One beyond the share was read once more: it goes unless it went on.
    pub(crate) fn evict(&mut self, slot: u32, was: Phase) {
        let Some(connection) = self.connections.0.get(slot as usize) else { return };
        match (was, connection.phase) {
            _ if connection.has(flag::BLOCKED) => {}
            (Phase::Handshake, Phase::Handshake) => {
                self.metrics.refuse(Refusal::Silent);
                self.doom(slot, false);
            }
            (Phase::Upgraded, phase) if is_idle(phase) => {
                self.disconnect(slot, DisconnectCode::TooManyRequests);
            }
            _ => {}
        }
    }

    fn tidy_newcomers(&mut self) {
        let most = SPARE + 2 * usize::try_from(self.metrics.unauthenticated).unwrap_or(usize::MAX / 4);
        if self.newcomers.silent.len() > most {
            let mut queue = std::mem::take(&mut self.newcomers.silent);
            queue.retain(|of| self.is_still(of, is_silent));
            self.newcomers.silent = shrunk(queue);
        }
        if self.newcomers.upgraded.len() > most {
            let mut queue = std::mem::take(&mut self.newcomers.upgraded);
            queue.retain(|of| self.is_still(of, is_idle));
            self.newcomers.upgraded = shrunk(queue);
        }
    }

    /// Drops what no connection stands for any more, with its memory.
    pub(crate) fn forget_newcomers(&mut self) {
        (self.newcomers.silent, self.newcomers.upgraded) = Default::default();
    }
}

/// Gives back what a herd took once it is over.
fn shrunk(mut queue: VecDeque<Newcomer>) -> VecDeque<Newcomer> {
    if queue.capacity() > 4 * (queue.len() + SPARE) {
        queue.shrink_to(2 * (queue.len() + SPARE));
    }
    queue
}

fn is_silent(phase: Phase) -> bool {
    phase == Phase::Handshake
}

fn is_idle(phase: Phase) -> bool {
    matches!(phase, Phase::Upgraded | Phase::Failed)
}
