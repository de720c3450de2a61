//! Joins and leaves at the home of a channel: how many are pushed, and members who were lost and may come back.
//!
//! * `join_leave_max_rate`: beyond so many joins and leaves a second, subscribers are told the counts of the channel
//!   once a second instead, the last time after the rush is over. Where a channel is so large that the pace of
//!   announcements (`hub::sweep`) takes longer than a second to reach everybody, that is its second: so each subscriber
//!   is told of one with one write, and what waits for it is bounded.
//! * `presence_grace`: a member lost without goodbye stays in presence and counts, and its leave waits. Where the user
//!   returns in time, the join of the new session comes before the leave of the lost one, so nobody sees a gap.
//!
//! All ticks here are counted without those in which this shard stood still: nobody could return in them.
//!
//! A channel costs something here only within a second of a join or leave (with a rate), or while a member is lost.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use crate::base::tick::{Now, Tick};
use crate::hub::api::Member;
use crate::hub::home::{HomeChannel, Homes, Keyed, Place, encodings_of, mark};
use crate::hub::home_shards::spread;
use crate::hub::mail::{Delivery, KeptMember, Mail, Terms};
use crate::hub::post::Post;
use crate::hub::publication::{deliver_membership, deliver_message};
use crate::hub::registry::Registered;
use crate::hub::settings::SlowConsumer;
use crate::hub::shard::ticks_of;
use crate::hub::sweep::Pace;
use crate::limits;

/// Ticks of a second.
const SECOND_TICKS: u32 = 10;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Announcements {
    rates: HashMap<u64, Rate, BuildHasherDefault<Keyed>>,
    kept: HashMap<u64, Vec<Kept>, BuildHasherDefault<Keyed>>,
    /// When which channel is to be looked at.
    deadlines: BinaryHeap<Reverse<(Tick, u64)>>,
    /// Number of the member that was lost last.
    latest: u64,
}

/// Announcements of one channel in one second.
#[derive(Debug)]
struct Rate {
    until: Tick,
    count: u32,
    /// Some were suppressed: the counts are told at the end of the second.
    owed: bool,
}

/// A member who was lost.
#[derive(Debug)]
struct Kept {
    /// Goes up from one to the next, also across channels: the order in pages.
    number: u64,
    member: KeptMember,
    deadline: Tick,
    /// The user has subscribed again; only the leave is still to be pushed.
    returned: bool,
}

