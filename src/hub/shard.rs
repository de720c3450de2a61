//! One shard: a share of the connections, and the home of a share of the names. A pure state machine.
//!
//! The shell (or a test) drives it in turns: [`Shard::begin`] with the clocks, then any number of [`Shard::accept`],
//! [`Shard::input`], [`Shard::writable`], [`Shard::hang_up`] and [`Shard::receive`], then [`Shard::settle`], which runs
//! timers, reads whom [`Shard::take_overdue`] names, and calls [`Shard::finish`], which sweeps and is the only place that
//! touches sockets. What is queued for other shards is then taken from [`Shard::post`].

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use crate::base::hash::NameHash;
use crate::base::ids::{ConnKey, Descriptor, ShardId};
use crate::base::permute::ClientIds;
use crate::base::rate::{Bucket, Limit};
use crate::base::rng::Rng;
use crate::base::tick::{Now, TICK_MS, Tick, ticks_from_ms};
use crate::base::wheel::{Link, Links, Wheel};
use crate::hub::admission::Admission;
use crate::hub::auth::Verifier;
use crate::hub::cold::{Cold, ColdPool};
use crate::hub::connection::{Connection, NONE, Phase, flag};
use crate::hub::connections::Accepts;
use crate::hub::drain::Drain;
use crate::hub::gather::Gathering;
use crate::hub::held::Held;
use crate::hub::home::Homes;
use crate::hub::locals::Locals;
use crate::hub::mail::{HomeAsk, Mail};
use crate::hub::metrics::{Refusal, ShardMetrics};
use crate::hub::newcomers::Newcomers;
use crate::hub::post::Post;
use crate::hub::settings::Settings;
use crate::hub::sockets::Sockets;
use crate::hub::survey::Survey;
use crate::hub::sweep::Sweeps;
use crate::hub::timers::Overdue;
use crate::limits;

/// Stands for the private entry type of the slab.
#[allow(dead_code, reason = "only its size is looked at")]
enum SlabPlace {
    Free(usize),
    Taken(Connection),
}
const _: () = assert!(size_of::<SlabPlace>() == 64, "the slab adds nothing to a connection");

/// Everything the shards of a process have in common.
pub struct Common {
    /// Settings.
    pub settings: Settings,
    /// Number of shards.
    pub shards: u16,
    /// Secret of this process: keys of hashes, client ids and epochs.
    pub secret: [u8; 16],
    /// Node-wide counts.
    pub admission: Admission,
    /// Checks connection tokens.
    pub connection_tokens: Verifier,
    /// Checks subscription tokens.
    pub subscription_tokens: Verifier,
}

impl Common {
    /// Home shard of a channel. One that stands for a user lives where the user lives.
    #[must_use]
    pub fn home_of_channel(&self, hasher: &NameHash, channel: &str) -> ShardId {
        let user = self.watched_user(channel).or_else(|| self.personal_user(channel));
        self.home_of(hasher, user.unwrap_or(channel))
    }

    /// The user that a channel of the user presence namespace tells of. It lives where the user does.
    pub(crate) fn watched_user<'a>(&self, channel: &'a str) -> Option<&'a str> {
        let presence = self.settings.user_presence.as_ref()?;
        let boundary = self.settings.channel.namespace_boundary.as_str();
        let user = channel.strip_prefix(presence.namespace.as_str())?.strip_prefix(boundary)?;
        (!user.is_empty() && !boundary.is_empty()).then_some(user)
    }

    /// Home shard of a name.
    #[must_use]
    pub fn home_of(&self, hasher: &NameHash, name: &str) -> ShardId {
        crate::base::hash::home_of(hasher.of(name.as_bytes()), self.shards)
    }

    /// The one user in a channel name like `#user` or `ns:#user`.
    pub(crate) fn personal_user<'a>(&self, channel: &'a str) -> Option<&'a str> {
        let channel_settings = &self.settings.channel;
        let (_, users) = channel.rsplit_once(channel_settings.user_boundary.as_str())?;
        let single = !users.is_empty()
            && (channel_settings.user_separator.is_empty()
                || !users.contains(&channel_settings.user_separator));
        single.then_some(users)
    }
}

