//! Shards and clients in virtual time: every tick, inputs go in, turns run until no mail is left, outputs come out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use millpond::base::hash::NameHash;
use millpond::base::ids::{Descriptor, ShardId};
use millpond::base::tick::{Now, Tick};
use millpond::config::{Layers, load};
use millpond::hub::admission::Admission;
use millpond::hub::api::{ApiAnswer, ApiCommand};
use millpond::hub::auth::Verifier;
use millpond::hub::events::{Event as ToBackend, EventKinds};
use millpond::hub::mail::{ApiAsk, Mail};
use millpond::hub::settings::Settings;
use millpond::hub::shard::{Common, Shard};
use millpond::hub::sockets::{Sockets, Written};
use millpond::hub::store::StoreAsk;
use serde_json::Value;

const SECRET: &str = "the secret of the presence tests, long enough";
/// Wall clock of tick 0.
pub(crate) const EPOCH_MS: u64 = 1_790_000_000_000;

/// What the shards wrote and closed, by descriptor.
#[derive(Default)]
struct Wire {
    written: HashMap<i32, Vec<u8>>,
    writes: Vec<i32>,
    half_closed: Vec<i32>,
    closed: Vec<i32>,
}

impl Sockets for Wire {
    fn write(&mut self, socket: Descriptor, bytes: &[u8]) -> Written {
        self.writes.push(socket.0);
        self.written.entry(socket.0).or_default().extend_from_slice(bytes);
        Written::Bytes(bytes.len())
    }

    fn close(&mut self, socket: Descriptor, _: bool) {
        self.closed.push(socket.0);
    }

    fn shutdown_write(&mut self, socket: Descriptor) {
        self.half_closed.push(socket.0);
    }

    fn hand_over(&mut self, socket: Descriptor, _: &[u8]) {
        self.closed.push(socket.0);
    }

    fn peer(&self, socket: Descriptor) -> Option<std::net::SocketAddr> {
        Some(([192, 0, 2, 1], u16::try_from(socket.0).unwrap()).into())
    }
}

struct Client {
    shard: usize,
    slot: u32,
    generation: u32,
    upgraded: bool,
    /// The network is gone: nothing arrives on either side.
    cut: bool,
    /// Bytes the server sent that are no whole frame yet.
    pending: Vec<u8>,
    inbox: VecDeque<Value>,
}

/// What happened to a client without its doing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It answered a ping.
    Ponged(i32),
    /// The server closed it with this code.
    Closed(i32, u16),
}

pub(crate) struct World {
    shards: Vec<Shard>,
    wire: Wire,
    common: Arc<Common>,
    clients: BTreeMap<i32, Client>,
    answers: Vec<(u64, ApiAnswer)>,
    /// What backends are told.
    pub(crate) told: Vec<ToBackend>,
    pub(crate) tick: u32,
    /// Milliseconds of the present tick that have gone by.
    pub(crate) fine_ms: u64,
    /// Added to the wall clock.
    pub(crate) wall_ms: u64,
    next_socket: i32,
    next_id: u64,
    key: EncodingKey,
}

impl World {
    /// Shards with this configuration beside the token secret.
    pub(crate) fn new(shards: u16, configuration: &str) -> Self {
        Self::with_events(shards, configuration, EventKinds::default())
    }

