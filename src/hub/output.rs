//! Output of connections: gathered during a turn, written once at its end.

use crate::hub::connection::{Phase, flag};
use crate::hub::outbox::Outbox;
use crate::hub::shard::Shard;
use crate::hub::sockets::{Sockets, Written};
use crate::protocol::{DisconnectCode, Encoding};

/// What became of a flush.
enum Flushed {
    Empty,
    Blocked,
    Broken,
}

impl Shard {
    /// Adds output to a connection; it leaves at the end of the turn, joined with whatever else comes. A queue over its
    /// limit that the kernel does not take ends the connection.
    pub(crate) fn output(&mut self, slot: u32, add: impl FnOnce(&mut Outbox, Encoding)) {
        let limit = self.common.settings.client.queue_max_size;
        let waiting = self.last_output(slot, add);
        if waiting > limit && self.connections.0.get(slot as usize).is_some_and(|c| c.has(flag::CORKED)) {
            self.disconnect(slot, DisconnectCode::Slow);
        }
    }

    /// Adds output behind which the connection ends anyway, whatever waits before it: a close frame that was refused
    /// for a full queue would ask for another one. Returns the bytes that wait.
    pub(crate) fn last_output(&mut self, slot: u32, add: impl FnOnce(&mut Outbox, Encoding)) -> usize {
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return 0 };
        if connection.phase == Phase::Closing {
            return 0;
        }
        let encoding = connection.encoding();
        let cold = self.cold.obtain(&mut connection.cold);
        add(&mut cold.outbox, encoding);
        let waiting = cold.outbox.len();
        if !connection.has(flag::DIRTY) && !connection.has(flag::CORKED) {
            connection.set(flag::DIRTY, true);
            self.dirty.push(slot);
        }
        waiting
    }

    /// The kernel takes output again.
    pub fn writable(&mut self, slot: u32) {
        let Some(connection) = self.connection(slot) else { return };
        if !connection.has(flag::CORKED) {
            return;
        }
        connection.set(flag::CORKED, false);
        if !connection.has(flag::DIRTY) {
            connection.set(flag::DIRTY, true);
            self.dirty.push(slot);
        }
    }

    /// Writes the output of this turn, one write per connection where the kernel takes it.
    pub(crate) fn flush(&mut self, io: &mut impl Sockets) {
        let post = &self.post;
        self.granted.retain(|(_, home)| post.waits(*home));
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            if self.granted.iter().any(|(held, _)| *held == slot) {
                self.dirty.push(slot);
            } else {
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
            Flushed::Blocked => self.check_queue(slot),
            Flushed::Broken => self.lose(slot),
        }
    }

    fn write_out(&mut self, slot: u32, io: &mut impl Sockets) -> Flushed {
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return Flushed::Empty };
        connection.set(flag::DIRTY, false);
        let Some(cold) = self.cold.get_mut(connection.cold) else { return Flushed::Empty };
        let encoding = connection.encoding();
        loop {
            let front = cold.outbox.front(encoding);
            if front.is_empty() {
                return Flushed::Empty;
            }
            let length = front.len();
            self.metrics.writes += 1;
            match io.write(connection.socket, front) {
                Written::Broken => return Flushed::Broken,
                Written::Bytes(count) => {
                    self.metrics.bytes_sent += count as u64;
                    cold.outbox.advance(count);
                    if count < length {
                        connection.set(flag::CORKED, true);
                        return Flushed::Blocked;
                    }
                }
            }
        }
    }

    /// A reader so slow that its queue passed the limit is disconnected.
    fn check_queue(&mut self, slot: u32) {
        let limit = self.common.settings.client.queue_max_size;
        let waiting = self.cold_if_any(slot).map_or(0, |cold| cold.outbox.len());
        let closing = self.connections.0.get(slot as usize).is_some_and(|c| c.phase == Phase::Closing);
        if waiting > limit && !closing {
            self.disconnect(slot, DisconnectCode::Slow);
            // The close frame goes out if the kernel ever takes what stands before it; the timer resets otherwise.
            self.dirty.retain(|dirty| *dirty != slot);
            if let Some(connection) = self.connection(slot) {
                connection.set(flag::DIRTY, false);
                connection.set(flag::CORKED, true);
            }
        }
    }
}
