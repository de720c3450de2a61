//! Shards, the store's office and clients in virtual time. Everything that is under way is carried on in random order
//! and at random moments, but in the order in which it was sent.

use std::collections::{BTreeMap, HashMap, VecDeque};
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
use millpond::hub::sockets::{Sockets, Written};
use millpond::hub::store::StoreAsk;
use millpond::log::fake::FakeDisk;
use millpond::store::office::Office;
use serde_json::Value;

use crate::desk::{Desk, freed};

/// Wall clock of tick 0, seconds since 1970.
const BIRTH: u64 = 1_800_000_000;

/// What the shards wrote and closed, by descriptor.
#[derive(Default)]
struct Wire {
    written: HashMap<i32, Vec<u8>>,
    closed: Vec<i32>,
}

impl Sockets for Wire {
    fn write(&mut self, socket: Descriptor, bytes: &[u8]) -> Written {
        self.written.entry(socket.0).or_default().extend_from_slice(bytes);
        Written::Bytes(bytes.len())
    }

    fn close(&mut self, socket: Descriptor, _: bool) {
        self.closed.push(socket.0);
    }

    fn shutdown_write(&mut self, _: Descriptor) {}

    fn hand_over(&mut self, socket: Descriptor, _: &[u8]) {
        self.closed.push(socket.0);
    }

    fn peer(&self, _: Descriptor) -> Option<std::net::SocketAddr> {
        None
    }
}

/// A connection.
struct Peer {
    shard: usize,
    slot: u32,
    generation: u32,
    upgraded: bool,
    pending: Vec<u8>,
    inbox: VecDeque<Value>,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// What was written is there.
    Killed,
    /// What was not synced may be there, in parts.
    PowerCut,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) tick: u32,
    pub(crate) desk: Desk,
    settings: Settings,
    common: Arc<Common>,
    shards: Vec<Shard>,
    office: Office<Desk>,
    wire: Wire,
    inboxes: Vec<VecDeque<Mail>>,
    questions: VecDeque<StoreAsk>,
    peers: BTreeMap<i32, Peer>,
    answers: BTreeMap<u64, ApiAnswer>,
    next: i32,
    lives: u8,
}

impl World {
    pub(crate) fn new(seed: u64, shards: u16, settings: &Settings) -> Self {
        Self::alive(Rng::new(seed), 10, shards, settings, FakeDisk::recording(), 1)
    }

    fn alive(mut rng: Rng, tick: u32, shards: u16, settings: &Settings, disk: FakeDisk, lives: u8) -> Self {
        let verifier = || Verifier::new(&settings.client.token).expect("a good key");
        let common = Arc::new(Common {
            subscription_tokens: verifier(),
            connection_tokens: verifier(),
            settings: settings.clone(),
            shards,
            // Of the process: epochs in memory and homes differ from life to life.
            secret: [lives; 16],
            admission: Admission::default(),
        });
        let desk = Desk::open(disk, lives, seconds(tick));
        let mut office = Office::new(Arc::clone(&common), desk.clone(), desk.last(), rng.next_u64());
        office.set_reading_share(rng.between(1, 60) as usize);
        let shard = |id| Shard::new(ShardId(id), Arc::clone(&common), u64::from(id));
        Self {
            shards: (0..shards).map(shard).collect(),
            inboxes: (0..shards).map(|_| VecDeque::new()).collect(),
            settings: settings.clone(),
            common,
            office,
            desk,
            rng,
            tick,
            wire: Wire::default(),
            questions: VecDeque::new(),
            peers: BTreeMap::new(),
            answers: BTreeMap::new(),
            next: 1,
            lives,
        }
    }

    /// The process ends without a word and another one begins on what its disk holds.
    pub(crate) fn restart(self, ending: Ending) -> Self {
        let Self { mut rng, tick, desk, settings, shards, lives, .. } = self;
        let disk = match ending {
            Ending::Killed => desk.disk().killed(),
            Ending::PowerCut => desk.power_cut(&mut rng, seconds(tick)),
        };
        Self::alive(rng, tick + 20, shards.len() as u16, &settings, freed(disk), lives + 1)
    }

    pub(crate) fn seconds(&self) -> u32 {
        seconds(self.tick)
    }

