//! Shards, the office and clients together: one step is a turn of each, with mail and acknowledgements under way.

use std::collections::{BTreeMap, VecDeque};

use millpond::base::rng::Rng;
use millpond::hub::api::{ApiAnswer, ApiCommand, ApiSend};
use millpond::hub::mail::ApiAsk;
use millpond::hub::settings::Settings;
use millpond::hub::store::StoreAsk;
use millpond::log::fake::{FakeDisk, Fate};
use millpond::log::settings::LogSettings;
use millpond::store::office::Office;

use crate::client::Client;
use crate::desk::Desk;
use crate::world::{BIRTH, World};

/// How the store lags in one step.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) asks: usize,
    pub(crate) commits: usize,
    pub(crate) acks: usize,
}

impl Pace {
    pub(crate) const FAST: Self = Self { asks: usize::MAX, commits: usize::MAX, acks: usize::MAX };
}

pub(crate) struct Town {
    pub(crate) world: World,
    pub(crate) office: Office<Desk>,
    pub(crate) desk: Desk,
    pub(crate) disk: FakeDisk,
    pub(crate) rng: Rng,
    pub(crate) clients: Vec<Client>,
    pub(crate) answers: BTreeMap<u64, ApiAnswer>,
    settings: Settings,
    log: LogSettings,
    seed: u64,
    next_call: u64,
    starts: u64,
    /// Records that a turn of the office looks at for readers.
    share: usize,
}

impl Town {
    pub(crate) fn new(seed: u64, shards: u16, settings: Settings, log: LogSettings) -> Self {
        let world = World::new(seed, shards, settings.clone());
        let disk = FakeDisk::default();
        let desk = Desk::open(&disk, log.clone(), seconds(&world));
        let office = Office::new(world.common.clone(), desk.clone(), desk.last(), seed);
        Self {
            world,
            office,
            desk,
            disk,
            rng: Rng::new(seed ^ 0xABCD),
            clients: Vec::new(),
            answers: BTreeMap::new(),
            settings,
            log,
            seed,
            next_call: 0,
            starts: 1,
            share: usize::MAX,
        }
    }

    /// A power cut: what the disk has is there, everything else begins anew.
    pub(crate) fn crash(&mut self) {
        let names = self.disk.pending_names();
        let Self { disk, rng, .. } = self;
        let after = disk.crash(names, |_| match rng.below(3) {
            0 => Fate::Kept,
            1 => Fate::Lost,
            _ => Fate::Torn(rng.below(512) as usize),
        });
        let (tick, room, lag) = (self.world.tick, self.world.room, self.world.lag);
        self.world = World::new(self.seed, self.world.shards.len() as u16, self.settings.clone());
        (self.world.tick, self.world.room, self.world.lag) = (tick, room, lag);
        let durable = self.desk.all_durable();
        self.desk = Desk::open(&after, self.log.clone(), seconds(&self.world));
        self.desk.remember(durable);
        self.starts += 1;
        let seed = self.seed ^ self.starts << 32;
        self.office = Office::new(self.world.common.clone(), self.desk.clone(), self.desk.last(), seed);
        self.set_share(self.share);
        self.disk = after;
        for client in &mut self.clients {
            client.session = None;
        }
    }

    /// How many records a turn of the office looks at for readers.
    pub(crate) fn set_share(&mut self, records: usize) {
        self.share = records;
        self.office.set_reading_share(records);
    }

    pub(crate) fn send(&mut self, users: &[&str], data: &str) -> u64 {
        self.call(ApiCommand::Send(Box::new(ApiSend {
            users: users.iter().map(|user| (*user).to_owned()).collect(),
            data: data.to_owned().into(),
            ..ApiSend::default()
        })))
    }

    /// A call to the store; its answer comes to `answers`.
    pub(crate) fn call(&mut self, command: ApiCommand) -> u64 {
        self.next_call += 1;
        self.world.store.push_back(StoreAsk::Api(Box::new(ApiAsk { id: self.next_call, command })));
        self.next_call
    }

    pub(crate) fn add(&mut self, client: Client) -> usize {
        self.clients.push(client);
        self.clients.len() - 1
    }