impl Announcements {
    /// When the next channel is to be looked at.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        self.deadlines.peek().map(|Reverse((tick, _))| *tick)
    }

    /// Lost members of a channel who still count, and how many users they are beside those that `is_there`.
    pub(crate) fn kept_counts(&self, hash: u64, is_there: impl Fn(u64) -> bool) -> (u32, u32) {
        let kept = self.kept.get(&hash).map(Vec::as_slice).unwrap_or_default();
        let counted = kept.iter().filter(|kept| !kept.returned);
        let users: HashSet<u64> =
            counted.clone().map(|kept| kept.member.user_hash).filter(|user| !is_there(*user)).collect();
        (counted.count() as u32, users.len() as u32)
    }

    /// The lost members of a channel who still count.
    pub(crate) fn kept_members(&self, hash: u64) -> impl Iterator<Item = Member> {
        let kept = self.kept.get(&hash).map(Vec::as_slice).unwrap_or_default();
        kept.iter().filter(|kept| !kept.returned).map(|kept| kept.member.member.clone())
    }

    /// Those of them after a number, with theirs.
    pub(crate) fn kept_after(&self, hash: u64, after: u64) -> impl Iterator<Item = (u64, Member)> {
        let kept = self.kept.get(&hash).map(Vec::as_slice).unwrap_or_default();
        let later = kept.iter().filter(move |kept| !kept.returned && kept.number > after);
        later.map(|kept| (kept.number, kept.member.member.clone()))
    }

    /// A user subscribed: it takes the place of a lost session of the same user.
    pub(crate) fn returns(&mut self, hash: u64, user_hash: u64) {
        let Some(kept) = self.kept.get_mut(&hash) else { return };
        if let Some(lost) = kept.iter_mut().find(|kept| kept.member.user_hash == user_hash && !kept.returned)
        {
            lost.returned = true;
        }
    }

    fn due(&mut self, now: Tick) -> Option<u64> {
        self.next_deadline().filter(|deadline| *deadline <= now)?;
        self.deadlines.pop().map(|Reverse((_, hash))| hash)
    }

    /// True if one more join or leave may be pushed this second, which begins with this one where there is none, and
    /// is then so long.
    fn may_announce(&mut self, hash: u64, limit: u32, now: Tick, second_ticks: impl FnOnce() -> u32) -> bool {
        if limit == 0 {
            return true;
        }
        let deadlines = &mut self.deadlines;
        let rate = self.rates.entry(hash).or_insert_with(|| {
            let until = now.after(second_ticks());
            deadlines.push(Reverse((until, hash)));
            Rate { until, count: 0, owed: false }
        });
        rate.count += 1;
        rate.owed |= rate.count > limit;
        rate.count <= limit
    }

    /// The second of a channel may be over: true if counts are owed.
    fn second_over(&mut self, hash: u64, now: Tick, second_ticks: u32) -> bool {
        let Some(rate) = self.rates.get_mut(&hash).filter(|rate| rate.until <= now) else { return false };
        let owed = rate.owed;
        if owed {
            *rate = Rate { until: now.after(second_ticks), count: 0, owed: false };
            self.deadlines.push(Reverse((rate.until, hash)));
        } else {
            self.rates.remove(&hash);
        }
        owed
    }

    /// Takes the lost members out that `goes` says.
    fn take(&mut self, hash: u64, goes: impl Fn(&Kept) -> bool) -> Vec<KeptMember> {
        let Some(kept) = self.kept.get_mut(&hash) else { return Vec::new() };
        let (gone, left) = std::mem::take(kept).into_iter().partition(goes);
        *kept = left;
        if kept.is_empty() {
            self.kept.remove(&hash);
        }
        let gone: Vec<Kept> = gone;
        gone.into_iter().map(|kept| kept.member).collect()
    }
}

impl Homes {
    /// When the next channel is to be looked at.
    pub(crate) fn next_announcement(&self) -> Option<Tick> {
        self.announcements.next_deadline().map(|counted| self.presence.real(counted))
    }

    /// Tells subscribers of a join or a leave, or that there were too many of them.
    pub(crate) fn announce(
        &mut self,
        place: &Place,
        (member, joined): (&Member, bool),
        now: Now,
        post: &mut Post,
    ) {
        let hash = place.hash;
        let options = self.common.settings.channel.options.get(usize::from(place.namespace));
        let limit = options.map_or(0, |options| options.join_leave_max_rate);
        let counted = self.presence.counted(now.tick);
        let Self { announcements, channels, common, .. } = self;
        if announcements
            .may_announce(hash, limit, counted, || second_ticks(channels.get(hash), common.shards))
        {
            self.deliver_membership(place, member, joined, post);
        }
    }

    /// A subscriber became active.
    pub(crate) fn joined(&mut self, place: &Place, member: &Member, now: Now, post: &mut Post) {
        self.announce(place, (member, true), now, post);
        let user = self.user_hash(&member.user);
        let mine = |kept: &Kept| kept.returned && kept.member.user_hash == user;
        for lost in self.announcements.take(place.hash, mine) {
            self.announce(place, (&lost.member, false), now, post);
        }
    }

    /// A member was lost and may come back.
    pub(crate) fn keep_member(&mut self, hash: u64, member: KeptMember, now: Now) {
        let grace = self.common.settings.channel.options[usize::from(member.namespace)].presence_grace;
        let most = if member.is_unsaid { limits::UNSAID_TICKS } else { u32::MAX };
        let deadline = self.presence.counted(now.tick).after(ticks_of(grace).min(most));
        self.announcements.deadlines.push(Reverse((deadline, hash)));
        self.announcements.latest += 1;
        let number = self.announcements.latest;
        let kept = Kept { number, member, deadline, returned: false };
        self.announcements.kept.entry(hash).or_default().push(kept);
    }

