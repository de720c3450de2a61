//! Publications to the subscribers of this shard: at once where there are few, by a sweep where there are many.

use std::sync::Arc;

use slab::Slab;

use crate::hub::backlog::Hold;
use crate::hub::channel::{Channel, Portion, Subscriber, frame};
use crate::hub::cold::{Cold, ColdPool};
use crate::hub::connect::PendingConnect;
use crate::hub::connection::{Connection, NONE, Phase, flag, sub};
use crate::hub::locals::ChannelRef;
use crate::hub::mail::Delivery;
use crate::hub::metrics::ShardMetrics;
use crate::hub::shard::Shard;
use crate::hub::sockets::{Sockets, Written};
use crate::hub::sweep::Line;
use crate::limits;
use crate::protocol::{DisconnectCode, Encoding};

/// What a sweep found wrong with a subscriber; dealt with after the channel is let go.
pub(crate) enum Offence {
    Gone,
    Overfull,
    Disconnect(DisconnectCode),
}

impl Shard {
    /// A publication (or a join or leave) for local subscribers of a channel.
    pub(crate) fn deliver(&mut self, delivery: &Arc<Delivery>) {
        let Some(handle) = self.locals.find_channel(delivery.hash, &delivery.channel) else { return };
        let index = match self.locals.channel(handle) {
            ChannelRef::One(slot) if delivery.mailbox.is_some() => {
                return self.deliver_message(slot, handle, delivery);
            }
            ChannelRef::One(slot) => return self.deliver_to(slot, handle, delivery),
            ChannelRef::Many(index) => index,
        };
        if delivery.mailbox.is_some() {
            let slots = self.locals.subscribers_of(index).iter().map(|subscriber| subscriber.slot);
            let slots: Vec<u32> = slots.filter(|slot| *slot != NONE).collect();
            return slots.into_iter().for_each(|slot| self.deliver_message(slot, handle, delivery));
        }
        let Some(channel) = self.locals.many(index) else { return };
        if channel.active() <= limits::FEW_SUBSCRIBERS && !channel.is_sweeping() {
            channel.skip();
            let mut slots = [NONE; limits::FEW_SUBSCRIBERS];
            let active =
                channel.subscribers.iter().map(|subscriber| subscriber.slot).filter(|slot| *slot != NONE);
            for (place, slot) in slots.iter_mut().zip(active) {
                *place = slot;
            }
            for slot in slots.into_iter().filter(|slot| *slot != NONE) {
                self.deliver_to(slot, handle, delivery);
            }
            return;
        }
        let delay_ms = delivery.terms.write_delay_ms;
        channel.push(Arc::clone(delivery));
        channel.delayed = delay_ms > 0;
        let may_wait = delay_ms > 0 && channel.backlog() < limits::GATHER_BYTES;
        if may_wait && channel.line == Line::Nowhere {
            channel.line = Line::Held;
            self.gathering.channel(index, delay_ms, self.now_ms);
        } else if !may_wait || channel.line != Line::Held {
            self.sweeps.line_up(index, channel, self.now_ms);
        }
    }

    pub(crate) fn deliver_to(&mut self, slot: u32, handle: u32, delivery: &Arc<Delivery>) {
        let Some(flags) = self.subscription_flags(slot, handle) else { return };
        let wanted = !delivery.join_leave || flags & sub::JOIN_LEAVE != 0;
        if flags & sub::PENDING != 0 || !wanted {
            return;
        }
        let Some(connection) = self.connections.0.get(slot as usize) else { return };
        let encoding = connection.encoding();
        let is_connecting = connection.phase == Phase::Connecting;
        if is_connecting && delivery.join_leave {
            // Joins and leaves are told from the reply on.
            return;
        }
        if delivery.not_json && encoding == Encoding::Json {
            return self.disconnect(slot, DisconnectCode::InappropriateProtocol);
        }
        if is_connecting {
            return self.hold_back(slot, encoding, delivery);
        }
        if let Some(frame) = frame(delivery, encoding) {
            let hold = Hold::of(delivery.terms, flags & sub::POSITIONED != 0);
            let (corked, mut conflated) = (connection.is_stuck(), false);
            self.metrics.send(delivery.kind);
            self.output_within(slot, delivery.terms.write_delay_ms, |outbox, encoding| {
                conflated = outbox.publication(encoding, frame, delivery, hold, corked);
            });
            self.metrics.publications_conflated += u64::from(conflated);
        }
    }
}

