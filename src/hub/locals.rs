//! What a shard knows of users and channels of its own connections.
//!
//! A user with one connection and a channel with one subscriber, the two cases that a million quiet sockets consist
//! of, are one record in a byte arena each; only a channel with a second subscriber gets a [`Channel`].
//!
//! | record | layout |
//! |---|---|
//! | user | slot of the connection (u32, `NONE` for several), what it last did (u32), name |
//! | channel | slot of the subscriber (u32), number of subscribers (0 or 1), name |
//!
//! Handles of channels: the top bit tells a [`Channel`] (index in a slab) from an arena record.

use std::collections::HashMap;

use slab::Slab;

use crate::base::arena::{Arena, Handle};
use crate::base::hash::NameHash;
use crate::base::table::Table;
use crate::hub::activity::Activity;
use crate::hub::channel::{Channel, Subscriber, UnderWay};
use crate::hub::connection::NONE;
use crate::hub::sessions::Sessions;

/// Top bit of a channel handle.
const MANY: u32 = 1 << 31;

/// Bytes before the name in both records.
const USER_HEAD: usize = 8;
const CHANNEL_HEAD: usize = 4;

/// Users and channels of one shard's connections.
#[derive(Debug)]
pub(crate) struct Locals {
    hasher: NameHash,
    arena: Arena,
    users: Table,
    channels: Table,
    many: Slab<Box<Channel>>,
    /// Bytes of frames under way in `many`, those included that wait for their delay.
    pub(crate) under_way: UnderWay,
    /// All connections of users with more than one here.
    sessions: HashMap<u32, Sessions>,
    /// What those lists hold.
    session_bytes: usize,
}

/// A channel as its handle tells.
pub(crate) enum ChannelRef {
    /// At most one subscriber: the slot of it.
    One(u32),
    /// Index for [`Locals::many`].
    Many(u32),
}

impl Locals {
    pub(crate) fn new(hasher: NameHash) -> Self {
        Self {
            hasher,
            arena: Arena::new(),
            users: Table::new(),
            channels: Table::new(),
            many: Slab::new(),
            under_way: UnderWay::default(),
            sessions: HashMap::new(),
            session_bytes: 0,
        }
    }

    /// Keyed hash of a channel's name; equal on all shards.
    pub(crate) fn hash(&self, name: &str) -> u64 {
        self.hasher.of(name.as_bytes())
    }

    /// Adds a connection of `user`, active as told; returns the user's handle.
    pub(crate) fn add_session(&mut self, user: &str, slot: u32, activity: Activity) -> u32 {
        let hash = self.hasher.of(user.as_bytes());
        if let Some(handle) = self.find_user(hash, user) {
            let only = self.user_head(handle);
            let sessions = self.sessions.entry(handle).or_default();
            let held = sessions.memory_bytes();
            if only.0 != NONE {
                sessions.add(only.0, only.1);
            }
            sessions.add(slot, activity);
            self.session_bytes += sessions.memory_bytes() - held;
            if only.0 != NONE {
                self.set_user_head(handle, NONE, Activity(0));
            }
            return handle;
        }
        let mut record = Vec::with_capacity(USER_HEAD + user.len());
        record.extend_from_slice(&slot.to_le_bytes());
        record.extend_from_slice(&activity.0.to_le_bytes());
        record.extend_from_slice(user.as_bytes());
        let handle = self.arena.alloc(&record).map_or(0, |handle| handle.0);
        let (arena, hasher) = (&self.arena, &self.hasher);
        self.users.insert(hash, handle, |handle| hasher.of(name_of(arena, handle, USER_HEAD)));
        handle
    }

    /// Removes a connection of a user.
    pub(crate) fn remove_session(&mut self, handle: u32, slot: u32) {
        if let Some(sessions) = self.sessions.get_mut(&handle) {
            let held = sessions.memory_bytes();
            sessions.remove(slot);
            self.session_bytes = self.session_bytes + sessions.memory_bytes() - held;
            if let Some((only, activity)) = sessions.only() {
                self.session_bytes -= sessions.memory_bytes();
                self.sessions.remove(&handle);
                if self.sessions.is_empty() {
                    self.sessions = HashMap::new();
                }
                self.set_user_head(handle, only, activity);
            }
            return;
        }
        let (arena, hasher) = (&self.arena, &self.hasher);
        let hash = hasher.of(name_of(arena, handle, USER_HEAD));
        self.users.remove(hash, |other| other == handle, |other| hasher.of(name_of(arena, other, USER_HEAD)));
        self.arena.free(Handle(handle));
    }