/// A shard.
pub struct Shard {
    pub(crate) id: ShardId,
    pub(crate) common: Arc<Common>,
    pub(crate) connections: Connections,
    pub(crate) wheel: Wheel,
    pub(crate) cold: ColdPool,
    pub(crate) locals: Locals,
    pub(crate) homes: Homes,
    pub(crate) post: Post,
    /// Publications that wait for a congested destination, in order.
    pub(crate) deferred: VecDeque<HomeAsk>,
    /// Output that waits for more (`write_delay`).
    pub(crate) gathering: Gathering,
    /// Where frames that wait apart are gathered for one write.
    pub(crate) scratch: Vec<u8>,
    /// Connections with output to flush this turn.
    pub(crate) dirty: Vec<u32>,
    /// Connections that were granted a subscription of which its home has yet to hear.
    pub(crate) held: Held,
    /// Connections whose socket is to be closed this turn; true = with RST.
    pub(crate) doomed: Vec<(u32, bool)>,
    /// Sockets that go to the control plane this turn, with what was read.
    pub(crate) handed: Vec<(u32, Vec<u8>)>,
    /// Channels with frames under way.
    pub(crate) sweeps: Sweeps,
    /// Connections that may read again.
    pub(crate) resumed: VecDeque<u32>,
    /// Connections whose silence ends them unless something is found when they are read once more.
    pub(crate) overdue: VecDeque<Overdue>,
    /// Those of them that the shell was told to read.
    pub(crate) examined: Vec<Overdue>,
    /// Who is not a client yet.
    pub(crate) newcomers: Newcomers,
    pub(crate) now: Now,
    /// Milliseconds since start, for what is finer than a tick.
    pub(crate) now_ms: u64,
    pub(crate) hasher: NameHash,
    pub(crate) rng: Rng,
    pub(crate) ids: ClientIds,
    pub(crate) command_rate: Limit,
    pub(crate) metrics: ShardMetrics,
    pub(crate) survey: Survey,
    pub(crate) draining: Option<Drain>,
    /// Pong deadlines are put off until then, after this shard itself stood still.
    pub(crate) forgiven_until: Tick,
    pub(crate) generation: u32,
    pub(crate) next_ticket: u32,
    /// Questions of the server API about the sessions of a user.
    pub(crate) listings: Vec<(u64, String)>,
    pub(crate) accepts: Accepts,
    /// The last measurement of memory pressure that was reacted to.
    pub(crate) measurement_seen: u32,
    pub(crate) due: Vec<u32>,
    timers_due: bool,
}

/// The slab of hot parts, as the timing wheel sees it, and how many places of it were ever taken since it was empty:
/// so far its memory has been touched.
pub(crate) struct Connections(pub(crate) Slab<Connection>, pub(crate) usize);

impl Links for Connections {
    fn link(&mut self, slot: u32) -> &mut Link {
        &mut self.0[slot as usize].timer
    }
}

/// What the shell should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// There is more to do at once: poll without waiting.
    pub busy: bool,
    /// Otherwise wake up at this millisecond since start, for output that waits for more or for its pace.
    pub flush_at_ms: Option<u64>,
    /// And at this tick at the latest.
    pub wake_at: Option<Tick>,
}

