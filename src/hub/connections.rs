//! What the server API is told of a user's sessions.
//!
//! Nothing is kept for it per connection. The address comes from the socket, so the question is answered at the end of
//! the turn, where sockets are at hand; the time of the accept follows from the generation, which counts accepts.

use crate::base::tick::{Now, TICK_MS, Tick};
use crate::hub::api::{ApiAnswer, ConnectionView};
use crate::hub::connection::{Connection, NONE, Phase, flag};
use crate::hub::mail::Answer;
use crate::hub::shard::Shard;
use crate::hub::sockets::Sockets;
use crate::limits;

/// Ticks between two notes of [`Accepts`]: times are right to a second, old ones to 1 % of their age.
const NOTE_TICKS: u32 = 10;

/// Notes at most (64 KiB); beyond, every second one of the older half goes, so old times get coarser.
const NOTES_MAX: usize = 8192;

/// Notes that there is room for from the start: a minute of accepts.
const NOTES_LEAST: usize = 60;

/// Which generation was accepted when.
#[derive(Debug)]
pub(crate) struct Accepts(Vec<(Tick, u32)>);

impl Default for Accepts {
    fn default() -> Self {
        Self(Vec::with_capacity(NOTES_LEAST))
    }
}

impl Accepts {
    /// A connection was accepted.
    pub(crate) fn note(&mut self, now: Tick, generation: u32) {
        if self.0.last().is_some_and(|(last, _)| now.since(*last) < NOTE_TICKS) {
            return;
        }
        if self.0.len() >= NOTES_MAX {
            let mut place = 0;
            self.0.retain(|_| {
                place += 1;
                place % 2 == 1 || place > NOTES_MAX / 2
            });
        }
        self.0.push((now, generation));
    }

    /// Bytes of the notes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.0.capacity() * size_of::<(Tick, u32)>()
    }

    /// When `generation` was accepted, where `latest` is the newest one.
    fn at(&self, generation: u32, latest: u32) -> Option<Tick> {
        let age = latest.wrapping_sub(generation);
        let after = self.0.partition_point(|(_, noted)| latest.wrapping_sub(*noted) >= age);
        self.0.get(after.checked_sub(1)?).map(|(tick, _)| *tick)
    }
}

impl Shard {
    /// When a connection was accepted, right to a second.
    pub(crate) fn accepted_in(&self, generation: u32) -> Option<Tick> {
        self.accepts.at(generation, self.generation)
    }

    /// Lists the sessions that the server API asked for this turn.
    pub(crate) fn list_connections(&mut self, io: &impl Sockets) {
        for (id, user) in std::mem::take(&mut self.listings) {
            let slots = if user.is_empty() { Vec::new() } else { self.locals.sessions_of(&user) };
            let views = slots.into_iter().filter_map(|slot| self.connection_view(slot, io));
            let views = views.take(limits::CONNECTIONS_LISTED).collect();
            self.post.answer(Answer { id, shard: self.id, answer: ApiAnswer::Connections(views) });
        }
    }

    fn connection_view(&self, slot: u32, io: &impl Sockets) -> Option<ConnectionView> {
        let connection = self.connections.0.get(slot as usize)?;
        if connection.phase != Phase::Live {
            return None;
        }
        let cold = if connection.cold == NONE { None } else { self.cold.get(connection.cold) };
        let channels = self.subscription_handles(slot);
        let mut channels: Vec<String> =
            channels.into_iter().map(|handle| self.locals.channel_name(handle).to_owned()).collect();
        channels.sort_unstable();
        Some(ConnectionView {
            client: self.client_id(slot),
            transport: "websocket",
            protocol: if connection.has(flag::PROTOBUF) { "protobuf" } else { "json" },
            address: io.peer(connection.socket).map(|address| address.ip()),
            since: self.accepted_at(connection, self.now),
            away: self.locals.activity(connection.user, slot).is_quiet(),
            channels,
            queue_bytes: cold.map_or(0, |cold| cold.outbox.len()),
        })
    }

    fn accepted_at(&self, connection: &Connection, now: Now) -> u64 {
        let tick = self.accepts.at(connection.generation, self.generation).unwrap_or_default();
        now.unix_ms.saturating_sub(u64::from(now.tick.since(tick)) * TICK_MS) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_right_to_a_second_and_get_coarser_with_age() {
        let mut accepts = Accepts::default();
        let start = u32::MAX - 5000;
        let mut truth = Vec::new();
        for number in 0..60_000_u32 {
            let (tick, generation) = (Tick(100 + number * 3), start.wrapping_add(number));
            accepts.note(tick, generation);
            truth.push((tick, generation));
        }
        assert!(accepts.0.len() <= NOTES_MAX && accepts.0.capacity() <= 2 * NOTES_MAX);
        let (latest_tick, latest) = truth[truth.len() - 1];
        for (age, (tick, generation)) in truth.iter().rev().enumerate() {
            let off = tick.since(accepts.at(*generation, latest).unwrap());
            let aged = latest_tick.since(*tick) / 100;
            assert!(off < aged.max(NOTE_TICKS + 3), "{age}: {off}");
        }
        assert_eq!(Accepts::default().at(1, 1), None);
    }
}
