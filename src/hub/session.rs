//! Bytes of an upgraded connection: frames, the commands in them, and the order in which those run.
//!
//! Commands of a connection run strictly one after the other. One that needs another shard blocks the connection:
//! what stands behind it, in its frame and in the socket, waits in [`Blocked`] until the answer comes. Commands whose
//! replies do not get away wait as well: what a turn may answer has a bound, and a pipeline goes as fast as its reader.

use crate::hub::cold::{Blocked, Rest, Wait};
use crate::hub::connection::{NONE, Phase, flag};
use crate::hub::metrics::{ReceivedKind, SentKind};
use crate::hub::shard::Shard;
use crate::limits;
use crate::protocol::encode_error;
use crate::protocol::{Body, Command, Malformed, commands};
use crate::protocol::{DisconnectCode, ErrorCode};
use crate::wire::close::write_pong;
use crate::wire::message::{Assembly, DecoderLimits, Item, Violation, next_item};

impl Shard {
    /// Bytes that arrived on a connection, in one contiguous piece, which is unmasked in place.
    pub fn input(&mut self, slot: u32, bytes: &mut [u8]) {
        let Some(connection) = self.connections.0.get(slot as usize) else { return };
        self.metrics.bytes_received += bytes.len() as u64;
        match connection.phase {
            Phase::Handshake => self.handshake(slot, bytes),
            Phase::Closing => {}
            _ => self.frames(slot, bytes),
        }
    }

    /// WebSocket frames, from wherever the last piece stopped.
    pub(crate) fn frames(&mut self, slot: u32, bytes: &mut [u8]) {
        let rest = self.frames_in(slot, bytes);
        let (_, rest) = bytes.split_at(bytes.len() - rest);
        if !rest.is_empty() {
            self.stash_input(slot, rest);
        }
        self.release_cold(slot);
    }

    /// Returns how many bytes at the end must wait.
    fn frames_in(&mut self, slot: u32, mut bytes: &mut [u8]) -> usize {
        let mut assembly = self.cold_if_any(slot).and_then(|cold| cold.assembly.take());
        let limits = DecoderLimits { message: self.common.settings.http.message_size_limit };
        let mut is_fresh = false;
        while self.wants_input(slot) {
            if !bytes.is_empty() && self.waits_for_output(slot) {
                break;
            }
            match next_item(&mut assembly, &mut bytes, &limits) {
                Ok(Some(item)) => {
                    is_fresh |= matches!(item, Item::Text(_) | Item::Binary(_));
                    self.item(slot, item);
                }
                Ok(None) => break,
                Err(violation) => {
                    self.violation(slot, violation);
                    break;
                }
            }
        }
        self.keep_assembly(slot, assembly, is_fresh);
        bytes.len()
    }

    /// Goes on with what waited behind an answered command.
    pub(crate) fn resume(&mut self, slot: u32) {
        let Some(blocked) = self.cold_if_any(slot).and_then(|cold| cold.blocked.take()) else { return };
        if let Some(connection) = self.connection(slot) {
            connection.set(flag::BLOCKED, false);
        }
        let Blocked { mut commands, mut input, .. } = *blocked;
        if !commands.is_empty() {
            let rest = self.commands_in(slot, commands.bytes());
            commands.keep_last(rest);
        }
        if !input.is_empty() && self.wants_input(slot) {
            let rest = self.frames_in(slot, input.bytes_mut());
            input.keep_last(rest);
        }
        if let Some(again) = self.cold_if_any(slot).and_then(|cold| cold.blocked.as_mut()) {
            if !commands.is_empty() {
                again.commands = commands;
            }
            again.input = input;
        } else if self.wants_input(slot) {
            self.read_later(slot);
        }
        self.release_cold(slot);
    }

    /// Has the shell read a connection in the next turn, whatever its poller says: once, however often it is asked for.
    pub(crate) fn read_later(&mut self, slot: u32) {
        if let Some(connection) = self.connections.0.get_mut(slot as usize)
            && !connection.has(flag::RESUMED)
        {
            connection.set(flag::RESUMED, true);
            self.resumed.push_back(slot);
        }
    }