    /// Sessions and distinct users in a channel, lost ones that may come back included.
    pub(crate) fn counts(&mut self, hash: u64) -> (u32, u32) {
        let kept = &self.announcements;
        let ((clients, users), (kept_clients, kept_users)) = match self.channels.get(hash) {
            Registered::Nothing => ((0, 0), kept.kept_counts(hash, |_| false)),
            Registered::Single(_, marks) => {
                let counted = u32::from(marks & mark::PRESENCE != 0);
                ((counted, counted), kept.kept_counts(hash, |_| counted > 0))
            }
            Registered::Record(channel) => {
                let is_there = |user| channel.users.contains(user);
                ((channel.clients, channel.users.len() as u32), kept.kept_counts(hash, is_there))
            }
        };
        (clients + kept_clients, users + kept_users)
    }

    /// A join or leave for the subscribers that get them.
    fn deliver_membership(&mut self, place: &Place, member: &Member, joined: bool, post: &mut Post) {
        let hash = place.hash;
        let terms = Terms { slow_consumer: SlowConsumer::Disconnect, ..self.terms(place.namespace) };
        match self.channels.get(hash) {
            Registered::Nothing => {}
            Registered::Single(shard, marks) => {
                let name: Arc<str> = Arc::from(&*place.channel);
                let delivery = deliver_membership(&name, hash, member, joined, encodings_of(marks));
                post.send(shard, Mail::Deliver(Arc::new(Delivery { terms, ..delivery })));
            }
            Registered::Record(channel) => {
                let delivery = deliver_membership(&channel.name, hash, member, joined, channel.encodings);
                spread(&channel.shards, &Arc::new(Delivery { terms, ..delivery }), post);
            }
        }
    }

    /// Tells subscribers that get joins and leaves how many are there.
    fn deliver_counts(&mut self, hash: u64, post: &mut Post) {
        let counts = self.counts(hash);
        if let Registered::Record(channel) = self.channels.get(hash) {
            let data = counts_json(&channel.name, counts);
            spread(
                &channel.shards,
                &Arc::new(deliver_message(&channel.name, hash, &data, channel.encodings)),
                post,
            );
        }
    }

    /// Looks at the channels whose time has come.
    pub(crate) fn announcement_deadlines(&mut self, now: Now, post: &mut Post) {
        let counted = self.presence.counted(now.tick);
        for _ in 0..limits::EXPIRIES_PER_TURN {
            let Some(hash) = self.announcements.due(counted) else { return };
            for lost in self.announcements.take(hash, |kept| kept.deadline <= counted) {
                if lost.announced
                    && let Registered::Record(channel) = self.channels.get(hash)
                {
                    let place = Place { channel: (*channel.name).into(), hash, namespace: lost.namespace };
                    self.announce(&place, (&lost.member, false), now, post);
                }
            }
            let second_ticks = second_ticks(self.channels.get(hash), self.common.shards);
            if self.announcements.second_over(hash, counted, second_ticks) {
                self.deliver_counts(hash, post);
            }
        }
    }
}

/// How long a second of announcements is: until everybody could be told at their pace.
fn second_ticks(channel: Registered<'_, HomeChannel>, shards: u16) -> u32 {
    let most = match channel {
        Registered::Nothing | Registered::Single(..) => 1,
        Registered::Record(channel) => channel.shards.iter().map(|(_, count)| *count).max().unwrap_or(0),
    };
    Pace::of(shards).ticks_for(most).max(SECOND_TICKS)
}

/// `{"channel":…,"num_clients":…,"num_users":…}`
fn counts_json(channel: &Arc<str>, (clients, users): (u32, u32)) -> Vec<u8> {
    let counts = serde_json::json!({ "channel": &**channel, "num_clients": clients, "num_users": users });
    serde_json::to_vec(&counts).unwrap_or_default()
}