    /// What a connection of a user last did.
    pub(crate) fn activity(&self, handle: u32, slot: u32) -> Activity {
        let (only, activity) = self.user_head(handle);
        if only != NONE {
            return activity;
        }
        self.sessions.get(&handle).and_then(|sessions| sessions.activity(slot)).unwrap_or(activity)
    }

    /// Notes what a connection of a user last did.
    pub(crate) fn set_activity(&mut self, handle: u32, slot: u32, activity: Activity) {
        if self.user_head(handle).0 != NONE {
            return self.set_user_head(handle, slot, activity);
        }
        if let Some(sessions) = self.sessions.get_mut(&handle) {
            sessions.set_activity(slot, activity);
        }
    }

    /// Name of a user.
    pub(crate) fn user_name(&self, handle: u32) -> &str {
        text(name_of(&self.arena, handle, USER_HEAD))
    }

    /// Slots of all connections of a user on this shard.
    pub(crate) fn sessions_of(&self, user: &str) -> Vec<u32> {
        let Some(handle) = self.find_user(self.hasher.of(user.as_bytes()), user) else { return Vec::new() };
        match self.sessions.get(&handle) {
            Some(sessions) => sessions.slots().collect(),
            None => vec![self.user_head(handle).0],
        }
    }

    /// Handle of a channel.
    pub(crate) fn find_channel(&self, hash: u64, name: &str) -> Option<u32> {
        self.channels.find(hash, |handle| self.name_bytes(handle) == name.as_bytes())
    }

    /// Name of a channel.
    pub(crate) fn channel_name(&self, handle: u32) -> &str {
        text(self.name_bytes(handle))
    }

    /// What a channel handle stands for.
    pub(crate) fn channel(&self, handle: u32) -> ChannelRef {
        if handle & MANY != 0 {
            return ChannelRef::Many(handle & !MANY);
        }
        let record = self.arena.get(Handle(handle));
        ChannelRef::One(u32_at(record, 0))
    }

    /// A channel with several subscribers.
    pub(crate) fn many(&mut self, index: u32) -> Option<&mut Channel> {
        self.many.get_mut(index as usize).map(|channel| &mut **channel)
    }

    /// Subscribers of such a channel, those who left included.
    pub(crate) fn subscribers_of(&self, index: u32) -> &[Subscriber] {
        self.many.get(index as usize).map_or(&[], |channel| &channel.subscribers)
    }

    /// Notes a subscription of `slot`; returns the channel's handle and, if the channel had one subscriber until
    /// now, that subscriber's slot and its former handle: the caller then writes the new handle into that connection.
    pub(crate) fn join(&mut self, hash: u64, name: &str, slot: u32) -> (u32, Option<(u32, u32)>) {
        let Some(handle) = self.find_channel(hash, name) else {
            let mut record = Vec::with_capacity(CHANNEL_HEAD + name.len());
            record.extend_from_slice(&slot.to_le_bytes());
            record.extend_from_slice(name.as_bytes());
            let handle = self.arena.alloc(&record).map_or(0, |handle| handle.0);
            self.insert_channel(hash, handle);
            return (handle, None);
        };
        if let ChannelRef::Many(index) = self.channel(handle) {
            if let Some(channel) = self.many(index) {
                channel.references += 1;
            }
            return (handle, None);
        }
        let first = u32_at(self.arena.get(Handle(handle)), 0);
        let channel = Channel::new(name, hash, 2, self.under_way.clone());
        self.remove_channel(hash, handle);
        self.arena.free(Handle(handle));
        let many = self.many.insert(Box::new(channel)) as u32 | MANY;
        self.insert_channel(hash, many);
        (many, Some((first, handle)))
    }

    /// Takes a subscription back. The channel goes with its last one.
    pub(crate) fn leave(&mut self, handle: u32) {
        if let ChannelRef::Many(index) = self.channel(handle) {
            let Some(channel) = self.many(index) else { return };
            channel.references -= 1;
            if channel.references > 0 {
                return;
            }
            let hash = channel.hash;
            self.remove_channel(hash, handle);
            self.many.remove(index as usize);
            if self.many.is_empty() {
                self.many = Slab::new();
            }
            return;
        }
        let hash = self.hasher.of(name_of(&self.arena, handle, CHANNEL_HEAD));
        self.remove_channel(hash, handle);
        self.arena.free(Handle(handle));
    }

