//! Output of connections: gathered during a turn, written once at its end.

use crate::hub::connection::{Connection, Phase, flag, sub};
use crate::hub::metrics::SentKind;
use crate::hub::outbox::Outbox;
use crate::hub::shard::Shard;
use crate::hub::sockets::{Sockets, Written};
use crate::limits;
use crate::protocol::{DisconnectCode, Encoding, UnsubscribeCode};

/// What became of a flush.
enum Flushed {
    Empty,
    Blocked,
    Broken,
}

impl Shard {
    /// Adds output to a connection; it leaves at the end of the turn, joined with whatever else comes. A queue over its
    /// limit that the kernel does not take is relieved, or ends the connection.
    pub(crate) fn output(&mut self, slot: u32, add: impl FnOnce(&mut Outbox, Encoding)) {
        self.output_within(slot, 0, add);
    }

    /// Adds one message and counts it.
    pub(crate) fn say(&mut self, slot: u32, kind: SentKind, encode: impl FnOnce(&mut Vec<u8>, Encoding)) {
        self.metrics.send(kind);
        self.output(slot, |outbox, encoding| outbox.message(encoding, |out| encode(out, encoding)));
    }

    /// The same as [`Shard::output`], but it may wait so long for more. Whatever does not wait takes it along.
    pub(crate) fn output_within(&mut self, slot: u32, delay_ms: u8, add: impl FnOnce(&mut Outbox, Encoding)) {
        let limit = self.common.settings.client.queue_max_size;
        let waiting = self.add_output(slot, delay_ms, add);
        self.hold_queue(slot, waiting, limit);
    }

    /// Relieves a queue over its limit that the kernel does not take.
    pub(crate) fn hold_queue(&mut self, slot: u32, waiting: usize, limit: usize) {
        if waiting > limit && self.connections.0.get(slot as usize).is_some_and(Connection::is_stuck) {
            self.relieve_queue(slot);
        }
    }

    /// Adds output behind which the connection ends anyway, whatever waits before it: a close frame that was refused
    /// for a full queue would ask for another one. Returns the bytes that wait.
    pub(crate) fn last_output(&mut self, slot: u32, add: impl FnOnce(&mut Outbox, Encoding)) -> usize {
        self.add_output(slot, 0, add)
    }