impl Shard {
    /// An empty shard. `seed` feeds jitter only.
    #[must_use]
    pub fn new(id: ShardId, common: Arc<Common>, seed: u64) -> Self {
        let hasher = NameHash::new(common.secret);
        Self {
            id,
            connections: Connections(Slab::new(), 0),
            wheel: Wheel::new(Tick(0)),
            cold: ColdPool::default(),
            locals: Locals::new(hasher),
            homes: Homes::new(id, Arc::clone(&common), hasher),
            post: Post::new(common.shards as usize),
            deferred: VecDeque::new(),
            gathering: Gathering::default(),
            now_ms: 0,
            scratch: Vec::new(),
            dirty: Vec::new(),
            held: Held::new(common.shards as usize),
            doomed: Vec::new(),
            handed: Vec::new(),
            sweeps: Sweeps::new(common.shards),
            resumed: VecDeque::new(),
            overdue: VecDeque::new(),
            examined: Vec::new(),
            newcomers: Newcomers::default(),
            now: Now::default(),
            hasher,
            rng: Rng::new(seed),
            ids: ClientIds::new(common.secret),
            command_rate: Limit::new(
                common.settings.client.command_rate_limit,
                common.settings.client.command_rate_limit,
            ),
            metrics: ShardMetrics::default(),
            survey: Survey::default(),
            draining: None,
            forgiven_until: Tick(0),
            generation: 0,
            next_ticket: 0,
            listings: Vec::new(),
            accepts: Accepts::default(),
            measurement_seen: 0,
            due: Vec::new(),
            timers_due: false,
            common,
        }
    }

    /// Starts a turn: every decision of the turn is made at `now`.
    pub fn begin(&mut self, now: Now) {
        if now.tick.since(self.now.tick) > limits::STALL_TICKS && self.now.tick > Tick(0) {
            self.forgiven_until = now.tick.after(ticks_of(self.common.settings.client.pong_timeout));
            self.metrics.stalls += 1;
            self.homes.presence.stood_still(now.tick.since(self.now.tick), now.tick);
        }
        self.now = now;
        self.now_ms = self.now_ms.max(u64::from(now.tick.0) * TICK_MS);
        self.metrics.turns += 1;
    }