    /// The names greater than `after` that `matches`, at most `limit` of the smallest, with subscribers. O(channels).
    pub(crate) fn list(
        &self,
        limit: usize,
        after: &str,
        matches: impl Fn(&str) -> bool,
    ) -> Vec<(String, u32)> {
        let mut smallest = std::collections::BTreeMap::new();
        for handle in self.channels.handles() {
            let name = self.channel_name(handle);
            let full = smallest.len() >= limit;
            let beyond = full
                && smallest.last_key_value().is_some_and(|(last, _): (&String, &u32)| name > last.as_str());
            if name <= after || beyond || !matches(name) {
                continue;
            }
            smallest.insert(name.to_owned(), self.subscribers(handle));
            if full {
                smallest.pop_last();
            }
        }
        smallest.into_iter().collect()
    }

    /// Users with connections here.
    pub(crate) fn users_len(&self) -> usize {
        self.users.len()
    }

    /// Channels with subscribers here.
    pub(crate) fn channels_len(&self) -> usize {
        self.channels.len()
    }

    /// Records that stand for users and channels, and lists of sessions.
    pub(crate) fn records(&self) -> usize {
        self.arena.len() + self.many.len() + self.sessions.len()
    }

    /// Bytes of memory: users and channels, with their names; those apart that [`Self::survey`] looks at.
    pub(crate) fn memory_bytes(&self) -> usize {
        let sessions = self.sessions.len() * 90 + self.session_bytes;
        self.arena.memory_bytes() + self.users.memory_bytes() + self.channels.memory_bytes() + sessions
    }

    /// Adds what the channel with several subscribers at `at` holds. False beyond the last one.
    pub(crate) fn survey(&self, at: usize, held: &mut usize) -> bool {
        *held += self.many.get(at).map_or(0, |channel| channel.memory_bytes() + 16);
        at < self.many.capacity()
    }

    fn subscribers(&self, handle: u32) -> u32 {
        if handle & MANY == 0 {
            return 1;
        }
        self.many.get((handle & !MANY) as usize).map_or(0, |channel| channel.references)
    }

    fn name_bytes(&self, handle: u32) -> &[u8] {
        if handle & MANY == 0 {
            return name_of(&self.arena, handle, CHANNEL_HEAD);
        }
        self.many.get((handle & !MANY) as usize).map_or(&[], |channel| channel.name.as_bytes())
    }

    fn find_user(&self, hash: u64, user: &str) -> Option<u32> {
        self.users.find(hash, |handle| name_of(&self.arena, handle, USER_HEAD) == user.as_bytes())
    }

    fn user_head(&self, handle: u32) -> (u32, Activity) {
        let record = self.arena.get(Handle(handle));
        (u32_at(record, 0), Activity(u32_at(record, 4)))
    }

    fn set_user_head(&mut self, handle: u32, only: u32, activity: Activity) {
        let record = self.arena.get_mut(Handle(handle));
        record[..4].copy_from_slice(&only.to_le_bytes());
        record[4..8].copy_from_slice(&activity.0.to_le_bytes());
    }

    fn insert_channel(&mut self, hash: u64, handle: u32) {
        let (arena, many, hasher) = (&self.arena, &self.many, &self.hasher);
        self.channels.insert(hash, handle, |handle| channel_hash(arena, many, hasher, handle));
    }

    fn remove_channel(&mut self, hash: u64, handle: u32) {
        let (arena, many, hasher) = (&self.arena, &self.many, &self.hasher);
        self.channels.remove(hash, |other| other == handle, |other| channel_hash(arena, many, hasher, other));
    }
}

fn channel_hash(arena: &Arena, many: &Slab<Box<Channel>>, hasher: &NameHash, handle: u32) -> u64 {
    if handle & MANY == 0 {
        return hasher.of(name_of(arena, handle, CHANNEL_HEAD));
    }
    many.get((handle & !MANY) as usize).map_or(0, |channel| channel.hash)
}

fn name_of(arena: &Arena, handle: u32, head: usize) -> &[u8] {
    arena.get(Handle(handle)).get(head..).unwrap_or_default()
}

fn u32_at(record: &[u8], at: usize) -> u32 {
    record.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(u32::MAX, u32::from_le_bytes)
}

/// Handle of a channel with several subscribers.
pub(crate) fn many_handle(index: u32) -> u32 {
    index | MANY
}

/// Names entered the arena as `str`.
fn text(bytes: &[u8]) -> &str {
    simdutf8::basic::from_utf8(bytes).unwrap_or_default()
}
