//! The figures of a shard, gathered once a second.

use crate::hub::connection::Connection;
use crate::hub::metrics::{MemoryCategory, ShardMetrics};
use crate::hub::shard::Shard;

impl Shard {
    /// Counters and gauges as they are now. The shell adds what only it knows: letters in the inbox, and bytes of its
    /// buffers and of this shard's share of the queues. What records hold is what the last survey of them found.
    #[must_use]
    pub fn figures(&mut self, inbox: usize, buffer_bytes: usize, mesh_bytes: usize) -> ShardMetrics {
        let mut figures = self.metrics.clone();
        figures.connections = self.connections.0.len() as u64;
        figures.users = self.homes.users() as u64;
        figures.channels = self.homes.occupied() as u64;
        figures.mail_queue = inbox as u64;
        figures.publications = self.homes.publications;
        (figures.mail_out, figures.mail_full) = (self.post.sent, self.post.refused);
        figures.recovered = self.homes.recovered;
        figures.not_recovered = self.homes.not_recovered;
        let found = self.surveyed();
        let out_queues = found.waiting;
        figures.records_surveyed = self.metrics.records_surveyed;
        figures.out_queue_bytes = out_queues as u64;
        let (home_channels, home_users, history) = self.homes.memory_bytes();
        let (locals, presence) = (self.locals.memory_bytes(), self.homes.presence.memory_bytes());
        let (post, lists) = (self.post.memory_bytes(), self.lists_bytes());
        let mut set =
            |category: MemoryCategory, bytes: usize| figures.memory[category as usize] = bytes as u64;
        set(MemoryCategory::Connections, self.connections.1 * size_of::<Connection>());
        set(MemoryCategory::ConnectionsCold, found.cold + self.cold.own_bytes());
        set(MemoryCategory::OutQueues, out_queues + self.scratch.capacity());
        set(MemoryCategory::Users, home_users);
        set(MemoryCategory::Presence, presence);
        set(MemoryCategory::Channels, home_channels + found.homes);
        set(MemoryCategory::Subscriptions, locals + found.locals);
        set(MemoryCategory::History, history + found.history);
        set(MemoryCategory::Timers, self.wheel.memory_bytes());
        set(MemoryCategory::Mail, mesh_bytes + post);
        set(MemoryCategory::Buffers, buffer_bytes + lists);
        figures
    }
}

impl Shard {
    /// What the shard still holds for anybody, by name, with how many: empty once every connection is gone and all
    /// mail has been handled. History that waits for its expiry does not count. For tests of leaks.
    #[must_use]
    pub fn leftovers(&self) -> Vec<(&'static str, usize)> {
        let counts = [
            ("connections", self.connections.0.len()),
            ("cold parts", self.cold.len()),
            ("timers", self.wheel.len()),
            ("local users", self.locals.users_len()),
            ("local channels", self.locals.channels_len()),
            ("local records", self.locals.records()),
            ("users", self.homes.users()),
            ("occupied channels", self.homes.occupied()),
            ("gatherings", self.homes.gathers()),
            ("deferred publications", self.deferred.len()),
            ("letters", self.post.len()),
            ("dirty connections", self.dirty.len()),
            ("overdue connections", self.overdue.len() + self.examined.len()),
            ("gathered output", self.gathering.len()),
            ("doomed connections", self.doomed.len()),
            ("connections to hand over", self.handed.len()),
            ("clients counted", self.metrics.clients as usize),
            ("subscriptions counted", self.metrics.subscriptions as usize),
            ("unauthenticated counted", self.metrics.unauthenticated as usize),
        ];
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}
