//! The play: publishers, subscribers and readers at random over histories of several sizes, with failing disks, crashes
//! and restarts; everything that anybody hears is compared with what was heard before.

use std::collections::{BTreeMap, BTreeSet};

use millpond::hub::api::{ApiAnswer, ApiCommand, ApiError, ApiPublish, Position};
use millpond::hub::settings::Settings;
use millpond::log::error::StorageError;
use millpond::log::fake::Fault;
use serde_json::{Value, json};

use crate::world::{Ending, World};

/// Keeps more than the play publishes; keeps eight; keeps nothing on the disk.
const CHANNELS: [&str; 3] = ["all:a", "few:b", "hist:m"];
/// `history_size` of `few`.
const FEW: u64 = 8;
/// `recovery_max_publication_limit`.
const LIMIT: u64 = 30;

/// What everybody together knows of the streams.
#[derive(Default)]
struct Ledger {
    /// Data by channel, epoch and offset: it never changes, whatever happens.
    known: BTreeMap<(String, String, u64), String>,
    /// Epoch and highest offset that was acknowledged or heard, by channel.
    tops: BTreeMap<String, (String, u64)>,
    /// Data whose publisher was told that it is stored.
    stored: BTreeMap<String, BTreeSet<String>>,
    /// Data whose publisher was told that it is not: nobody hears it before the process ends.
    refused: BTreeSet<String>,
    pub(crate) deliveries: usize,
    pub(crate) recoveries: usize,
    pub(crate) refusals: usize,
}

impl Ledger {
    fn see(&mut self, channel: &str, epoch: &str, offset: u64, data: &str, context: &str) {
        assert!(!self.refused.contains(data), "{data} was refused and is heard: {context}");
        let known = self.known.entry((channel.into(), epoch.into(), offset)).or_insert_with(|| data.into());
        assert_eq!(known, data, "offset {offset} of {channel}: {context}");
        self.reach(channel, epoch, offset, context);
    }

    fn reach(&mut self, channel: &str, epoch: &str, offset: u64, context: &str) {
        let top = self.tops.entry(channel.into()).or_insert_with(|| (epoch.into(), offset));
        assert_eq!(top.0, epoch, "another epoch of {channel}: {context}");
        top.1 = top.1.max(offset);
    }
}

/// A subscription that stands.
struct Sub {
    next: u64,
    epoch: String,
}

enum Asked {
    Subscribe(usize, Option<(u64, String)>),
    Publish(usize, String),
    History(usize),
}

#[derive(Default)]
struct Client {
    socket: i32,
    next_id: u64,
    asked: BTreeMap<u64, Asked>,
    subs: BTreeMap<usize, Sub>,
    wanted: BTreeSet<usize>,
    /// Where it stopped, by channel.
    positions: BTreeMap<usize, (u64, String)>,
}

pub(crate) struct Play {
    world: World,
    ledger: Ledger,
    clients: Vec<Client>,
    calls: BTreeMap<u64, (usize, String)>,
    published: u64,
    seed: u64,
}

/// What a play has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) published: u64,
    pub(crate) deliveries: usize,
    pub(crate) recoveries: usize,
    pub(crate) refusals: usize,
}

/// Plays one seed.
pub(crate) fn play(seed: u64, settings: &Settings) -> Done {
    let shards = 1 + (seed % 4) as u16;
    let mut play = Play {
        world: World::new(seed, shards, settings),
        ledger: Ledger::default(),
        clients: (0..5).map(|_| Client::default()).collect(),
        calls: BTreeMap::new(),
        published: 0,
        seed,
    };
    for life in 0..4 {
        play.connect_all();
        for _ in 0..500 {
            play.act();
        }
        if life % 2 == 0 {
            play.rest();
        }
        play = play.crash();
    }
    play.connect_all();
    play.rest();
    Done {
        published: play.published,
        deliveries: play.ledger.deliveries,
        recoveries: play.ledger.recoveries,
        refusals: play.ledger.refusals,
    }
}

impl Play {
    fn context(&self) -> String {
        format!("seed {}, tick {}", self.seed, self.world.tick)
    }

