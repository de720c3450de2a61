//! Every way in which a connection ends. Its name leaves channels and users at once; its socket is closed in
//! [`Shard::reap`] at the end of a turn, or by the timer if the peer does not go.

use crate::base::ids::ConnKey;
use crate::hub::connection::{NONE, Phase, flag};
use crate::hub::events::EndedBy;
use crate::hub::mail::{Leave, Mail, UserAsk, UserOp};
use crate::hub::shard::{Connections, Shard};
use crate::hub::sockets::Sockets;
use crate::limits;
use crate::protocol::DisconnectCode;
use crate::wire::close::write_close;

/// Stands for a close frame without a code (RFC 6455, section 7.4.1).
const NO_CODE: u16 = 1005;
/// Stands for an end without a close frame (the same section).
const NO_CLOSE: u16 = 1006;

/// How a connection went, for the presence of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// It will not come back: the client said goodbye (by its close code, or `presence.set` before), or was told not to reconnect.
    Goodbye,
    /// It may come back; the peer was heard of just now.
    Heard,
    /// The peer closed without saying why: either it will not come back, or it does at once.
    Unsaid,
    /// It may come back; the peer may have been silent for a while.
    Lost,
}

impl Farewell {
    /// What a close code of the server tells the client: codes from 3500 and from 4500 mean "do not reconnect".
    fn of_server(code: u16) -> Self {
        if matches!(code, 3500..=3999 | 4500..=4999) { Self::Goodbye } else { Self::Lost }
    }

    /// What the close code of a client tells. Browsers send 1001 where a page goes away, and none where a script closes
    /// without one: centrifuge-js does, whether its application disconnects or the browser reports that its network is
    /// gone. In the second case the frame comes once the network is back, and a new connection right behind it.
    fn of_peer(code: Option<u16>) -> Self {
        match code {
            Some(1000 | 1001) => Self::Goodbye,
            None => Self::Unsaid,
            Some(_) => Self::Heard,
        }
    }
}

impl Shard {
    /// Disconnects with a code of the client protocol.
    pub(crate) fn disconnect(&mut self, slot: u32, code: DisconnectCode) {
        if code == DisconnectCode::Slow
            && let Some(cold) = self.cold_if_any(slot)
        {
            cold.outbox.clear_unsent();
        }
        self.close_with(slot, code.code(), code.reason());
    }

    /// Closes with a code and a non-empty reason.
    pub(crate) fn close_with(&mut self, slot: u32, code: u16, reason: &str) {
        let Some(connection) = self.connections.0.get(slot as usize) else { return };
        if connection.phase == Phase::Closing {
            return;
        }
        if connection.phase > Phase::Handshake {
            self.metrics.disconnect(code);
            let mut frame = Vec::with_capacity(reason.len() + 4);
            write_close(&mut frame, code, reason);
            self.last_output(slot, |outbox, encoding| outbox.raw(encoding, &frame));
        }
        let ending = self.ending(slot, EndedBy::Server, code, reason);
        self.depart(slot, Farewell::of_server(code));
        self.post.note_any(ending);
    }

    /// The peer sent a close frame: answer it and be done.
    pub(crate) fn peer_closes(&mut self, slot: u32, code: Option<u16>) {
        let mut frame = Vec::with_capacity(4);
        match code {
            Some(code) => write_close(&mut frame, code, ""),
            None => frame.extend_from_slice(&[0x88, 0]),
        }
        self.last_output(slot, |outbox, encoding| outbox.raw(encoding, &frame));
        let ending = self.ending(slot, EndedBy::Client, code.unwrap_or(NO_CODE), "");
        self.depart(slot, Farewell::of_peer(code));
        self.post.note_any(ending);
    }

    /// The peer's bytes ended (FIN). What waits for it is flushed within the linger time.
    pub fn hang_up(&mut self, slot: u32) {
        let Some(connection) = self.connections.0.get(slot as usize) else { return };
        let waits = self.cold.get(connection.cold).is_some_and(|cold| !cold.outbox.is_empty());
        match (waits, connection.phase) {
            (false, _) => self.doom_as(slot, false, Farewell::Heard),
            // It is told again with every event of the socket; the timer bounds the wait.
            (true, Phase::Closing) => {}
            (true, _) => {
                let ending = self.ending(slot, EndedBy::Network, NO_CLOSE, "");
                self.depart(slot, Farewell::Heard);
                self.post.note_any(ending);
            }
        }
        if waits && let Some(cold) = self.cold_if_any(slot) {
            cold.has_hung_up = true;
        }
    }

