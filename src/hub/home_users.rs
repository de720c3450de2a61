//! The home side of users: how many connections each has, and on which shards.

use std::cmp::Reverse;

use smallvec::SmallVec;

use crate::base::ids::{ConnKey, ShardId};
use crate::base::tick::{Now, Tick};
use crate::hub::activity::Activity;
use crate::hub::api::UserState;
use crate::hub::home::Homes;
use crate::hub::home_shards::{add, remove};
use crate::hub::mail::{CloseOthers, Inherit, Leave, Mail, Origin, ReplyBody, Ticket, UserAsk, UserOp};
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
    /// What few records need.
    pub(crate) rare: Option<Box<Rare>>,
}

/// See [`HomeUser::rare`].
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// Live sessions that have the place of a lost one and have not taken over yet what it was: until they say what
    /// they are themselves, they are as it was.
    heirs: Vec<(ConnKey, Activity)>,
    /// For events about a user who has lost sessions only; `None` where nobody wants any.
    pub(crate) name: Option<Box<str>>,
}

/// A session lost without goodbye.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    /// Its last sign of life.
    pub(crate) sign: Tick,
    /// When it counts no more, in time in which this shard did not stand still.
    pub(crate) deadline: Tick,
    /// What its user last did.
    pub(crate) activity: Activity,
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

    /// Live sessions that make the user online.
    pub(crate) fn active_sessions(&self) -> u32 {
        let quiet_heirs = self.heirs().iter().filter(|(_, activity)| activity.is_quiet()).count() as u32;
        self.sessions().saturating_sub(self.quiet + quiet_heirs)
    }

    /// A session was lost.
    fn lose(&mut self, lost: Lost) {
        self.lost.push(lost);
        if self.lost.len() > LOST_MAX {
            let earliest = self.lost.iter().enumerate().min_by_key(|(_, lost)| lost.deadline);
            if let Some((place, _)) = earliest {
                self.lost.remove(place);
            }
        }
    }

    /// The lost session that comes back: nobody knows which, so the most present one.
    fn returns(&mut self, now: Tick) -> Option<Activity> {
        let presence = |lost: &Lost| {
            let activity = lost.activity;
            (!activity.is_set_away(), !activity.is_idle(), Reverse(activity.age(now)), Reverse(lost.deadline))
        };
        let (place, _) = self.lost.iter().enumerate().max_by_key(|(_, lost)| presence(lost))?;
        let activity = self.lost.remove(place).activity;
        if !activity.is_set_away() {
            for left in &mut self.lost {
                left.activity = left.activity.doubtful();
            }
        }
        Some(activity)
    }

    /// Live sessions that have the place of a lost one and have not taken over yet what it was.
    pub(crate) fn heirs(&self) -> &[(ConnKey, Activity)] {
        self.rare.as_ref().map(|rare| rare.heirs.as_slice()).unwrap_or_default()
    }

    fn is_heir(&self, key: ConnKey) -> bool {
        self.heirs().iter().any(|(heir, _)| *heir == key)
    }

    /// Ends the time in which a session is what the lost one was.
    fn take_heir(&mut self, key: ConnKey) -> Option<Activity> {
        let rare = self.rare.as_mut()?;
        let place = rare.heirs.iter().position(|(heir, _)| *heir == key)?;
        let (_, activity) = rare.heirs.swap_remove(place);
        if rare.heirs.is_empty() && rare.name.is_none() {
            self.rare = None;
        }
        Some(activity)
    }
}

impl Homes {
    /// A user's connection enters, leaves, or changes.
    pub(crate) fn user(&mut self, ask: UserAsk, now: Now, post: &mut Post) {
        let hash = ask.hash;
        let before = self.state_for_events(hash);
        match ask.op {
            UserOp::Enter { ticket, alone } => self.user_enters(hash, ask.key, (ticket, alone), now, post),
            UserOp::Leave(leave) => self.user_leaves(hash, ask.key, leave, now),
            UserOp::Quiet(quiet) => self.user_quiet(hash, ask.key, quiet),
            UserOp::Continued(quiet) => self.user_continued(hash, ask.key, quiet),
        }
        self.note_user(hash, before, ask.name, now, post);
        self.settle_user(hash, now, post);
    }

    fn user_enters(
        &mut self,
        hash: u64,
        key: ConnKey,
        (ticket, alone): (Option<u32>, Option<Box<str>>),
        now: Now,
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
            if (limit == 0 || count < limit)
                && let Some(activity) = user.returns(now.tick)
            {
                user.rare.get_or_insert_default().heirs.push((key, activity));
                post.send(key.shard, Mail::Inherit(Box::new(Inherit { key, activity })));
            }
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

    fn user_leaves(&mut self, hash: u64, key: ConnKey, leave: Leave, now: Now) {
        let deadline = leave.lost.and_then(|sign| self.presence.deadline(sign, leave.is_unsaid));
        let lost = leave.lost.zip(deadline);
        match self.users.get(hash) {
            Registered::Nothing => return,
            Registered::Single(..) if lost.is_none() => {
                self.users.remove(hash);
                return self.presence.seen(hash, now.tick);
            }
            Registered::Single(..) | Registered::Record(_) => {}
        }
        let user = self.users.record(hash, HomeUser::of_single);
        remove(&mut user.shards, key.shard);
        let mut activity = leave.activity;
        if let Some(inherited) = user.take_heir(key) {
            activity = activity.continuing(inherited);
        } else {
            user.quiet = user.quiet.saturating_sub(u32::from(activity.is_quiet()));
        }
        if let Some((sign, deadline)) = lost {
            user.lose(Lost { sign, deadline, activity });
            self.presence.look_at(deadline, hash);
            self.presence.look_at_idle(activity, deadline, hash, now.tick);
        } else {
            // Also where others are left: they may turn out to have been silent for longer.
            self.presence.seen(hash, now.tick);
        }
    }

    fn user_quiet(&mut self, hash: u64, key: ConnKey, quiet: bool) {
        match self.users.get(hash) {
            Registered::Nothing => {}
            // It says what it is once it has heard what it was.
            Registered::Record(user) if user.is_heir(key) => {}
            Registered::Single(..) => self.users.set_mark(hash, if quiet { QUIET } else { 0 }),
            Registered::Record(user) if quiet => user.quiet += 1,
            Registered::Record(user) => user.quiet = user.quiet.saturating_sub(1),
        }
    }

    fn user_continued(&mut self, hash: u64, key: ConnKey, quiet: bool) {
        if let Registered::Record(user) = self.users.get(hash)
            && user.take_heir(key).is_some()
        {
            user.quiet += u32::from(quiet);
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