    fn act(&mut self) {
        let client = self.world.rng.below(5) as usize;
        let channel = self.world.rng.below(3) as usize;
        match self.world.rng.below(40) {
            0..8 => self.publish_by_api(channel),
            8..12 => self.publish_by_client(client, channel),
            12..15 => self.subscribe(client, channel),
            15 => self.unsubscribe(client, channel),
            16 => self.history(client, channel),
            17 => self.reconnect(client),
            18 => self.fault(),
            19 => self.world.desk.maintain(self.world.seconds()),
            20 => self.world.tick += self.world.rng.below(10),
            _ => {}
        }
        for _ in 0..self.world.rng.below(4) {
            self.world.stir();
        }
        self.read_all();
    }

    fn publish_by_api(&mut self, channel: usize) {
        let data = self.data();
        let name = CHANNELS[channel].to_owned();
        let publish = ApiPublish { channel: name, data: data.clone().into(), ..ApiPublish::default() };
        let id = self.world.call(CHANNELS[channel], ApiCommand::Publish(Box::new(publish)));
        self.calls.insert(id, (channel, data));
    }

    fn data(&mut self) -> String {
        self.published += 1;
        let filler = "x".repeat(self.world.rng.below(300) as usize);
        format!("\"{}{filler}\"", self.published)
    }

    fn publish_by_client(&mut self, client: usize, channel: usize) {
        let data = self.data();
        let value: Value = serde_json::from_str(&data).expect("a string");
        let publish = json!({ "channel": CHANNELS[channel], "data": value });
        self.command(client, "publish", &publish, Asked::Publish(channel, data));
    }

    fn subscribe(&mut self, client: usize, channel: usize) {
        if !self.clients[client].wanted.insert(channel) {
            return;
        }
        let known = self.clients[client].positions.get(&channel).cloned();
        let mut command = json!({ "channel": CHANNELS[channel] });
        if let Some((offset, epoch)) = &known {
            command["recover"] = json!(true);
            command["offset"] = json!(offset);
            command["epoch"] = json!(epoch);
        }
        self.command(client, "subscribe", &command, Asked::Subscribe(channel, known));
    }

    fn unsubscribe(&mut self, client: usize, channel: usize) {
        // A client library unsubscribes once the answer to its subscribe command is there.
        let of = &mut self.clients[client];
        if let Some(sub) = of.subs.remove(&channel) {
            of.wanted.remove(&channel);
            of.positions.insert(channel, (sub.next - 1, sub.epoch));
            let id = 1000 + of.next_id;
            of.next_id += 1;
            let command = json!({ "id": id, "unsubscribe": { "channel": CHANNELS[channel] } });
            let socket = of.socket;
            self.world.send(socket, &command);
        }
    }

    fn history(&mut self, client: usize, channel: usize) {
        let command = json!({ "channel": CHANNELS[channel], "limit": 100 });
        self.command(client, "history", &command, Asked::History(channel));
    }

    fn command(&mut self, client: usize, name: &str, body: &Value, asked: Asked) {
        let of = &mut self.clients[client];
        of.next_id += 1;
        let id = 1000 + of.next_id;
        of.asked.insert(id, asked);
        let socket = of.socket;
        self.world.send(socket, &json!({ "id": id, name: body }));
    }

    fn reconnect(&mut self, client: usize) {
        let socket = self.clients[client].socket;
        self.world.drop_peer(socket);
        self.lose(client);
        self.clients[client].socket = self.world.connect();
    }

    /// What a client knows once its connection is gone.
    fn lose(&mut self, client: usize) {
        let of = &mut self.clients[client];
        for (channel, sub) in std::mem::take(&mut of.subs) {
            of.positions.insert(channel, (sub.next - 1, sub.epoch));
        }
        of.asked.clear();
        of.wanted.clear();
    }

    fn connect_all(&mut self) {
        for client in 0..self.clients.len() {
            self.clients[client].socket = self.world.connect();
        }
    }

    fn fault(&mut self) {
        let disk = self.world.desk.disk();
        match self.world.rng.below(3) {
            0 => disk.inject(Fault::Sync(StorageError::Device), 0),
            1 => disk.inject(Fault::Write { written: 512, error: StorageError::DiskFull }, 0),
            _ => disk.inject(Fault::Create(StorageError::DiskFull), 0),
        }
    }