    /// Opens a connection and sends the connect command, whose reply comes to the inbox as id 1.
    pub(crate) fn connect(&mut self) -> i32 {
        let socket = self.next;
        self.next += 1;
        let shard = self.rng.below(self.shards.len() as u32) as usize;
        self.begin(shard);
        let (slot, generation) = self.shards[shard].accept(Descriptor(socket), 0);
        let mut request = b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Version: 13\r\n\r\n"
            .to_vec();
        self.shards[shard].input(slot, &mut request);
        let (pending, inbox) = (Vec::new(), VecDeque::new());
        self.peers.insert(socket, Peer { shard, slot, generation, upgraded: false, pending, inbox });
        self.send(socket, &serde_json::json!({ "id": 1, "connect": {} }));
        socket
    }

    /// Sends a command in a frame of its own.
    pub(crate) fn send(&mut self, socket: i32, command: &Value) {
        let payload = command.to_string().into_bytes();
        let Some(peer) = self.peers.get(&socket) else { return };
        let (shard, slot, generation) = (peer.shard, peer.slot, peer.generation);
        let mut bytes = match payload.len() {
            short @ ..126 => vec![0x81, 0x80 | short as u8],
            long => [&[0x81, 0x80 | 126][..], &(long as u16).to_be_bytes()].concat(),
        };
        // A mask of zeros leaves the payload as it is.
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend(payload);
        self.begin(shard);
        if self.shards[shard].is_current(slot, generation) {
            self.shards[shard].input(slot, &mut bytes);
        }
    }

    /// The connection breaks.
    pub(crate) fn drop_peer(&mut self, socket: i32) {
        let Some(peer) = self.peers.remove(&socket) else { return };
        self.begin(peer.shard);
        if self.shards[peer.shard].is_current(peer.slot, peer.generation) {
            self.shards[peer.shard].lose(peer.slot);
        }
    }

    /// What has arrived.
    pub(crate) fn inbox(&mut self, socket: i32) -> Vec<Value> {
        self.peers.get_mut(&socket).map(|peer| peer.inbox.drain(..).collect()).unwrap_or_default()
    }

    /// Calls the server API at the home of a channel; the number is for [`Self::answer`].
    pub(crate) fn call(&mut self, channel: &str, command: ApiCommand) -> u64 {
        let home = self.common.home_of_channel(&NameHash::new(self.common.secret), channel);
        let id = self.next as u64;
        self.next += 1;
        self.inboxes[usize::from(home.0)].push_back(Mail::Api(Box::new(ApiAsk { id, command })));
        id
    }

    pub(crate) fn answer(&mut self, id: u64) -> Option<ApiAnswer> {
        self.answers.remove(&id)
    }

    /// A call and its answer.
    pub(crate) fn ask(&mut self, channel: &str, command: ApiCommand) -> ApiAnswer {
        let id = self.call(channel, command);
        self.settle();
        self.answer(id).expect("an answer")
    }

    /// Something of what is under way goes on.
    pub(crate) fn stir(&mut self) {
        match self.rng.below(8) {
            0 => self.desk.commit(1 + self.rng.below(6) as usize, seconds(self.tick)),
            1 => self.acknowledge(),
            2 => self.question(),
            _ => {
                let shard = self.rng.below(self.shards.len() as u32) as usize;
                self.turn(shard);
            }
        }
        self.end_office_turn();
    }

