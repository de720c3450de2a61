//! One timer per connection, armed lazily: activity only notes a tick, and when the timer fires it looks what is due.
//!
//! A deadline for what a peer should have sent counts only time in which this shard could have read it. What it sent
//! may wait in the kernel while the shard is busy with others, so nobody is closed unread: the connection becomes
//! *overdue*, the shell reads its socket once within the same turn, and only then it is decided. While a command waits
//! for another shard its connection is not read at all, so the question is put off by [`limits::RECHECK_TICKS`], but not
//! longer than [`limits::BLOCKED_TICKS`]: what hangs must not hold descriptors for ever.

use crate::base::tick::Tick;
use crate::hub::cold::Cold;
use crate::hub::connection::{Connection, NONE, Phase, flag, sub};
use crate::hub::metrics::{Refusal, SentKind};
use crate::hub::shard::{Shard, ticks_of};
use crate::limits;
use crate::protocol::{DisconnectCode, UnsubscribeCode, encode_ping};
use crate::wire::close::write_ping;

/// A connection that goes unless something is found when it is read once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    /// Not for its own deadline, but to make room (R02): unless it has gone on from this phase.
    pub(crate) crowded: Option<Phase>,
}

/// By how many ticks the first ping of a connection comes before a whole interval has passed, so that those who connect
/// at once are not pinged at once for ever: at most half of it. It follows from the generation, so that the ping tells
/// when the connection began.
pub(crate) fn first_ping_early(generation: u32, interval: u32) -> u32 {
    let spread = u64::from(generation.wrapping_mul(0x9e37_79b9));
    ((spread * (u64::from(interval / 2) + 1)) >> 32) as u32
}

impl Shard {
    /// Arms the timer of a connection for whatever is due first.
    pub(crate) fn arm(&mut self, slot: u32) {
        let Some(connection) = self.connections.0.get(slot as usize) else { return };
        match self.next_due(slot, connection) {
            Some(due) => self.wheel.arm(&mut self.connections, slot, due),
            None => self.wheel.disarm(&mut self.connections, slot),
        }
    }

    fn next_due(&self, slot: u32, connection: &Connection) -> Option<Tick> {
        let client = &self.common.settings.client;
        let since_accept = |delay| Some(connection.ping.after(ticks_of(delay)));
        match connection.phase {
            Phase::Handshake => since_accept(client.handshake_timeout.min(client.stale_close_delay)),
            Phase::Upgraded | Phase::Connecting | Phase::Failed => since_accept(client.stale_close_delay),
            Phase::Closing => Some(connection.ping),
            Phase::Live => {
                let pings = connection.has(flag::AWAITING_PONG) || !client.ping_interval.is_zero();
                let ping = pings.then_some(connection.ping);
                let expiry = (connection.expires != 0).then_some(Tick(connection.expires));
                let cold = if connection.cold == NONE { None } else { self.cold.get(connection.cold) };
                let colder = cold.and_then(Cold::next_due);
                [ping, expiry, colder, self.idle_due(slot, connection)].into_iter().flatten().min()
            }
        }
    }

    /// The timer of a connection fired.
    pub(crate) fn timer(&mut self, slot: u32) {
        self.look(slot, false);
    }

    /// Connections about to be closed for their silence: the shell reads each of them now, whatever the poller said,
    /// and the next [`Shard::settle`] decides. While input is held back they stay, and beyond `most` they wait for the
    /// next turn.
    pub fn take_overdue(&mut self, most: usize) -> impl Iterator<Item = (u32, u32)> + use<> {
        let overdue: Vec<_> = self.overdue.drain(..self.overdue.len().min(most)).collect();
        self.examined.extend_from_slice(&overdue);
        overdue.into_iter().map(|of| (of.slot, of.generation))
    }

    /// The shell has not read all that one of them sent: it is decided after another look.
    pub fn still_overdue(&mut self, slot: u32, generation: u32) {
        let again = |of: &Overdue| (of.slot, of.generation) == (slot, generation);
        let (unread, read): (Vec<_>, _) = std::mem::take(&mut self.examined).into_iter().partition(again);
        self.examined = read;
        self.overdue.extend(unread);
    }

    /// Closes those who were overdue and still are, now that their sockets were read.
    pub(crate) fn decide_overdue(&mut self) {
        for of in std::mem::take(&mut self.examined) {
            match of.crowded {
                _ if !self.is_current(of.slot, of.generation) => {}
                Some(was) => self.evict(of.slot, was),
                None => self.look(of.slot, true),
            }
        }
    }