    fn add_output(&mut self, slot: u32, delay_ms: u8, add: impl FnOnce(&mut Outbox, Encoding)) -> usize {
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return 0 };
        if connection.phase == Phase::Closing {
            return 0;
        }
        let encoding = connection.encoding();
        let cold = self.cold.obtain(&mut connection.cold);
        add(&mut cold.outbox, encoding);
        let waiting = cold.outbox.len();
        if connection.has(flag::DIRTY) || connection.has(flag::CORKED) {
            return waiting;
        }
        if delay_ms > 0 && waiting < limits::GATHER_BYTES {
            self.gathering.connection(slot, delay_ms, self.now_ms);
        } else {
            connection.set(flag::DIRTY, true);
            self.dirty.push(slot);
        }
        waiting
    }

    /// The kernel takes output again. What waits is tried at the end of the turn; until then nobody knows how much of it
    /// goes, and it counts as stuck for whatever is read before (see [`Shard::waits_for_output`]).
    pub fn writable(&mut self, slot: u32) {
        let Some(connection) = self.connection(slot) else { return };
        if connection.has(flag::CORKED) && !connection.has(flag::DIRTY) {
            connection.set(flag::DIRTY, true);
            self.dirty.push(slot);
        }
    }

    /// A write failed, so nothing more is written. What the peer sent before it went, a goodbye say, still stands in the
    /// kernel: it is read in the next turn, and the error behind it ends the connection.
    pub(crate) fn broken(&mut self, slot: u32) {
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return };
        if matches!(connection.phase, Phase::Handshake | Phase::Closing) {
            return self.lose(slot);
        }
        connection.set(flag::CORKED, true);
        self.output_left(slot, true);
        self.read_later(slot);
    }

    /// Writes the output of this turn, one write per connection where the kernel takes it.
    pub(crate) fn flush(&mut self, io: &mut impl Sockets) {
        let Self { held, post, dirty, connections, .. } = self;
        held.release(post, |slot| {
            if connections.0.get(slot as usize).is_some_and(|connection| connection.has(flag::DIRTY)) {
                dirty.push(slot);
            }
        });
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            // Whoever is held keeps the flag, and is put here again when it is let go.
            if !self.held.holds(slot) {
                self.flush_one(slot, io);
            }
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    fn flush_one(&mut self, slot: u32, io: &mut impl Sockets) {
        match self.write_out(slot, io) {
            Flushed::Empty => {
                self.output_left(slot, true);
                self.mailbox_drained(slot);
                let has_hung_up = self.cold_if_any(slot).is_some_and(|cold| cold.has_hung_up);
                self.release_cold(slot);
                let Some(connection) = self.connections.0.get(slot as usize) else { return };
                if connection.phase == Phase::Closing && has_hung_up {
                    self.doom(slot, false);
                } else if connection.phase == Phase::Closing {
                    io.shutdown_write(connection.socket);
                }
            }
            Flushed::Blocked => {
                let has_hung_up = self.cold_if_any(slot).is_some_and(|cold| cold.has_hung_up);
                self.output_left(slot, has_hung_up);
                self.check_queue(slot);
            }
            Flushed::Broken => self.broken(slot),
        }
    }

    fn write_out(&mut self, slot: u32, io: &mut impl Sockets) -> Flushed {
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return Flushed::Empty };
        connection.set(flag::DIRTY, false);
        connection.set(flag::CORKED, false);
        let Some(cold) = self.cold.get_mut(connection.cold) else { return Flushed::Empty };
        let encoding = connection.encoding();
        loop {
            let front = cold.outbox.front(encoding, &mut self.scratch);
            if front.is_empty() {
                return Flushed::Empty;
            }
            let length = front.len();
            self.metrics.writes += 1;
            match io.write(connection.socket, front) {
                Written::Broken => return Flushed::Broken,
                Written::Bytes(count) => {
                    self.metrics.bytes_sent += count as u64;
                    cold.advance(count);
                    if count < length {
                        connection.set(flag::CORKED, true);
                        return Flushed::Blocked;
                    }
                }
            }
        }
    }

    /// A queue over the limit: publications that may be left out go, and the subscriptions that miss them end. Where
    /// that is not enough the reader is disconnected.
    pub(crate) fn relieve_queue(&mut self, slot: u32) {
        let limit = self.common.settings.client.queue_max_size;
        let Some(cold) = self.cold_if_any(slot) else { return };
        let left_out = cold.outbox.make_room(limit);
        let is_over = cold.outbox.len() > limit;
        self.metrics.publications_dropped += left_out.count;
        if is_over {
            return self.disconnect(slot, DisconnectCode::Slow);
        }
        for gap in left_out.gaps {
            self.insufficient(slot, &gap.channel);
        }
    }

    /// A positioned subscription misses a publication: the client subscribes again and recovers, or where it cannot,
    /// connects again.
    fn insufficient(&mut self, slot: u32, channel: &str) {
        match self.find_subscription(slot, channel) {
            Some((_, flags)) if flags & sub::SERVER_SIDE != 0 => {
                self.disconnect(slot, DisconnectCode::InsufficientState);
            }
            Some(_) => self.unsubscribe_with(slot, channel, UnsubscribeCode::InsufficientState),
            None => {}
        }
    }

    /// The kernel did not take everything.
    fn check_queue(&mut self, slot: u32) {
        let limit = self.common.settings.client.queue_max_size;
        let waiting = self.cold_if_any(slot).map_or(0, |cold| cold.outbox.len());
        let is_closing = |shard: &Self| {
            shard
                .connections
                .0
                .get(slot as usize)
                .is_some_and(|connection| connection.phase == Phase::Closing)
        };
        if waiting > limit && !is_closing(self) {
            self.relieve_queue(slot);
            if !is_closing(self) {
                return;
            }
            // The close frame goes out if the kernel ever takes what stands before it; the timer resets otherwise.
            self.dirty.retain(|dirty| *dirty != slot);
            if let Some(connection) = self.connection(slot) {
                connection.set(flag::DIRTY, false);
                connection.set(flag::CORKED, true);
            }
        }
    }
}