    /// Everything goes on until nothing is under way.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            (0..self.shards.len()).for_each(|shard| self.turn(shard));
            while !self.questions.is_empty() {
                self.question();
            }
            self.desk.commit(usize::MAX, seconds(self.tick));
            while self.desk.waiting().1 > 0 {
                self.acknowledge();
            }
            self.end_office_turn();
            let is_empty = self.inboxes.iter().all(VecDeque::is_empty) && self.desk.waiting() == (0, 0);
            let posts = self.shards.iter_mut().all(|shard| shard.post().is_empty());
            if is_empty && posts && is_done(&self.office) {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// What shards and office have to do is done; the log does nothing.
    pub(crate) fn carry(&mut self) {
        for _ in 0..20 {
            (0..self.shards.len()).for_each(|shard| self.turn(shard));
            while !self.questions.is_empty() {
                self.question();
            }
            self.end_office_turn();
        }
    }

    /// How many records a turn of the office looks at for readers.
    pub(crate) fn set_share(&mut self, records: usize) {
        self.office.set_reading_share(records);
    }

    /// One turn of everybody.
    pub(crate) fn turn_once(&mut self) {
        (0..self.shards.len()).for_each(|shard| self.turn(shard));
        while !self.questions.is_empty() {
            self.question();
        }
        self.desk.commit(usize::MAX, seconds(self.tick));
        while self.desk.waiting().1 > 0 {
            self.acknowledge();
        }
        self.end_office_turn();
    }

    fn question(&mut self) {
        if let Some(ask) = self.questions.pop_front() {
            let now = self.now();
            self.office.ask(ask, now);
        }
    }

    fn acknowledge(&mut self) {
        if let Some(ack) = self.desk.next_ack() {
            let now = self.now();
            self.office.acknowledged(&ack, now);
        }
    }

    fn end_office_turn(&mut self) {
        let now = self.now();
        let Self { office, inboxes, answers, .. } = self;
        office.settle(now);
        answers.extend(office.take_answers().map(|answer| (answer.id, answer.answer)));
        office.drain_mail(|to, mail| {
            inboxes[usize::from(to.0)].push_back(mail);
            Ok(())
        });
    }

    fn turn(&mut self, at: usize) {
        self.begin(at);
        while let Some(mail) = self.inboxes[at].pop_front() {
            self.shards[at].receive(mail);
        }
        self.shards[at].settle();
        self.post(at);
        let _ = self.shards[at].finish(&mut self.wire);
        self.post(at);
        self.hear();
    }

    fn post(&mut self, at: usize) {
        let Self { shards, inboxes, answers, questions, .. } = self;
        let count = shards.len();
        let post = shards[at].post();
        for to in (0..count).filter(|to| *to != at) {
            post.drain_to(ShardId(to as u16), |mail| {
                inboxes[to].push_back(mail);
                Ok(())
            });
        }
        post.drain_answers(|answer| {
            let before = answers.insert(answer.id, answer.answer);
            assert!(before.is_none(), "two answers to one call");
            Ok(())
        });
        post.drain_store(|ask| {
            questions.push_back(ask);
            Ok(())
        });
    }

    fn now(&self) -> Now {
        Now { tick: Tick(self.tick), unix_ms: BIRTH * 1000 + u64::from(self.tick) * 100 }
    }

    fn begin(&mut self, shard: usize) {
        let now = self.now();
        self.shards[shard].begin(now);
    }

    /// Clients read what was written.
    fn hear(&mut self) {
        for (socket, bytes) in self.wire.written.drain() {
            let Some(peer) = self.peers.get_mut(&socket) else { continue };
            peer.pending.extend_from_slice(&bytes);
            for payload in frames(peer) {
                let lines = payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                let messages = lines.map(|line| serde_json::from_slice(line).expect("JSON"));
                peer.inbox.extend(messages.filter(|message| *message != serde_json::json!({})));
            }
        }
        for socket in std::mem::take(&mut self.wire.closed) {
            assert!(!self.peers.contains_key(&socket), "the server closed a connection");
        }
    }
}

fn is_done(office: &Office<Desk>) -> bool {
    office.is_idle() && !office.is_reading() && office.letters() == 0
}

fn seconds(tick: u32) -> u32 {
    BIRTH as u32 + tick / 10
}

/// Takes the text frames off what a client received.
fn frames(peer: &mut Peer) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    if !peer.upgraded
        && let Some(end) = peer.pending.windows(4).position(|window| window == b"\r\n\r\n")
    {
        assert!(peer.pending.starts_with(b"HTTP/1.1 101"));
        peer.pending.drain(..end + 4);
        peer.upgraded = true;
    }
    while peer.upgraded && peer.pending.len() >= 2 {
        let (head, length) = match peer.pending[1] {
            126 => (4, usize::from(u16::from_be_bytes([peer.pending[2], peer.pending[3]]))),
            127 => (10, u64::from_be_bytes(peer.pending[2..10].try_into().expect("ten bytes")) as usize),
            short => (2, usize::from(short)),
        };
        if peer.pending.len() < head + length {
            break;
        }
        assert_eq!(peer.pending[0], 0x81, "text frames only");
        found.push(peer.pending.drain(..head + length).skip(head).collect());
    }
    found
}