    /// What is due? `was_read`: whatever the peer had sent by now was read.
    fn look(&mut self, slot: u32, was_read: bool) {
        let Some(connection) = self.connections.0.get(slot as usize) else { return };
        let now = self.now.tick;
        if self.next_due(slot, connection).is_some_and(|due| due > now) {
            return self.arm(slot);
        }
        match connection.phase {
            Phase::Handshake => {
                if self.is_silent(slot, was_read) {
                    self.metrics.refuse(Refusal::Timeout);
                    self.doom(slot, false);
                }
            }
            Phase::Upgraded | Phase::Connecting => {
                if self.is_silent(slot, was_read) {
                    self.disconnect(slot, DisconnectCode::Stale);
                }
            }
            Phase::Failed => self.disconnect(slot, DisconnectCode::Stale),
            Phase::Closing => self.doom(slot, true),
            Phase::Live => self.live_timer(slot, was_read),
        }
    }

    /// True if the peer did not send what it should have. False if that is not known yet: the shell reads it first, or
    /// the question comes up again once its input is looked at.
    fn is_silent(&mut self, slot: u32, was_read: bool) -> bool {
        let Some(connection) = self.connections.0.get(slot as usize) else { return false };
        let overdue = self.next_due(slot, connection).map_or(0, |due| self.now.tick.since(due));
        if connection.has(flag::BLOCKED) && overdue < limits::BLOCKED_TICKS {
            let again = self.now.tick.after(limits::RECHECK_TICKS);
            self.wheel.arm(&mut self.connections, slot, again);
        } else if !was_read && !connection.has(flag::BLOCKED) {
            self.overdue.push_back(Overdue { slot, generation: connection.generation, crowded: None });
        } else {
            return true;
        }
        false
    }

    fn live_timer(&mut self, slot: u32, was_read: bool) {
        let now = self.now.tick;
        let Some(connection) = self.connections.0.get(slot as usize) else { return };
        if connection.expires != 0 && Tick(connection.expires) <= now {
            return self.disconnect(slot, DisconnectCode::ConnectionExpired);
        }
        if connection.cold != NONE && !self.cold_timers(slot, was_read) {
            return;
        }
        self.notice_idle(slot);
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return };
        let pings = !self.common.settings.client.ping_interval.is_zero();
        if connection.ping <= now && (pings || connection.has(flag::AWAITING_PONG)) {
            if !connection.has(flag::AWAITING_PONG) {
                self.ping(slot);
            } else if now < self.forgiven_until {
                connection.ping = self.forgiven_until;
            } else {
                if self.is_silent(slot, was_read) {
                    self.disconnect(slot, DisconnectCode::NoPong);
                }
                return;
            }
        }
        self.arm(slot);
    }

    fn ping(&mut self, slot: u32) {
        let client = &self.common.settings.client;
        let (interval, timeout) = (ticks_of(client.ping_interval), ticks_of(client.pong_timeout));
        let now = self.now.tick;
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return };
        let native = connection.has(flag::NATIVE_PING);
        if timeout > 0 {
            connection.set(flag::AWAITING_PONG, true);
            connection.ping = now.after(timeout);
        } else {
            connection.ping = now.after(interval);
        }
        self.metrics.pings += 1;
        self.metrics.send(SentKind::Ping);
        self.mailbox_pinged(slot);
        let payload = if native { self.mailbox_ping_payload(slot) } else { Vec::new() };
        self.output(slot, |outbox, encoding| {
            if native {
                let mut frame = Vec::with_capacity(2 + payload.len());
                write_ping(&mut frame, &payload);
                outbox.raw(encoding, &frame);
            } else {
                outbox.message(encoding, |out| encode_ping(out, encoding));
            }
        });
    }

    /// Deadlines of the cold part. False if one of them ended the connection, or may do so.
    fn cold_timers(&mut self, slot: u32, was_read: bool) -> bool {
        let now = self.now.tick;
        let Some(cold) = self.cold_if_any(slot) else { return true };
        if cold.assembly_deadline.is_some_and(|deadline| deadline <= now) {
            if self.is_silent(slot, was_read) {
                self.close_with(slot, 1008, "message took too long");
            }
            return false;
        }
        cold.forget_counts(now);
        let due: Vec<u32> = cold
            .extras
            .iter()
            .filter(|extra| extra.expires.is_some_and(|expires| expires <= now))
            .map(|extra| extra.channel)
            .collect();
        if cold.paused_until.is_some_and(|until| until <= now) {
            self.end_pause(slot);
        }
        self.mailbox_timer(slot);
        self.release_cold(slot);
        due.into_iter().all(|handle| self.subscription_expired(slot, handle))
    }

    fn end_pause(&mut self, slot: u32) {
        if let Some(cold) = self.cold_if_any(slot) {
            cold.paused_until = None;
        }
        self.resume(slot);
    }

    fn subscription_expired(&mut self, slot: u32, handle: u32) -> bool {
        let Some(flags) = self.subscription_flags(slot, handle) else { return true };
        if flags & sub::SERVER_SIDE != 0 {
            self.disconnect(slot, DisconnectCode::SubscriptionExpired);
            return false;
        }
        let channel = self.locals.channel_name(handle).to_owned();
        self.unsubscribe_with(slot, &channel, UnsubscribeCode::Expired);
        true
    }
}