    /// The same, and backends want events of these kinds.
    pub(crate) fn with_events(shards: u16, configuration: &str, events: EventKinds) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("millpond.toml");
        let text = format!("client.token.hmac_secret_key = \"{SECRET}\"\n{configuration}");
        std::fs::write(&file, text).unwrap();
        let config = load(&Layers { file: Some(file), ..Layers::default() }).unwrap();
        let client = &config.settings.client;
        let common = Arc::new(Common {
            shards,
            secret: [3; 16],
            admission: Admission::default(),
            connection_tokens: Verifier::new(&client.token).unwrap(),
            subscription_tokens: Verifier::new(&client.token).unwrap(),
            settings: Settings { events, ..config.settings.clone() },
        });
        let shards = (0..shards).map(|id| Shard::new(ShardId(id), Arc::clone(&common), u64::from(id)));
        Self {
            shards: shards.collect(),
            wire: Wire::default(),
            common,
            clients: BTreeMap::new(),
            answers: Vec::new(),
            told: Vec::new(),
            tick: 1000,
            fine_ms: 0,
            wall_ms: EPOCH_MS,
            next_socket: 1,
            next_id: 1,
            key: EncodingKey::from_secret(SECRET.as_bytes()),
        }
    }

    /// Opens a connection of `user` on a shard and connects; the replies come with the next [`Self::run`].
    pub(crate) fn connect(&mut self, shard: usize, user: &str) -> i32 {
        let claims = serde_json::json!({ "sub": user });
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key).unwrap();
        let socket = self.next_socket;
        self.next_socket += 1;
        self.begin(shard);
        let (slot, generation) = self.shards[shard].accept(Descriptor(socket), 0);
        let mut request = b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Version: 13\r\n\r\n"
            .to_vec();
        self.shards[shard].input(slot, &mut request);
        let client = Client {
            shard,
            slot,
            generation,
            upgraded: false,
            cut: false,
            pending: Vec::new(),
            inbox: VecDeque::new(),
        };
        self.clients.insert(socket, client);
        self.send(socket, &serde_json::json!({ "id": 1, "connect": { "token": token } }));
        socket
    }

    /// A command, or several, in one frame.
    pub(crate) fn send(&mut self, socket: i32, command: &Value) {
        self.frame(socket, 0x81, command.to_string().as_bytes());
    }

    /// A close frame with a code, or none.
    pub(crate) fn close(&mut self, socket: i32, code: Option<u16>) {
        self.frame(socket, 0x88, &code.map(|code| code.to_be_bytes().to_vec()).unwrap_or_default());
        self.clients.remove(&socket);
    }

    /// The client's process dies: FIN without a close frame, or (true) RST.
    pub(crate) fn kill(&mut self, socket: i32, reset: bool) {
        let Some(client) = self.clients.remove(&socket) else { return };
        self.begin(client.shard);
        let shard = &mut self.shards[client.shard];
        if shard.is_current(client.slot, client.generation) {
            if reset { shard.lose(client.slot) } else { shard.hang_up(client.slot) }
        }
    }

    /// The network between a client and the server is gone, for good.
    pub(crate) fn cut(&mut self, socket: i32) {
        self.clients.get_mut(&socket).unwrap().cut = true;
    }

    /// Asks every shard; the answers in the order of the shards.
    pub(crate) fn api(&mut self, command: &ApiCommand) -> Vec<ApiAnswer> {
        let first = self.next_id;
        for shard in 0..self.shards.len() {
            let mail = Mail::Api(Box::new(ApiAsk { id: self.next_id, command: command.clone() }));
            self.next_id += 1;
            self.begin(shard);
            self.shards[shard].receive(mail);
        }
        self.run();
        self.answers.sort_by_key(|(id, _)| *id);
        let answers: Vec<_> = self.answers.drain(..).collect();
        assert!(answers.iter().zip(first..).all(|((id, _), expected)| *id == expected));
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Asks the home of a channel.
    pub(crate) fn api_at_home(&mut self, channel: &str, command: &ApiCommand) -> Option<ApiAnswer> {
        let home = self.common.home_of_channel(&NameHash::new(self.common.secret), channel);
        self.ask(usize::from(home.0), command);
        self.run();
        self.answers.pop().map(|(_, answer)| answer)
    }

    /// The same, but only puts the question.
    pub(crate) fn put_at_home(&mut self, channel: &str, command: &ApiCommand) {
        let home = self.common.home_of_channel(&NameHash::new(self.common.secret), channel);
        self.ask(usize::from(home.0), command);
    }

    fn ask(&mut self, shard: usize, command: &ApiCommand) {
        self.begin(shard);
        let ask = ApiAsk { id: self.next_id, command: command.clone() };
        self.next_id += 1;
        self.shards[shard].receive(Mail::Api(Box::new(ask)));
    }

    /// Begins a drain on every shard.
    pub(crate) fn drain(&mut self, window_ticks: u32) {
        for shard in 0..self.shards.len() {
            self.begin(shard);
            self.shards[shard].receive(Mail::Drain { window_ticks });
        }
    }

    /// Messages that arrived at a client.
    pub(crate) fn inbox(&mut self, socket: i32) -> Vec<Value> {
        self.clients.get_mut(&socket).unwrap().inbox.drain(..).collect()
    }

    /// True until the server has closed the client's socket.
    pub(crate) fn is_open(&self, socket: i32) -> bool {
        self.clients.contains_key(&socket)
    }

    /// Runs turns within the present tick until nothing happens any more.
    pub(crate) fn run(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        // What this tick's inputs say goes before its deadlines, as in a reactor that takes its mail first.
        self.carry();
        loop {
            for shard in 0..self.shards.len() {
                self.begin(shard);
                self.shards[shard].settle();
                // What clients sent was read already.
                self.shards[shard].take_overdue(usize::MAX).for_each(drop);
                let _ = self.shards[shard].finish(&mut self.wire);
            }
            let mail = self.carry();
            let heard = self.hear();
            if mail == 0 && heard.is_empty() {
                return events;
            }
            events.extend(heard);
        }
    }

    /// One turn of every shard and the mail after it, without what clients answer: to whom was written, write by write.
    pub(crate) fn turn(&mut self) -> Vec<i32> {
        self.wire.writes.clear();
        for shard in 0..self.shards.len() {
            self.begin(shard);
            let _ = self.shards[shard].finish(&mut self.wire);
        }
        self.carry();
        self.hear();
        std::mem::take(&mut self.wire.writes)
    }

    /// The next tick.
    pub(crate) fn step(&mut self) -> Vec<Event> {
        self.tick += 1;
        self.fine_ms = 0;
        self.run()
    }

    fn begin(&mut self, shard: usize) {
        let unix_ms = self.wall_ms + u64::from(self.tick) * 100;
        let now_ms = u64::from(self.tick) * 100 + self.fine_ms;
        self.shards[shard].begin_at(Now { tick: Tick(self.tick), unix_ms }, now_ms);
    }

    fn frame(&mut self, socket: i32, opcode: u8, payload: &[u8]) {
        let Some(client) = self.clients.get(&socket).filter(|client| !client.cut) else { return };
        let (shard, slot, generation) = (client.shard, client.slot, client.generation);
        let mut bytes = match payload.len() {
            short @ ..126 => vec![opcode, 0x80 | short as u8],
            long => [&[opcode, 0x80 | 126][..], &u16::try_from(long).unwrap().to_be_bytes()].concat(),
        };
        // A mask of zeros leaves the payload as it is.
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(payload);
        self.begin(shard);
        if self.shards[shard].is_current(slot, generation) {
            self.shards[shard].input(slot, &mut bytes);
        }
    }

    fn carry(&mut self) -> usize {
        let mut letters: Vec<(usize, Mail)> = Vec::new();
        for from in 0..self.shards.len() {
            for to in 0..self.shards.len() {
                self.shards[from].post().drain_to(ShardId(to as u16), |mail| {
                    letters.push((to, mail));
                    Ok(())
                });
            }
            let answers = &mut self.answers;
            let told = &mut self.told;
            self.shards[from].post().drain_store(|ask| {
                let StoreAsk::Events(batch) = ask else { panic!("{ask:?}") };
                assert_eq!(batch.dropped, 0);
                told.extend(batch.events);
                Ok(())
            });
            self.shards[from].post().drain_answers(|answer| {
                answers.push((answer.id, answer.answer));
                Ok(())
            });
        }
        let count = letters.len();
        for (to, mail) in letters {
            self.begin(to);
            self.shards[to].receive(mail);
        }
        count
    }

    /// Clients read what was written and answer pings.
    fn hear(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut written: Vec<_> = self.wire.written.drain().collect();
        written.sort_unstable_by_key(|(socket, _)| *socket);
        for (socket, bytes) in written {
            let Some(client) = self.clients.get_mut(&socket) else { continue };
            client.pending.extend_from_slice(&bytes);
            let mut pings = 0;
            for (opcode, payload) in frames(client) {
                if opcode == 8 {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    events.push(Event::Closed(socket, code));
                    continue;
                }
                for line in payload.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    match serde_json::from_slice(line).unwrap() {
                        Value::Object(empty) if empty.is_empty() => pings += usize::from(!client.cut),
                        message if !client.cut => client.inbox.push_back(message),
                        _ => {}
                    }
                }
            }
            for _ in 0..pings {
                self.frame(socket, 0x81, b"{}");
                events.push(Event::Ponged(socket));
            }
        }
        for socket in std::mem::take(&mut self.wire.half_closed) {
            if self.clients.get(&socket).is_some_and(|client| !client.cut) {
                self.kill(socket, false);
            }
        }
        for socket in std::mem::take(&mut self.wire.closed) {
            self.clients.remove(&socket);
        }
        events
    }
}

/// Takes the whole frames off what a client received.
fn frames(client: &mut Client) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    if !client.upgraded
        && let Some(end) = client.pending.windows(4).position(|window| window == b"\r\n\r\n")
    {
        assert!(client.pending.starts_with(b"HTTP/1.1 101"));
        client.pending.drain(..end + 4);
        client.upgraded = true;
    }
    while client.upgraded && client.pending.len() >= 2 {
        let (head, length) = match client.pending[1] {
            126 if client.pending.len() >= 4 => {
                (4, usize::from(u16::from_be_bytes([client.pending[2], client.pending[3]])))
            }
            short => (2, usize::from(short)),
        };
        if client.pending.len() < head + length {
            break;
        }
        let opcode = client.pending[0] & 0x0f;
        let frame: Vec<u8> = client.pending.drain(..head + length).skip(head).collect();
        found.push((opcode, frame));
    }
    found
}