    /// Publishers that were not answered do not know; those that were refused know nothing for sure from now on.
    fn crash(mut self) -> Self {
        for client in 0..self.clients.len() {
            self.lose(client);
        }
        let ending = if self.world.rng.below(2) == 0 { Ending::Killed } else { Ending::PowerCut };
        let ledger = Ledger { refused: BTreeSet::new(), ..self.ledger };
        let mut play = Self { world: self.world.restart(ending), ledger, calls: BTreeMap::new(), ..self };
        // What is in memory only begins anew, with another epoch.
        play.ledger.tops.remove(CHANNELS[2]);
        play.ledger.stored.remove(CHANNELS[2]);
        play.check_histories();
        play
    }

    /// Everything comes to rest: nobody misses anything, and the histories are what was acknowledged.
    fn rest(&mut self) {
        self.world.settle();
        self.read_all();
        assert!(self.calls.is_empty() && self.clients.iter().all(|client| client.asked.is_empty()));
        self.check_histories();
        for (number, client) in self.clients.iter().enumerate() {
            for (channel, sub) in &client.subs {
                let top = self.ledger.tops.get(CHANNELS[*channel]).map_or(0, |top| top.1);
                let context = self.context();
                assert_eq!(sub.next - 1, top, "client {number} in {}: {context}", CHANNELS[*channel]);
            }
        }
    }

    fn check_histories(&mut self) {
        for (channel, name) in CHANNELS.into_iter().enumerate() {
            let context = format!("history, {}", self.context());
            let (found, position) = self.whole_history(name);
            for (offset, data) in &found {
                self.ledger.see(name, &position.epoch, *offset, data, &context);
            }
            let (epoch, top) = self.ledger.tops.get(name).cloned().unwrap_or_default();
            if top > 0 {
                assert_eq!((&position.epoch, position.offset), (&epoch, top), "{name}: {context}");
            }
            let expected = if channel == 1 { position.offset.min(FEW) } else { position.offset.min(40) };
            let expected = if channel == 0 { position.offset } else { expected };
            assert_eq!(found.len() as u64, expected, "{name}: {context}");
            if channel == 0 {
                let found: BTreeSet<String> = found.into_values().collect();
                let stored = self.ledger.stored.get(name).cloned().unwrap_or_default();
                let lost: Vec<_> = stored.difference(&found).collect();
                assert!(lost.is_empty(), "{lost:?} lost: {context}");
            }
        }
    }

    /// All of a history, by pages of random length.
    fn whole_history(&mut self, name: &str) -> (BTreeMap<u64, String>, Position) {
        let mut found = BTreeMap::new();
        let mut since = None;
        loop {
            let limit = 1 + self.world.rng.below(20) as i32;
            let command = ApiCommand::History { channel: name.into(), limit, since, reverse: false };
            let ApiAnswer::History { publications, position } = self.world.ask(name, command) else {
                panic!("no history of {name}")
            };
            let Some(last) = publications.last().map(|publication| publication.offset) else {
                return (found, position);
            };
            for publication in publications {
                let data = String::from_utf8(publication.data.to_vec()).expect("text");
                assert!(found.insert(publication.offset, data).is_none(), "twice on two pages");
            }
            since = Some(Position { offset: last, epoch: position.epoch });
        }
    }

    fn read_all(&mut self) {
        for (id, (channel, data)) in std::mem::take(&mut self.calls) {
            match self.world.answer(id) {
                None => {
                    self.calls.insert(id, (channel, data));
                }
                Some(ApiAnswer::Published(Some(position))) => {
                    let context = format!("api, {}", self.context());
                    self.ledger.see(CHANNELS[channel], &position.epoch, position.offset, &data, &context);
                    self.ledger.stored.entry(CHANNELS[channel].into()).or_default().insert(data);
                }
                Some(ApiAnswer::Error(ApiError::StorageUnavailable)) if channel != 2 => {
                    self.ledger.refusals += 1;
                    self.ledger.refused.insert(data);
                }
                other => panic!("{other:?}: {}", self.context()),
            }
        }
        for client in 0..self.clients.len() {
            let socket = self.clients[client].socket;
            for message in self.world.inbox(socket) {
                self.hear(client, &message);
            }
        }
    }