    /// The output that commands waited for may have left: they go on in the next turn.
    pub(crate) fn output_left(&mut self, slot: u32, is_all: bool) {
        let blocked = self.cold_if_any(slot).and_then(|cold| cold.blocked.as_mut());
        if let Some(Wait::Output { left }) = blocked.map(|blocked| &mut blocked.wait) {
            if is_all {
                *left = 0;
            }
            if *left == 0 {
                self.read_later(slot);
            }
        }
    }

    /// The peer said that nothing more comes, and that was not read yet. Commands of it that wait for output which it does
    /// not take run all the same, as its end stands behind them: they are its last, and its queue has a limit.
    pub fn read_closed(&mut self, slot: u32, generation: u32) {
        let Some(connection) = self.connections.0.get_mut(slot as usize) else { return };
        if connection.generation != generation || connection.phase == Phase::Closing {
            return;
        }
        let is_corked = connection.has(flag::CORKED);
        self.cold.obtain(&mut connection.cold).has_hung_up = true;
        if is_corked {
            self.output_left(slot, true);
        }
    }

    /// True if commands waited for output that has left.
    pub(crate) fn may_resume(&mut self, slot: u32) -> bool {
        let blocked = self.cold_if_any(slot).and_then(|cold| cold.blocked.as_ref());
        matches!(blocked.map(|blocked| &blocked.wait), Some(Wait::Output { left: 0 }))
    }

    /// Blocks the connection until the home answers; returns the number the answer must carry.
    pub(crate) fn block(&mut self, slot: u32, wait: Wait) -> u32 {
        let number = self.ticket_number();
        if let Some(connection) = self.connection(slot) {
            connection.set(flag::BLOCKED, true);
        }
        if let Some(cold) = self.cold(slot) {
            cold.blocked =
                Some(Box::new(Blocked { number, wait, commands: Rest::default(), input: Rest::default() }));
        }
        number
    }

    /// A number for a question to a home, different from all others that may be under way.
    pub(crate) fn ticket_number(&mut self) -> u32 {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        self.next_ticket
    }

    pub(crate) fn reply_error(&mut self, slot: u32, id: u32, error: ErrorCode) {
        self.metrics.reply_error(error.code() as u16);
        self.say(slot, SentKind::Error, |out, encoding| encode_error(out, encoding, id, error));
    }

    fn wants_input(&self, slot: u32) -> bool {
        self.connections.0.get(slot as usize).is_some_and(|connection| connection.wants_input())
    }

    /// Blocks a connection of which so much output waits that its next command must. Where the kernel takes nothing now,
    /// the limit of the queue applies instead: what waits there may be publications, and their reader slow.
    fn waits_for_output(&mut self, slot: u32) -> bool {
        let limit = limits::OUTPUT_AHEAD_BYTES.min(self.common.settings.client.queue_max_size / 2);
        let Some(connection) = self.connections.0.get(slot as usize) else { return false };
        let waiting = self.cold.get(connection.cold).map_or(0, |cold| cold.outbox.len());
        if waiting <= limit || connection.has(flag::CORKED) {
            return false;
        }
        self.block(slot, Wait::Output { left: waiting });
        true
    }

    fn item(&mut self, slot: u32, item: Item<'_>) {
        match item {
            Item::Text(payload) | Item::Binary(payload) => {
                self.commands(slot, payload);
            }
            Item::Ping(payload) => {
                let mut pong = Vec::with_capacity(payload.len() + 2);
                write_pong(&mut pong, payload);
                if self.control_frame(slot) {
                    self.output(slot, |outbox, encoding| outbox.raw(encoding, &pong));
                }
            }
            Item::Pong(payload) => {
                if self.control_frame(slot)
                    && self.connections.0.get(slot as usize).is_some_and(|of| of.has(flag::NATIVE_PING))
                {
                    self.ponged_natively(slot, payload);
                }
            }
            Item::Close(code) => self.peer_closes(slot, code.map(|(code, _)| code)),
        }
    }