    /// The connection is broken.
    pub fn lose(&mut self, slot: u32) {
        self.doom(slot, true);
    }

    /// Enters the closing phase: everything the connection stood for is released, its output goes on.
    pub(crate) fn depart(&mut self, slot: u32, farewell: Farewell) {
        self.leave_all(slot, farewell);
        let deadline = self.now.tick.after(limits::LINGER_TICKS);
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return };
        connection.phase = Phase::Closing;
        connection.ping = deadline;
        connection.set(flag::BLOCKED, false);
        if let Some(cold) = self.cold.get_mut(connection.cold) {
            cold.keep_output_only();
        }
        if !connection.has(flag::DIRTY) && !connection.has(flag::CORKED) {
            connection.set(flag::DIRTY, true);
            self.dirty.push(slot);
        }
        self.arm(slot);
    }

    /// Gives up subscriptions, user and counts.
    pub(crate) fn leave_all(&mut self, slot: u32, farewell: Farewell) {
        let farewell = self.farewell_of(slot, farewell);
        for handle in self.subscription_handles(slot) {
            self.note_unsubscribed(slot, handle, EndedBy::Disconnect, 0, "");
            self.leave_as(slot, handle, farewell);
        }
        let key = self.key(slot);
        let leave = self.leave_of(slot, farewell);
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return };
        let user = std::mem::replace(&mut connection.user, NONE);
        if connection.phase == Phase::Live {
            self.metrics.clients -= 1;
        }
        if connection.has(flag::UNAUTHENTICATED) {
            connection.set(flag::UNAUTHENTICATED, false);
            self.metrics.unauthenticated -= 1;
            if connection.phase == Phase::Handshake {
                self.common.admission.note_request_or_end();
            }
        }
        if user != NONE {
            self.leave_user(user, key, leave);
        }
    }

    /// Closes the sockets of this turn and hands over those that go to the control plane.
    pub(crate) fn reap(&mut self, io: &mut impl Sockets) {
        for (slot, bytes) in std::mem::take(&mut self.handed) {
            if let Some(connection) = self.connections.0.get(slot as usize) {
                io.hand_over(connection.socket, &bytes);
                self.metrics.handed_over += 1;
                self.forget(slot);
            }
        }
        for (slot, reset) in std::mem::take(&mut self.doomed) {
            if let Some(connection) = self.connections.0.get(slot as usize) {
                io.close(connection.socket, reset);
                self.forget(slot);
            }
        }
    }

    /// `single_connection`: a newer session of the user stays, the others go.
    pub(crate) fn close_others(&mut self, user: &str, keep: ConnKey) {
        for slot in self.locals.sessions_of(user) {
            if self.key(slot) != keep && !self.awaits_admission(slot) {
                self.disconnect(slot, DisconnectCode::ConnectionLimit);
            }
        }
    }

    pub(crate) fn doom(&mut self, slot: u32, reset: bool) {
        self.doom_as(slot, reset, Farewell::Lost);
    }

    fn doom_as(&mut self, slot: u32, reset: bool, farewell: Farewell) {
        let Some(connection) = self.connections.0.get(slot as usize) else { return };
        if connection.phase != Phase::Closing {
            let ending = self.ending(slot, EndedBy::Network, NO_CLOSE, "");
            self.leave_all(slot, farewell);
            self.post.note_any(ending);
        }
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return };
        connection.phase = Phase::Closing;
        // It may stand there already: the first entry frees the slot, and nobody moves in before the next turn.
        self.doomed.push((slot, reset));
    }

    fn leave_user(&mut self, user: u32, key: ConnKey, leave: Leave) {
        let name = self.locals.user_name(user);
        let (home, hash) = (self.common.home_of(&self.hasher, name), self.hasher.of(name.as_bytes()));
        let name = self.name_for_events(name);
        self.locals.remove_session(user, key.slot);
        let ask = UserAsk { hash, key, name, op: UserOp::Leave(leave) };
        self.post.send(home, Mail::User(Box::new(ask)));
    }

    /// Frees the slot.
    fn forget(&mut self, slot: u32) {
        self.leave_all(slot, Farewell::Lost);
        self.wheel.disarm(&mut self.connections, slot);
        let Some(mut connection) = self.connections.0.try_remove(slot as usize) else { return };
        self.cold.discard(&mut connection.cold);
        self.admission_leave(connection.source);
        if self.connections.0.is_empty() {
            self.connections = Connections(slab::Slab::new(), 0);
            self.forget_newcomers();
        }
    }
}
