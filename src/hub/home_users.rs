//! The home side of users: how many connections each has, and on which shards.

use smallvec::SmallVec;

use crate::base::ids::{ConnKey, ShardId};
use crate::base::tick::{Now, Tick};
use crate::hub::api::UserState;
use crate::hub::home::Homes;
use crate::hub::home_shards::{add, remove};
use crate::hub::mail::{CloseOthers, Leave, Mail, Origin, ReplyBody, Ticket, UserAsk, UserOp};
use crate::hub::post::Post;
use crate::hub::registry::Registered;

/// Mark of a user's only session: it is quiet.
pub(crate) const QUIET: u16 = 1;

/// Lost sessions of a user that are kept at most; of more, those that expire last.
const LOST_MAX: usize = 8;

/// A user with more or less than one connection, or one that somebody watches.
#[derive(Debug, Default)]
pub(crate) struct HomeUser {
    /// Live sessions by shard.
    pub(crate) shards: SmallVec<[(ShardId, u32); 2]>,
    /// Live sessions that are quiet.
    pub(crate) quiet: u32,
    /// Sessions lost without goodbye that may still come back.
    pub(crate) lost: SmallVec<[Lost; 1]>,
    /// Hash of the channel that tells of the user, while it has subscribers.
    pub(crate) watched: Option<u64>,
    /// What its subscribers know.
    pub(crate) published: UserState,
    /// When they were told.
    pub(crate) published_at: Option<Tick>,
    /// A deadline is set at which a change that came too soon is published.
    pub(crate) deferred: bool,
    /// Counts as a user without sessions.
    pub(crate) absent: bool,
    /// For events about a user who has lost sessions only; `None` where nobody wants any.
    pub(crate) name: Option<Box<str>>,
}

/// A session lost without goodbye.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    /// When it counts no more.
    pub(crate) deadline: Tick,
    /// It was quiet.
    pub(crate) quiet: bool,
}

const _: () = assert!(size_of::<HomeUser>() <= 104, "docs/PRESENCE.md tells about 100 bytes");

impl HomeUser {
    pub(crate) fn of_single(single: Option<(ShardId, u16)>) -> Self {
        let quiet = single.is_some_and(|(_, mark)| mark & QUIET != 0);
        let shards = single.into_iter().map(|(shard, _)| (shard, 1)).collect();
        Self { shards, quiet: u32::from(quiet), ..Self::default() }
    }

    /// Live sessions.
    pub(crate) fn sessions(&self) -> u32 {
        self.shards.iter().map(|(_, count)| *count).sum()
    }

    /// A session was lost.
    fn lose(&mut self, lost: Lost) {
        self.lost.push(lost);
        if self.lost.len() > LOST_MAX {
            self.forget_earliest();
        }
    }

    /// The lost session that would have expired first came back, or is forgotten.
    fn forget_earliest(&mut self) {
        let earliest = self.lost.iter().enumerate().min_by_key(|(_, lost)| lost.deadline);
        if let Some((place, _)) = earliest {
            self.lost.remove(place);
        }
    }
}

impl Homes {
    /// A user's connection enters, leaves, or changes.
    pub(crate) fn user(&mut self, ask: UserAsk, now: Now, post: &mut Post) {
        let hash = ask.hash;
        let before = self.state_for_events(hash);
        match ask.op {
            UserOp::Enter { ticket, alone } => self.user_enters(hash, ask.key, ticket, alone, post),
            UserOp::Leave(leave) => self.user_leaves(hash, ask.key.shard, leave, now),
            UserOp::Quiet(quiet) => self.user_quiet(hash, quiet),
        }
        self.note_user(hash, before, ask.name, now, post);
        self.settle_user(hash, now, post);
    }

    fn user_enters(
        &mut self,
        hash: u64,
        key: ConnKey,
        ticket: Option<u32>,
        alone: Option<Box<str>>,
        post: &mut Post,
    ) {
        let limit = self.common.settings.client.user_connection_limit;
        // A refused connection still counts until it leaves: every enter has its leave.
        let count = if let Registered::Nothing = self.users.get(hash) {
            self.users.insert_single(hash, key.shard, 0);
            0
        } else {
            let user = self.users.record(hash, HomeUser::of_single);
            let count = user.sessions();
            add(&mut user.shards, key.shard);
            user.forget_earliest();
            count
        };
        if let Some(name) = alone {
            self.close_others(hash, &name, key, post);
        }
        if let Some(number) = ticket {
            let admitted = limit == 0 || count < limit;
            let ticket = Ticket { key, number };
            self.reply(Origin::Connection(ticket), "".into(), ReplyBody::Admitted(admitted), post);
        }
    }

    fn user_leaves(&mut self, hash: u64, shard: ShardId, leave: Leave, now: Now) {
        let lost = leave.lost.and_then(|sign| self.presence.deadline(sign));
        match self.users.get(hash) {
            Registered::Nothing => return,
            Registered::Single(..) if lost.is_none() => {
                self.users.remove(hash);
                return self.presence.seen(hash, now.tick);
            }
            Registered::Single(..) | Registered::Record(_) => {}
        }
        let user = self.users.record(hash, HomeUser::of_single);
        remove(&mut user.shards, shard);
        user.quiet = user.quiet.saturating_sub(u32::from(leave.quiet));
        if let Some(deadline) = lost {
            user.lose(Lost { deadline, quiet: leave.quiet });
            self.presence.look_at(deadline, hash);
        } else {
            // Also where others are left: they may turn out to have been silent for longer.
            self.presence.seen(hash, now.tick);
        }
    }

    fn user_quiet(&mut self, hash: u64, quiet: bool) {
        match self.users.get(hash) {
            Registered::Nothing => {}
            Registered::Single(..) => self.users.set_mark(hash, if quiet { QUIET } else { 0 }),
            Registered::Record(user) if quiet => user.quiet += 1,
            Registered::Record(user) => user.quiet = user.quiet.saturating_sub(1),
        }
    }

    fn close_others(&mut self, hash: u64, name: &str, keep: ConnKey, post: &mut Post) {
        if let Registered::Record(user) = self.users.get(hash) {
            for (shard, _) in &user.shards {
                post.send(*shard, Mail::CloseOthers(Box::new(CloseOthers { user: name.into(), keep })));
            }
        }
    }
}