    /// Counts a control frame; false where there are too many.
    fn control_frame(&mut self, slot: u32) -> bool {
        let now = self.now.tick;
        let Some(cold) = self.cold(slot) else { return false };
        cold.forget_counts(now);
        if cold.control_frames == 0 {
            cold.control_since = now;
        }
        cold.control_frames += 1;
        let count = cold.control_frames;
        if count > limits::CONTROL_FRAMES_PER_SECOND {
            self.close_with(slot, 1008, "too many control frames");
            return false;
        }
        if count == 1 {
            self.arm(slot);
        }
        true
    }

    /// The commands of one frame, until one blocks.
    fn commands(&mut self, slot: u32, frame: &[u8]) {
        let rest = self.commands_in(slot, frame);
        let (_, rest) = frame.split_at(frame.len() - rest);
        if !rest.is_empty()
            && let Some(blocked) = self.cold_if_any(slot).and_then(|cold| cold.blocked.as_mut())
        {
            blocked.commands = Rest::copy_of(rest);
            self.metrics.input_bytes_kept += rest.len() as u64;
        }
    }

    /// Returns how many bytes at the end must wait.
    fn commands_in(&mut self, slot: u32, frame: &[u8]) -> usize {
        let Some(connection) = self.connections.0.get(slot as usize) else { return 0 };
        let mut commands = commands(connection.encoding(), frame);
        while self.wants_input(slot) {
            if !commands.rest().is_empty() && self.waits_for_output(slot) {
                break;
            }
            match commands.next() {
                Some(Ok(command)) => self.command(slot, command),
                Some(Err(malformed)) => {
                    self.malformed(slot, malformed);
                    return 0;
                }
                None => return 0,
            }
        }
        commands.rest().len()
    }

    fn malformed(&mut self, slot: u32, _malformed: Malformed) {
        self.metrics.receive(ReceivedKind::Malformed);
        self.disconnect(slot, DisconnectCode::BadRequest);
    }

    fn command(&mut self, slot: u32, command: Command<'_>) {
        let Some(connection) = self.connections.0.get(slot as usize) else { return };
        let (phase, id) = (connection.phase, command.id);
        self.metrics.receive(kind_of(&command.body));
        let in_order = match command.body {
            Body::Connect(_) => phase == Phase::Upgraded,
            _ => phase == Phase::Live,
        };
        let numbered = id > 0 || matches!(command.body, Body::Pong | Body::Send(_));
        if !in_order || !numbered {
            return self.disconnect(slot, DisconnectCode::BadRequest);
        }
        if !matches!(command.body, Body::Pong) && !self.within_rate(slot, id) {
            return;
        }
        match command.body {
            Body::Subscribe(_) => self.touch_by_subscribe(slot),
            Body::Unsubscribe(_) | Body::Publish(_) | Body::Send(_) => self.touch(slot),
            _ => {}
        }
        match command.body {
            Body::Connect(connect) => self.connect(slot, id, &connect),
            Body::Subscribe(subscribe) => self.subscribe(slot, id, &subscribe),
            Body::Unsubscribe(request) => self.unsubscribe(slot, id, &request.channel),
            Body::Publish(publish) => self.publish(slot, id, &publish),
            Body::Presence(request) => self.presence(slot, id, &request.channel),
            Body::PresenceStats(request) => self.presence_stats(slot, id, &request.channel),
            Body::History(history) => self.history(slot, id, &history),
            Body::Rpc(rpc) => self.rpc(slot, id, &rpc),
            Body::Send(_) => self.disconnect(slot, DisconnectCode::NotAvailable),
            Body::Refresh(refresh) => self.refresh(slot, id, &refresh.token),
            Body::SubRefresh(refresh) => self.sub_refresh(slot, id, &refresh),
            Body::Pong => self.pong(slot),
            Body::Ping | Body::None => self.disconnect(slot, DisconnectCode::BadRequest),
        }
    }