    fn hear(&mut self, client: usize, message: &Value) {
        if let Some(push) = message.get("push") {
            let name = push["channel"].as_str().expect("a channel");
            if let Some(publication) = push.get("pub") {
                self.deliver(client, name, publication);
            }
            return;
        }
        let id = message["id"].as_u64().expect("a reply");
        let Some(asked) = self.clients[client].asked.remove(&id) else { return };
        let error = message.get("error").map(|error| error["code"].as_u64().expect("a code"));
        match asked {
            Asked::Subscribe(channel, since) => self.subscribed(client, channel, since, message, error),
            Asked::Publish(channel, data) => match error {
                None => {
                    self.ledger.stored.entry(CHANNELS[channel].into()).or_default().insert(data);
                }
                Some(code) => {
                    assert!(code == 100 && channel != 2, "{message}: {}", self.context());
                    self.ledger.refusals += 1;
                    self.ledger.refused.insert(data);
                }
            },
            Asked::History(channel) => {
                if error.is_some() {
                    assert!(error == Some(100) && channel != 2);
                    return;
                }
                let page = &message["history"];
                let epoch = page["epoch"].as_str().unwrap_or_default().to_owned();
                for publication in page["publications"].as_array().into_iter().flatten() {
                    let offset = publication["offset"].as_u64().expect("an offset");
                    let context = format!("client's history, {}", self.context());
                    let data = publication["data"].to_string();
                    self.ledger.see(CHANNELS[channel], &epoch, offset, &data, &context);
                }
            }
        }
    }

    fn subscribed(
        &mut self,
        client: usize,
        channel: usize,
        since: Option<(u64, String)>,
        message: &Value,
        error: Option<u64>,
    ) {
        let context = format!("{message}, {}", self.context());
        if let Some(code) = error {
            // The stream could not be begun: try again later.
            assert!(code == 100 && channel != 2, "{context}");
            self.clients[client].wanted.remove(&channel);
            return;
        }
        let reply = &message["subscribe"];
        let epoch = reply["epoch"].as_str().expect("an epoch").to_owned();
        let (offset, name) = (reply["offset"].as_u64().unwrap_or(0), CHANNELS[channel]);
        let recovered = reply["recovered"] == true;
        self.ledger.reach(name, &epoch, offset, &context);
        let missed = reply["publications"].as_array().cloned().unwrap_or_default();
        match since {
            Some((known, old)) if recovered => {
                assert_eq!((known, &old), (offset, &epoch), "{context}");
                self.ledger.recoveries += 1;
            }
            Some((known, old)) => {
                assert!(missed.is_empty());
                // Of `few` the disk may have lost already what newer ones, still unheard of, have replaced.
                let too_far = channel == 1 || offset.saturating_sub(known) > LIMIT;
                assert!(
                    too_far || channel == 2 && old != epoch,
                    "{name} from {known} could have been recovered: {context}"
                );
            }
            None => assert!(!recovered && missed.is_empty(), "{context}"),
        }
        self.clients[client].subs.insert(channel, Sub { next: offset + 1, epoch });
        for publication in missed {
            self.deliver(client, name, &publication);
        }
    }

    /// Without a gap, without a repetition.
    fn deliver(&mut self, client: usize, name: &str, publication: &Value) {
        let context = format!("client {client} in {name}, {publication}, {}", self.context());
        let channel = CHANNELS.iter().position(|channel| *channel == name).expect("a channel");
        let offset = publication["offset"].as_u64().expect("an offset");
        // What was under way when it unsubscribed.
        let Some(sub) = self.clients[client].subs.get_mut(&channel) else { return };
        assert_eq!(offset, sub.next, "{context}");
        sub.next += 1;
        let epoch = sub.epoch.clone();
        self.ledger.deliveries += 1;
        self.ledger.see(name, &epoch, offset, &publication["data"].to_string(), &context);
    }
}
