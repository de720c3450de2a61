//! Shards in virtual time: turns, mail on its way between them, clocks. No clients here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use millpond::base::hash::NameHash;
use millpond::base::ids::{Descriptor, ShardId};
use millpond::base::rng::Rng;
use millpond::base::tick::{Now, Tick};
use millpond::hub::admission::Admission;
use millpond::hub::api::{ApiAnswer, ApiCommand};
use millpond::hub::auth::Verifier;
use millpond::hub::mail::{ApiAsk, Mail};
use millpond::hub::settings::Settings;
use millpond::hub::shard::{Common, Shard};
use millpond::hub::store::StoreAsk;

use crate::net::{Net, Pipe};

/// Wall clock at tick 0, in seconds.
pub(crate) const BIRTH: u64 = 1_800_000_000;

/// Most bytes read at once.
const READ: usize = 64 * 1024;

/// All shards of a process.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) tick: u32,
    /// Milliseconds of the present tick that are over; below 100.
    pub(crate) fine_ms: u64,
    pub(crate) shards: Vec<Shard>,
    pub(crate) nets: Vec<Net>,
    /// One inbox for each shard, as the mesh has it: what one shard sends before another is handled before it.
    pub(crate) inboxes: Vec<VecDeque<Mail>>,
    /// What the shards ask the store.
    pub(crate) store: VecDeque<StoreAsk>,
    pub(crate) common: Arc<Common>,
    pub(crate) hasher: NameHash,
    answers: BTreeMap<u64, ApiAnswer>,
    next_api: u64,
    next_socket: i32,
    /// Letters that an inbox takes.
    pub(crate) room: usize,
    /// A shard sits out at most so many turns of the others, as a busy one does.
    pub(crate) lag: u32,
    /// Turns that each shard still sits out.
    pub(crate) busy: Vec<u32>,
    /// Sockets of which a poll tells a shard at most; the others wait, those with high numbers longest.
    pub(crate) polled: usize,
}

