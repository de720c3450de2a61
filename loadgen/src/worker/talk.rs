//! Clients that send commands of their own: talk in a room, join and leave channels, ask who is there.

use std::collections::{HashMap, HashSet};

use hdrhistogram::Histogram;

use super::{Due, Worker};
use crate::behaviour::{Chat, Churn};
use crate::client::{Manner, Stage};
use crate::counters::Reason;
use crate::dialect::{Command, Reply, ReplyBody};
use crate::marker::Marker;
use crate::proof;

/// A message that comes due this much late was held up by the generator, and counts from when it was due.
const LATE_MS: u32 = 2;
/// Channels whose presence one worker asks for.
const ASKED_CHANNELS: u32 = 200;
/// Command ids begin behind those of the opening.
const FIRST_ID: u32 = 1_000;

/// What clients say, and what they wait to hear.
pub(super) struct Talk {
    chat: Option<Chat>,
    churn: Option<ChurnState>,
    asked: HashMap<(u32, u32), Asked>,
    /// Clients that have left their first channel.
    absent: HashSet<u32>,
    next_id: u32,
    /// From command to reply, in microseconds.
    pub(super) took: Histogram<u64>,
    /// Presence counts that were right, and that were not.
    pub(super) presence: (u64, u64),
}

struct ChurnState {
    rate: f64,
    since_ns: u64,
    done: u64,
}

/// A command that is under way.
#[derive(Clone, Copy)]
struct Asked {
    sent_ns: u64,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Said,
    Joins(u32),
    Leaves,
    Counts(u32),
}

impl Default for Talk {
    fn default() -> Self {
        Self {
            chat: None,
            churn: None,
            asked: HashMap::new(),
            absent: HashSet::new(),
            next_id: FIRST_ID,
            took: proof::histogram(),
            presence: (0, 0),
        }
    }
}

impl Talk {
    /// Commands that are under way.
    pub(super) fn under_way(&self) -> usize {
        self.asked.len()
    }

    /// Whether time alone gives this worker something to do.
    pub(super) fn is_churning(&self) -> bool {
        self.churn.is_some()
    }
}

impl Worker {
    /// Lets clients talk, or fall silent.
    pub(super) fn set_chat(&mut self, chat: Option<Chat>) {
        self.talk.chat = chat;
        let Some(chat) = chat else { return };
        for local in 0..u32::try_from(self.clients.len()).unwrap_or(u32::MAX) {
            let client = &self.clients[local as usize];
            if client.stage == Stage::Ready && client.manner == Manner::Prompt {
                let first = self.random.f64() * chat.think_ms;
                self.wheel.insert(
                    self.now_ms.saturating_add(first as u32),
                    Due::Say(local, self.now_ms + first as u32),
                );
            }
        }
    }

    /// A client has thought, until `due_ms`.
    pub(super) fn say(&mut self, local: u32, due_ms: u32) {
        let Some(chat) = self.talk.chat else { return };
        let think = -(1.0 - self.random.f64()).ln() * chat.think_ms;
        let next_ms = due_ms.saturating_add(think as u32);
        self.wheel.insert(next_ms, Due::Say(local, next_ms));
        if self.clients[local as usize].stage == Stage::Ready
            && let Err(reason) = self.say_now(local, due_ms, chat.size)
        {
            self.end(local, reason);
        }
    }

    fn say_now(&mut self, local: u32, due_ms: u32, size: usize) -> Result<(), Reason> {
        let number = self.number(local);
        let (channel, lane) = self.plan.channels.seat(number);
        let Some(sequence) = self.books.next_sequence(channel, lane) else { return Ok(()) };
        let now_ns = self.clock.nanos();
        let late = self.now_ms.saturating_sub(due_ms) > LATE_MS;
        let intended_ns = if late { u64::from(due_ms) * 1_000_000 } else { now_ns };
        let mut data = Vec::with_capacity(size.max(64));
        let run = self.books.run();
        Marker { run, channel, lane, sequence, intended_ns }.write_json(size, &mut data);
        let name = self.plan.channels.name(channel);
        self.command(local, Command::Publish { channel: &name, data: &data }, What::Said)
    }

    /// Lets clients leave and join, or stay.
    pub(super) fn set_churn(&mut self, churn: Option<Churn>) {
        let since_ns = self.clock.nanos();
        self.talk.churn = churn.map(|churn| ChurnState { rate: churn.rate, since_ns, done: 0 });
    }