    /// Takes a token from the connection's bucket. Over the rate: error 111, then reading stops, then 3013.
    fn within_rate(&mut self, slot: u32, id: u32) -> bool {
        if self.common.settings.client.command_rate_limit == 0 {
            return true;
        }
        let (rate, now) = (self.command_rate, self.now.tick);
        let Some(connection) = self.connection(slot) else { return false };
        if connection.rate.take(rate, now) {
            return true;
        }
        let Some(cold) = self.cold(slot) else { return false };
        cold.forget_counts(now);
        cold.strikes = cold.strikes.saturating_add(1);
        cold.struck_at = now;
        let strikes = cold.strikes;
        self.metrics.commands_over_rate += 1;
        if strikes >= limits::RATE_STRIKES_TO_CLOSE {
            self.disconnect(slot, DisconnectCode::TooManyRequests);
            return false;
        }
        if id > 0 {
            self.reply_error(slot, id, ErrorCode::TooManyRequests);
        }
        if strikes >= limits::RATE_STRIKES_TO_PAUSE {
            self.pause(slot);
        }
        self.arm(slot);
        false
    }

    /// Looks at nothing from this connection for a second: what stands behind the command waits.
    fn pause(&mut self, slot: u32) {
        self.block(slot, Wait::Pause);
        let until = self.now.tick.after(10);
        if let Some(cold) = self.cold(slot) {
            cold.paused_until = Some(until);
        }
    }

    fn violation(&mut self, slot: u32, violation: Violation) {
        self.metrics.violations += 1;
        self.close_with(slot, violation.code(), violation.reason());
    }

    /// Keeps what is pending. Its deadline counts from its own begin: `is_fresh` if a message before it has ended.
    fn keep_assembly(&mut self, slot: u32, assembly: Option<Box<Assembly>>, is_fresh: bool) {
        let Some(assembly) = assembly.filter(|assembly| assembly.is_pending()) else {
            if let Some(cold) = self.cold_if_any(slot) {
                cold.assembly_deadline = None;
            }
            return;
        };
        if self.connections.0.get(slot as usize).is_none_or(|connection| connection.phase == Phase::Closing) {
            return;
        }
        let deadline = self.now.tick.after(limits::ASSEMBLY_TICKS);
        let Some(cold) = self.cold(slot) else { return };
        cold.assembly = Some(assembly);
        if is_fresh || cold.assembly_deadline.is_none() {
            cold.assembly_deadline = Some(deadline);
            self.arm(slot);
        }
    }

    /// Keeps bytes that were read but must not be looked at yet: at most one read buffer, as reading stops.
    fn stash_input(&mut self, slot: u32, bytes: &[u8]) {
        let Some(cold) = self.cold_if_any(slot) else { return };
        if let Some(blocked) = &mut cold.blocked {
            blocked.input.extend(bytes);
            self.metrics.input_bytes_kept += bytes.len() as u64;
        }
    }

    pub(crate) fn release_cold(&mut self, slot: u32) {
        if let Some(connection) = self.connections.0.get_mut(slot as usize) {
            self.cold.release_if_empty(&mut connection.cold);
            // A part that stays for another reason must not keep the room of a large reply with it.
            if connection.cold != NONE
                && let Some(cold) = self.cold.get_mut(connection.cold)
            {
                cold.outbox.give_back();
            }
        }
    }
}

/// What a command counts as.
fn kind_of(body: &Body<'_>) -> ReceivedKind {
    match body {
        Body::Connect(_) => ReceivedKind::Connect,
        Body::Subscribe(_) => ReceivedKind::Subscribe,
        Body::Unsubscribe(_) => ReceivedKind::Unsubscribe,
        Body::Publish(_) => ReceivedKind::Publish,
        Body::Presence(_) => ReceivedKind::Presence,
        Body::PresenceStats(_) => ReceivedKind::PresenceStats,
        Body::History(_) => ReceivedKind::History,
        Body::Rpc(_) => ReceivedKind::Rpc,
        Body::Send(_) => ReceivedKind::Send,
        Body::Refresh(_) => ReceivedKind::Refresh,
        Body::SubRefresh(_) => ReceivedKind::SubRefresh,
        Body::Pong => ReceivedKind::Pong,
        Body::Ping | Body::None => ReceivedKind::Malformed,
    }
}