impl World {
    pub(crate) fn new(seed: u64, shards: u16, settings: Settings) -> Self {
        let verifier = || Verifier::new(&settings.client.token).expect("a good key");
        let secret = (u128::from(seed) * 0x9E37_79B9_7F4A_7C15).to_le_bytes();
        let common = Arc::new(Common {
            subscription_tokens: verifier(),
            connection_tokens: verifier(),
            settings,
            shards,
            secret,
            admission: Admission::default(),
        });
        let shard = |id| Shard::new(ShardId(id), Arc::clone(&common), seed ^ u64::from(id));
        Self {
            rng: Rng::new(seed),
            tick: 10,
            fine_ms: 0,
            shards: (0..shards).map(shard).collect(),
            nets: (0..shards).map(|_| Net::default()).collect(),
            inboxes: (0..shards).map(|_| VecDeque::new()).collect(),
            store: VecDeque::new(),
            hasher: NameHash::new(secret),
            common,
            answers: BTreeMap::new(),
            next_api: 0,
            next_socket: 100,
            room: 1000,
            lag: 0,
            busy: vec![0; usize::from(shards)],
            polled: usize::MAX,
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now { tick: Tick(self.tick), unix_ms: BIRTH * 1000 + u64::from(self.tick) * 100 }
    }

    /// A client's SYN: the shard accepts at its next turn.
    pub(crate) fn dial(&mut self, shard: usize) -> i32 {
        self.next_socket += 1;
        self.nets[shard].pipes.insert(self.next_socket, Pipe::new());
        self.next_socket
    }

    pub(crate) fn pipe(&mut self, shard: usize, socket: i32) -> &mut Pipe {
        self.nets[shard].pipe(socket)
    }

    /// One turn of every shard, in random order.
    pub(crate) fn turn(&mut self) {
        let count = self.shards.len();
        let first = self.rng.below(count as u32) as usize;
        for at in 0..count {
            let at = (first + at) % count;
            if self.busy[at] > 0 {
                self.busy[at] -= 1;
            } else {
                self.turn_of(at);
                self.busy[at] = self.rng.below(self.lag + 1);
            }
        }
    }

    /// Forgets pipes that the shard closed, unless somebody still reads from them.
    pub(crate) fn sweep_pipes(&mut self, is_read: impl Fn(i32) -> bool) {
        for net in &mut self.nets {
            net.pipes.retain(|socket, pipe| pipe.closed.is_none() || is_read(*socket));
        }
    }

    /// Time goes on, with turns at least once a second as the shell's timeout has it.
    pub(crate) fn pass(&mut self, ticks: u32) {
        let end = self.tick + ticks;
        while self.tick < end {
            self.tick = (self.tick + 10).min(end);
            self.turn();
        }
    }

    /// Turns until every shard had one and no letter is under way.
    pub(crate) fn settle(&mut self) {
        for count in 0..10_000 {
            self.turn();
            if count < self.lag {
                continue;
            }
            let is_empty = self.inboxes.iter().all(VecDeque::is_empty);
            if is_empty && self.shards.iter_mut().all(|shard| shard.post().is_empty()) {
                return;
            }
        }
        panic!("mail never comes to rest");
    }

    /// Sends a letter as the control plane or the application does.
    pub(crate) fn tell(&mut self, shard: usize, mail: Mail) {
        self.inboxes[shard].push_back(mail);
    }

    /// Starts a call of the server API on one shard; its number is for [`Self::answer`].
    pub(crate) fn call(&mut self, shard: usize, command: ApiCommand) -> u64 {
        self.next_api += 1;
        let id = self.next_api;
        self.tell(shard, Mail::Api(Box::new(ApiAsk { id, command })));
        id
    }

    /// The answer to a call, if it has come.
    pub(crate) fn answer(&mut self, id: u64) -> Option<ApiAnswer> {
        self.answers.remove(&id)
    }

    /// A call and its answer, with as many turns as it takes.
    pub(crate) fn ask(&mut self, shard: usize, command: ApiCommand) -> ApiAnswer {
        let id = self.call(shard, command);
        self.settle();
        self.answer(id).expect("an answer")
    }

    pub(crate) fn home(&self, channel: &str) -> usize {
        usize::from(self.common.home_of_channel(&self.hasher, channel).0)
    }

    fn turn_of(&mut self, at: usize) {
        let now = self.now();
        self.shards[at].begin_at(now, u64::from(self.tick) * 100 + self.fine_ms);
        self.accept(at);
        let resumed = resumed(&mut self.shards[at]);
        for pipe in self.nets[at].pipes.values_mut() {
            pipe.read_edge |= pipe.key.is_some_and(|key| resumed.contains(&key));
        }
        let ready = self.nets[at].pipes.iter().filter(|(_, pipe)| pipe.has_event());
        let sockets: Vec<i32> = ready.map(|(socket, _)| *socket).take(self.polled).collect();
        for socket in sockets {
            self.events(at, socket);
        }
        self.mail(at);
        self.shards[at].settle();
        self.overdue(at);
        self.post(at);
        self.shards[at].finish(&mut self.nets[at]);
        self.post(at);
    }

    /// Reads whom the shard is about to close.
    fn overdue(&mut self, at: usize) {
        if self.shards[at].holds_back_input() {
            return;
        }
        let overdue: Vec<_> = self.shards[at].take_overdue(usize::MAX).collect();
        let named = |pipe: &Pipe| pipe.key.is_some_and(|key| overdue.contains(&key));
        let sockets = self.nets[at].pipes.iter().filter(|(_, pipe)| named(pipe) && pipe.closed.is_none());
        for socket in sockets.map(|(socket, _)| *socket).collect::<Vec<_>>() {
            self.nets[at].pipe(socket).read_edge = true;
            self.events(at, socket);
        }
    }

    fn accept(&mut self, at: usize) {
        for (socket, pipe) in &mut self.nets[at].pipes {
            if pipe.key.is_none() && pipe.closed.is_none() {
                pipe.key = Some(self.shards[at].accept(Descriptor(*socket), *socket as u32));
            }
        }
    }

    /// What the poller would report for one socket.
    fn events(&mut self, at: usize, socket: i32) {
        let Self { shards, nets, rng, .. } = self;
        let (shard, pipe) = (&mut shards[at], nets[at].pipe(socket));
        let Some((slot, generation)) = pipe.key else { return };
        if pipe.closed.is_some() || !shard.is_current(slot, generation) {
            return;
        }
        pipe.read_edge |= pipe.client_reset;
        if pipe.write_edge && pipe.outbound.len() < pipe.room {
            pipe.write_edge = false;
            shard.writable(slot);
        }
        if !pipe.read_edge || shard.holds_back_input() {
            return;
        }
        pipe.read_edge = false;
        Self::read(shard, pipe, rng, socket);
        if pipe.client_fin {
            shard.read_closed(slot, generation);
        }
    }

    /// Reads a socket until the shard has had enough.
    fn read(shard: &mut Shard, pipe: &mut Pipe, rng: &mut Rng, socket: i32) {
        let Some((slot, generation)) = pipe.key else { return };
        // An edge is gone once the shard does not want to read: it must ask for it later.
        while let Some(read_from) = shard.readable_socket(slot, generation) {
            assert_eq!(read_from.0, socket);
            if pipe.inbound.is_empty() {
                if pipe.client_reset {
                    shard.lose(slot);
                } else if pipe.client_fin {
                    shard.hang_up(slot);
                }
                return;
            }
            let most = if rng.below(3) == 0 { rng.between(1, 40) as usize } else { READ };
            let mut chunk: Vec<u8> = pipe.inbound.drain(..pipe.inbound.len().min(most)).collect();
            shard.input(slot, &mut chunk);
        }
    }

    fn mail(&mut self, at: usize) {
        while !self.shards[at].is_saturated()
            && let Some(mail) = self.inboxes[at].pop_front()
        {
            self.shards[at].receive(mail);
        }
    }

    fn post(&mut self, at: usize) {
        let Self { shards, inboxes, answers, room, store, .. } = self;
        let count = shards.len();
        let post = shards[at].post();
        for to in (0..count).filter(|to| *to != at) {
            let inbox = &mut inboxes[to];
            post.drain_to(ShardId(to as u16), |mail| {
                if inbox.len() >= *room {
                    return Err(mail);
                }
                inbox.push_back(mail);
                Ok(())
            });
        }
        post.drain_store(|ask| {
            if store.len() >= *room {
                return Err(ask);
            }
            store.push_back(ask);
            Ok(())
        });
        post.drain_answers(|answer| {
            let before = answers.insert(answer.id, answer.answer);
            assert!(before.is_none(), "two answers to one call");
            Ok(())
        });
    }
}

/// Connections that a shard wants to have read again.
pub(crate) fn resumed(shard: &mut Shard) -> Vec<(u32, u32)> {
    (0..shard.resumable()).filter_map(|_| shard.resume_one()).collect()
}