    /// Dials, upgrades, connects.
    pub(crate) fn connect(&mut self, at: usize, shard: usize) {
        let socket = self.world.dial(shard);
        let Self { world, clients, rng, .. } = self;
        clients[at].begin(shard, socket, world.pipe(shard, socket), rng);
    }

    /// The connection breaks.
    pub(crate) fn drop(&mut self, at: usize) {
        let client = &mut self.clients[at];
        if client.session.take().is_some() {
            self.world.pipe(client.shard, client.socket).reset();
        }
    }

    pub(crate) fn acknowledge(&mut self, at: usize, offset: u64) {
        let Self { world, clients, rng, .. } = self;
        let (shard, socket) = (clients[at].shard, clients[at].socket);
        clients[at].acknowledge(offset, world.pipe(shard, socket), rng);
    }

    /// A WebSocket pong of a client.
    pub(crate) fn pong(&mut self, at: usize, payload: &[u8]) {
        let client = &self.clients[at];
        client.pong(payload, self.world.pipe(client.shard, client.socket), &mut self.rng);
    }

    /// A turn of everybody.
    pub(crate) fn step(&mut self, pace: Pace) {
        self.world.turn();
        self.store_turn(pace);
        let Self { world, clients, rng, desk, .. } = self;
        for client in clients.iter_mut().filter(|client| client.session.is_some()) {
            let (shard, socket) = (client.shard, client.socket);
            client.read(world.pipe(shard, socket), rng, desk);
        }
    }

    /// Steps until nothing is under way.
    pub(crate) fn settle(&mut self) {
        for _ in 0..20_000 {
            let before = self.traffic();
            self.step(Pace::FAST);
            if self.is_quiet() && before == self.traffic() {
                return;
            }
        }
        panic!("never comes to rest");
    }

    /// Time goes on in steps of half a second at most.
    pub(crate) fn pass(&mut self, ticks: u32) {
        let end = self.world.tick + ticks;
        while self.world.tick < end {
            self.world.tick = (self.world.tick + 5).min(end);
            self.settle();
        }
    }

    pub(crate) fn store_turn(&mut self, pace: Pace) {
        let now = self.world.now();
        let Self { world, office, desk, answers, .. } = self;
        for _ in 0..pace.acks {
            let Some(ack) = desk.next_ack() else { break };
            office.acknowledged(&ack, now);
        }
        for _ in 0..pace.asks {
            let Some(ask) = world.store.pop_front() else { break };
            office.ask(ask, now);
        }
        office.settle(now);
        desk.commit(pace.commits, (now.unix_ms / 1000) as u32);
        let (inboxes, room) = (&mut world.inboxes, world.room);
        office.drain_mail(|shard, mail| {
            let inbox: &mut VecDeque<_> = &mut inboxes[usize::from(shard.0)];
            if inbox.len() >= room {
                return Err(mail);
            }
            inbox.push_back(mail);
            Ok(())
        });
        for answer in office.take_answers() {
            assert!(answers.insert(answer.id, answer.answer).is_none(), "two answers to one call");
        }
    }

    fn is_quiet(&mut self) -> bool {
        let Self { world, office, desk, .. } = self;
        world.store.is_empty()
            && world.inboxes.iter().all(VecDeque::is_empty)
            && world.shards.iter_mut().all(|shard| shard.post().is_empty())
            && desk.queued() == 0
            && office.letters() == 0
            && !office.is_reading()
            && office.figures().in_flight == 0
            && office.figures().waiting == 0
    }

    /// Bytes that clients have not read, and what they have.
    fn traffic(&self) -> (usize, usize) {
        let pipes = self.world.nets.iter().flat_map(|net| net.pipes.values());
        let bytes = pipes.map(|pipe| pipe.outbound.len() + pipe.inbound.len()).sum();
        let read = self.clients.iter().map(|client| client.received.values().sum::<u32>() as usize).sum();
        (bytes, read)
    }
}

fn seconds(world: &World) -> u32 {
    (BIRTH + u64::from(world.tick) / 10) as u32
}