    /// Does the joins and leaves that are due.
    pub(super) fn churn_on(&mut self) {
        let now_ns = self.clock.nanos();
        let Some(churn) = &mut self.talk.churn else { return };
        let due = (churn.rate * now_ns.saturating_sub(churn.since_ns) as f64 / 1e9) as u64;
        let count = due.saturating_sub(churn.done);
        churn.done = due;
        for _ in 0..count {
            let Some(local) = self.someone() else { return };
            if let Err(reason) = self.come_or_go(local) {
                self.end(local, reason);
            }
        }
    }

    /// A ready client with nothing under way.
    fn someone(&mut self) -> Option<u32> {
        let clients = u32::try_from(self.clients.len()).ok().filter(|count| *count > 0)?;
        let tries = (0..16).map(|_| self.random.u32(..clients)).collect::<Vec<_>>();
        tries.into_iter().find(|local| {
            let client = &self.clients[*local as usize];
            client.stage == Stage::Ready && client.awaiting == 0
        })
    }

    fn come_or_go(&mut self, local: u32) -> Result<(), Reason> {
        let (channel, _) = self.plan.channels.seat(self.number(local));
        let name = self.plan.channels.name(channel);
        // Until the answer is here this client is left alone.
        self.clients[local as usize].awaiting = 1;
        if self.talk.absent.remove(&local) {
            return self.command(local, Command::Subscribe { channel: &name }, What::Joins(channel));
        }
        self.talk.absent.insert(local);
        self.books.leave(channel);
        self.command(local, Command::Unsubscribe { channel: &name }, What::Leaves)
    }

    /// Asks for the presence of channels that this worker has clients in, up to a bound.
    pub(super) fn ask_presence(&mut self) {
        let mut channels = HashSet::new();
        for local in 0..u32::try_from(self.clients.len()).unwrap_or(u32::MAX) {
            let (channel, _) = self.plan.channels.seat(self.number(local));
            let ready =
                self.clients[local as usize].stage == Stage::Ready && !self.talk.absent.contains(&local);
            if channels.len() >= ASKED_CHANNELS as usize || !ready || !channels.insert(channel) {
                continue;
            }
            let name = self.plan.channels.name(channel);
            if let Err(reason) =
                self.command(local, Command::PresenceStats { channel: &name }, What::Counts(channel))
            {
                self.end(local, reason);
            }
        }
    }

    /// Lets everybody join again who has left.
    pub(super) fn all_rejoin(&mut self) {
        for local in std::mem::take(&mut self.talk.absent) {
            let (channel, _) = self.plan.channels.seat(self.number(local));
            let name = self.plan.channels.name(channel);
            if self.clients[local as usize].stage == Stage::Ready
                && let Err(reason) =
                    self.command(local, Command::Subscribe { channel: &name }, What::Joins(channel))
            {
                self.end(local, reason);
            }
        }
    }

    fn command(&mut self, local: u32, command: Command<'_>, what: What) -> Result<(), Reason> {
        self.talk.next_id = self.talk.next_id.wrapping_add(1).max(FIRST_ID);
        let id = self.talk.next_id;
        let mut frame = std::mem::take(&mut self.scratch);
        frame.clear();
        self.dialect.write_command(id, command, self.random.u32(..).to_ne_bytes(), &mut frame);
        self.counters.commands.add(1);
        self.talk.asked.insert((local, id), Asked { sent_ns: self.clock.nanos(), what });
        let outcome = self.send(local, &frame);
        self.scratch = frame;
        outcome
    }

    /// An answer to a command after the opening.
    pub(super) fn answered(&mut self, local: u32, reply: &Reply) {
        self.counters.replies.add(1);
        let failed = matches!(reply.body, ReplyBody::Error(_));
        self.counters.errors.add(u64::from(failed));
        let Some(asked) = self.talk.asked.remove(&(local, reply.id)) else { return };
        proof::record(&mut self.talk.took, self.clock.nanos().saturating_sub(asked.sent_ns) / 1000);
        match asked.what {
            What::Said => {}
            What::Joins(channel) => {
                self.clients[local as usize].awaiting = 0;
                if failed {
                    self.talk.absent.insert(local);
                } else {
                    self.books.join(channel);
                }
            }
            What::Leaves => self.clients[local as usize].awaiting = 0,
            What::Counts(channel) => self.check_presence(channel, &reply.body),
        }
    }

    fn check_presence(&mut self, channel: u32, body: &ReplyBody) {
        let expected = self.books.members(channel);
        match body {
            ReplyBody::PresenceStats(clients, _) if *clients == expected => self.talk.presence.0 += 1,
            _ => self.talk.presence.1 += 1,
        }
    }
}