/// One turn's part of a sweep over one channel: what of the shard it needs beside the channel itself.
pub(crate) struct Pass<'a> {
    pub(crate) handle: u32,
    pub(crate) queue_max: usize,
    /// Output is joined with that of other channels and leaves at the end of the turn.
    pub(crate) gathers: bool,
    pub(crate) connections: &'a mut Slab<Connection>,
    pub(crate) cold: &'a mut ColdPool,
    pub(crate) dirty: &'a mut Vec<u32>,
    pub(crate) metrics: &'a mut ShardMetrics,
}

impl Pass<'_> {
    /// One write for one subscriber: the run of frames it has not had. False if there was none.
    pub(crate) fn serve(
        &mut self,
        channel: &Channel,
        subscriber: Subscriber,
        io: &mut impl Sockets,
    ) -> Result<bool, Offence> {
        let slot = subscriber.slot;
        let Some(connection) = self.connections.get_mut(slot as usize) else { return Ok(false) };
        if !matches!(connection.phase, Phase::Live | Phase::Connecting) {
            return Ok(false);
        }
        // Joins and leaves are told from the reply to `connect` on.
        let is_live = connection.phase == Phase::Live;
        let all =
            !channel.carries_join_leave() || is_live && wants_join_leave(connection, self.cold, self.handle);
        let Some(portion) = channel.portion(subscriber, connection.encoding(), all) else {
            return Ok(false);
        };
        if portion.unfit() {
            return Err(Offence::Disconnect(DisconnectCode::InappropriateProtocol));
        }
        if connection.phase == Phase::Connecting {
            let pending = self.cold.get_mut(connection.cold).and_then(Cold::pending_connect);
            return hold_back(pending, connection.encoding(), &portion, self.queue_max).map(|()| false);
        }
        let sent_kinds = &mut self.metrics.sent;
        portion.count(|kind, count| sent_kinds[kind as usize] += count);
        let has_output = connection.cold != NONE
            && self.cold.get(connection.cold).is_some_and(|cold| !cold.outbox.is_empty());
        let waiting = has_output || self.gathers;
        let mut sent = 0;
        if !waiting && !portion.run.is_empty() {
            match io.write(connection.socket, portion.run) {
                Written::Broken => return Err(Offence::Gone),
                Written::Bytes(count) => sent = count,
            }
            self.metrics.writes += 1;
            self.metrics.bytes_sent += sent as u64;
            if sent == portion.run.len() {
                return Ok(true);
            }
            connection.set(flag::CORKED, true);
        } else if portion.frames().next().is_some() {
            if !connection.has(flag::DIRTY) && !connection.has(flag::CORKED) {
                connection.set(flag::DIRTY, true);
                self.dirty.push(slot);
            }
        } else {
            return Ok(false);
        }
        let flags = flags_of(connection, self.cold, self.handle);
        let positioned = flags.is_some_and(|flags| flags & sub::POSITIONED != 0);
        let (encoding, is_corked) = (connection.encoding(), connection.is_stuck());
        let outbox = &mut self.cold.obtain(&mut connection.cold).outbox;
        for (source, frame) in portion.frames() {
            if sent >= frame.len() {
                sent -= frame.len();
            } else if sent > 0 {
                outbox.rest_of_frame(frame.slice(sent..));
                sent = 0;
            } else {
                let hold = Hold::of(source.terms, positioned);
                let conflated = outbox.publication(encoding, frame, source, hold, is_corked);
                self.metrics.publications_conflated += u64::from(conflated);
            }
        }
        if is_corked && outbox.len() > self.queue_max { Err(Offence::Overfull) } else { Ok(true) }
    }
}

/// Keeps what a subscriber is to get behind the reply to its connect command.
fn hold_back(
    pending: Option<&mut PendingConnect>,
    encoding: Encoding,
    portion: &Portion<'_>,
    queue_max: usize,
) -> Result<(), Offence> {
    let Some(pending) = pending else { return Ok(()) };
    let mut publications = portion.frames().filter(|(delivery, _)| !delivery.join_leave);
    if publications.all(|(delivery, _)| pending.hold(encoding, delivery, queue_max)) {
        Ok(())
    } else {
        Err(Offence::Disconnect(DisconnectCode::InsufficientState))
    }
}

fn wants_join_leave(connection: &Connection, cold: &ColdPool, handle: u32) -> bool {
    flags_of(connection, cold, handle).is_some_and(|flags| flags & sub::JOIN_LEAVE != 0)
}

fn flags_of(connection: &Connection, cold: &ColdPool, handle: u32) -> Option<u8> {
    if let Some(at) = connection.subscriptions.iter().position(|place| place.channel == handle) {
        return Some(connection.subscription_flags[at]);
    }
    let more = &cold.get(connection.cold)?.more;
    more.iter().find(|(place, _)| place.channel == handle).map(|(_, flags)| *flags)
}