    /// The same with the milliseconds since start, which `write_delay` counts in; they must fit `now.tick`.
    pub fn begin_at(&mut self, now: Now, now_ms: u64) {
        self.begin(now);
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// Takes in an accepted socket. Returns the key to address it with.
    pub fn accept(&mut self, socket: Descriptor, source: u32) -> (u32, u32) {
        self.generation = self.generation.wrapping_add(1);
        self.accepts.note(self.now.tick, self.generation);
        let mut connection = Connection::accepted(
            socket,
            self.generation,
            source,
            Bucket::full(self.command_rate, self.now.tick),
        );
        connection.ping = self.now.tick;
        connection.set(flag::UNAUTHENTICATED, true);
        self.admission_enter(source);
        let slot = self.connections.0.insert(connection) as u32;
        self.connections.1 = self.connections.1.max(slot as usize + 1);
        self.metrics.accepts += 1;
        self.note_accepted(slot, self.generation);
        self.arm(slot);
        (slot, self.generation)
    }

    /// True if the connection is still the one the shell means.
    #[must_use]
    pub fn is_current(&self, slot: u32, generation: u32) -> bool {
        self.connections.0.get(slot as usize).is_some_and(|connection| connection.generation == generation)
    }

    /// The socket of a connection that is to be read now; `None` while its input must wait.
    #[must_use]
    pub fn readable_socket(&self, slot: u32, generation: u32) -> Option<Descriptor> {
        let connection = self.connections.0.get(slot as usize)?;
        let reads = connection.generation == generation
            && (connection.wants_input() || connection.phase == Phase::Closing);
        reads.then_some(connection.socket)
    }

    /// Connections whose reading was held back and may go on: so many [`Shard::resume_one`] has to tell of.
    #[must_use]
    pub fn resumable(&self) -> usize {
        self.resumed.len()
    }

    /// The next of them: the shell reads it as if it had become readable. `None` if there is nothing to read, as it has
    /// gone or has commands that waited for output: they run now. Ask [`Shard::holds_back_input`] before each.
    pub fn resume_one(&mut self) -> Option<(u32, u32)> {
        let slot = self.resumed.pop_front()?;
        let connection = self.connection(slot)?;
        connection.set(flag::RESUMED, false);
        let key = (slot, connection.generation);
        if self.may_resume(slot) {
            self.resume(slot);
            return None;
        }
        Some(key)
    }

    /// A connection that was readable when its share of the turn was used up, or while input is held back.
    pub fn unread(&mut self, slot: u32, generation: u32) {
        if self.is_current(slot, generation) {
            self.read_later(slot);
        }
    }

    /// True while inbound mail should stay in its queue: frames under way take too much memory.
    #[must_use]
    pub fn is_saturated(&self) -> bool {
        self.locals.under_way.bytes() > limits::SWEEP_BACKLOG_BYTES
    }

    /// True while client input should stay in the kernel: mail to other shards does not get away.
    #[must_use]
    pub fn holds_back_input(&self) -> bool {
        self.post.is_congested() || self.deferred.len() > limits::DEFERRED_PUBLICATIONS
    }

    /// True if subscribers are told of users who come and go.
    #[must_use]
    pub fn tells_of_users(&self) -> bool {
        self.common.settings.user_presence.is_some()
    }

    /// Takes a letter from another shard, the control plane or the application.
    pub fn receive(&mut self, mail: Mail) {
        self.metrics.mail_in += 1;
        self.letter(mail);
    }

    fn letter(&mut self, mail: Mail) {
        match mail {
            Mail::Home(ask) => self.home_ask(*ask),
            Mail::User(ask) => self.homes.user(*ask, self.now, &mut self.post),
            Mail::Look(ask) => self.homes.look(*ask, self.now, &mut self.post),
            Mail::Reply(reply) => self.home_reply(*reply),
            Mail::Deliver(delivery) => self.deliver(&delivery),
            Mail::Collect(ask) => self.collect(&ask.channel, ask.home, ask.gather),
            Mail::Collected(part) => self.homes.collected(part.gather, part.members, &mut self.post),
            Mail::CollectPage(ask) => self.collect_page(&ask),
            Mail::CollectedPage(page) => self.homes.page_part(page.shard, page.part, &mut self.post),
            Mail::CloseOthers(ask) => self.close_others(&ask.user, ask.keep),
            Mail::Inherit(ask) => self.inherit(&ask),
            Mail::Store(mail) => self.homes.stored(*mail, &mut self.post),
            Mail::Page(page) => self.mailbox_page(&page),
            Mail::Api(ask) => self.api(*ask),
            Mail::Drain { window_ticks } => self.drain(window_ticks),
        }
    }

    /// The part of a turn that touches no socket: own mail, timers. A shell that sends the mail between this and
    /// [`Shard::finish`] makes sure that homes hear of a subscription before its client does.
    pub fn settle(&mut self) {
        self.own_mail();
        self.decide_overdue();
        self.expire();
        self.thin_out();
        self.homes.user_deadlines(self.now, &mut self.post);
        self.homes.announcement_deadlines(self.now, &mut self.post);
        self.drain_step();
        self.relieve();
        self.own_mail();
    }

    /// Ends a turn: what [`Shard::settle`] has left, then sweeps, output, closes.
    pub fn finish(&mut self, io: &mut impl Sockets) -> Outlook {
        self.settle();
        self.release_gathered();
        self.sweep(io);
        self.own_mail();
        self.flush(io);
        self.reap(io);
        self.list_connections(io);
        self.homes.housekeep(self.now);
        self.survey_on();
        Outlook {
            busy: self.sweeps.is_due(self.now_ms)
                || (!self.resumed.is_empty() || !self.overdue.is_empty()) && !self.holds_back_input()
                || self.timers_due
                || self.survey.is_under_way()
                || self.gathering.next_due_ms().is_some_and(|due| due <= self.now_ms)
                || (!self.deferred.is_empty() && !self.post.is_congested()),
            flush_at_ms: [self.gathering.next_due_ms(), self.sweeps.announcements_due_ms()]
                .into_iter()
                .flatten()
                .min(),
            wake_at: if self.draining.is_some() {
                Some(self.now.tick.after(1))
            } else {
                let homes = &self.homes;
                let of_homes = [homes.presence.next_deadline(), homes.next_announcement()];
                of_homes.into_iter().chain([self.wheel.next_deadline(), self.next_eviction()]).flatten().min()
            },
        }
    }

    /// True if there is work that was put off for mail that has left since: ask once the last mail of a turn is sent.
    #[must_use]
    pub fn has_put_off(&self) -> bool {
        let unread = !self.resumed.is_empty() || !self.overdue.is_empty();
        (unread && !self.holds_back_input())
            || (!self.deferred.is_empty() && !self.post.is_congested())
            || self.held.is_due(&self.post)
    }

    /// Mail that has not left yet.
    pub fn post(&mut self) -> &mut Post {
        &mut self.post
    }

    /// The shell refused a connection itself.
    pub fn refused(&mut self, reason: Refusal) {
        self.metrics.refuse(reason);
    }

    /// The control plane did not take so many of the sockets that were passed to it: they were answered 503.
    pub fn handovers_refused(&mut self, count: u64) {
        self.metrics.handed_over -= count;
        self.metrics.refusals[Refusal::HandOver as usize] += count;
    }

    /// Number of connections, in whatever phase.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.0.len()
    }

    /// True once a drain has disconnected everybody, on all shards: until then this one is still the home of names of
    /// the others. Whatever they sent before stands in its inbox.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining.is_some_and(|drain| drain.emptied)
            && self.is_emptied()
            && self.common.admission.emptied() >= u32::from(self.common.shards)
    }

    /// True while nobody is connected here and no mail waits to leave.
    pub(crate) fn is_emptied(&self) -> bool {
        self.connections.0.is_empty() && self.post.is_empty()
    }

    /// True once a drain has begun: the shell stops accepting.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    fn own_mail(&mut self) {
        while !self.post.is_congested()
            && let Some(ask) = self.deferred.pop_front()
        {
            self.homes.ask_noting(ask, self.now, &mut self.post);
        }
        while let Some(mail) = self.post.pop_own(self.id) {
            self.letter(mail);
        }
    }

    fn expire(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        let expiry =
            self.wheel.expire(self.now.tick, limits::TIMERS_PER_TURN, &mut self.connections, |slot| {
                due.push(slot);
            });
        self.timers_due = expiry.more;
        for slot in due.drain(..) {
            self.timer(slot);
        }
        self.due = due;
    }

    /// Publications wait while a destination is congested, everything else is answered at once.
    fn home_ask(&mut self, ask: HomeAsk) {
        let is_publication = matches!(ask.op, crate::hub::mail::HomeOp::Publish(_));
        if is_publication && (self.post.is_congested() || !self.deferred.is_empty()) {
            self.deferred.push_back(ask);
        } else {
            self.homes.ask_noting(ask, self.now, &mut self.post);
        }
    }

    // Helpers shared by the files of this folder.

    pub(crate) fn connection(&mut self, slot: u32) -> Option<&mut Connection> {
        self.connections.0.get_mut(slot as usize)
    }

    pub(crate) fn key(&self, slot: u32) -> ConnKey {
        let generation = self.connections.0.get(slot as usize).map_or(0, |connection| connection.generation);
        ConnKey { shard: self.id, slot, generation }
    }

    pub(crate) fn client_id(&self, slot: u32) -> String {
        self.ids.encode(self.key(slot)).as_str().to_owned()
    }

    /// The cold part, made if there is none.
    pub(crate) fn cold(&mut self, slot: u32) -> Option<&mut Cold> {
        let connection = self.connections.0.get_mut(slot as usize)?;
        Some(self.cold.obtain(&mut connection.cold))
    }

    /// The cold part, if there is one.
    pub(crate) fn cold_if_any(&mut self, slot: u32) -> Option<&mut Cold> {
        let connection = self.connections.0.get(slot as usize)?;
        if connection.cold == NONE { None } else { self.cold.get_mut(connection.cold) }
    }

    pub(crate) fn home_of_channel(&self, channel: &str) -> ShardId {
        self.common.home_of_channel(&self.hasher, channel)
    }
}

/// A duration in ticks, rounded up.
pub(crate) fn ticks_of(duration: std::time::Duration) -> u32 {
    ticks_from_ms(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
