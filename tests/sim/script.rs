//! The script: what clients, the server API and the operator do, drawn from a seed, and the checks at its pauses.

use std::collections::{BTreeMap, BTreeSet};

use millpond::base::rng::Rng;
use millpond::hub::api::{ApiAnswer, ApiCommand, ApiPublish, ApiSubscribe, Target};
use millpond::hub::mail::Mail;
use millpond::hub::settings::PersonalChannel;
use millpond::protocol::Encoding;

use crate::client::{Client, End};
use crate::hub::{settings, token};
use crate::ledger::{Ledger, has_history};
use crate::world::World;

const CHANNELS: &[&str] = &["room", "lobby", "hist:a", "hist:b", "short:a", "quiet:a", "quiet:b"];
const CROWDED: &[&str] = &["quiet:a", "hist:a"];
const USERS: &[&str] = &["", "ann", "bob", "cat", "dan"];

/// Ticks from a ping to its pong's deadline.
const PONG_TICKS: u32 = 80;
/// Ticks for which a closing socket waits for its peer.
const LINGER_TICKS: u32 = 10;

/// One play: a world, clients, a ledger.
struct Play {
    world: World,
    rng: Rng,
    clients: Vec<Client>,
    ledger: Ledger,
    tokens: BTreeMap<&'static str, String>,
    /// Publications by the server API whose answer has not come.
    calls: Vec<(u64, u64)>,
    /// Much of what is published is long.
    is_loud: bool,
    /// Hundreds of clients in two channels.
    is_crowd: bool,
}

#[test]
fn seeds() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let first = number("SEED").unwrap_or(0);
    let count = number("SEEDS").unwrap_or(if number("SEED").is_some() { 1 } else { 1000 });
    let mut ends = BTreeMap::new();
    for seed in first..first + count {
        let played = std::panic::catch_unwind(|| play(seed));
        match played {
            Ok(ledger) => {
                for (end, times) in ledger.ends {
                    *ends.entry(end).or_insert(0) += times;
                }
            }
            Err(panic) => {
                eprintln!("SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{count} seeds from {first} on; connections ended: {ends:?}");
}

fn play(seed: u64) -> Ledger {
    let mut play = Play::new(seed);
    play.raise_witness();
    if play.is_crowd {
        (1..play.clients.len()).for_each(|at| play.dial(at));
    }
    let steps = play.rng.between(60, 200);
    for _ in 0..steps {
        play.act();
        let ticks = play.rng.below(4);
        play.step(ticks);
    }
    play.quiet();
    if play.rng.below(3) == 0 {
        for _ in 0..30 {
            play.act();
            play.step(1);
        }
        play.quiet();
    }
    play.curtain();
    play.ledger
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let shards = [1, 2, 3, 8][rng.below(4) as usize];
        let mut settings = settings();
        settings.client.user_connection_limit = [0, 0, 2][rng.below(3) as usize];
        let single_connection = rng.below(2) == 0;
        let personal = PersonalChannel { namespace: String::new(), single_connection };
        settings.client.personal_channel = Some(personal).filter(|_| rng.below(3) == 0);
        let mut world = World::new(seed, shards, settings);
        world.lag = rng.below(5);
        // Few, so that inboxes are often full; for a crowd that would be standstill.
        world.room = if seed % 100 == 99 { 1000 } else { [8, 50, 1000][rng.below(3) as usize] };
        let most = if rng.below(5) == 0 { 40 } else { 12 };
        // Enough for sweeps that take more than a turn.
        let is_crowd = seed % 100 == 99;
        let extras = if is_crowd { 300 } else { rng.between(2, most) };
        let mut clients = vec![Client::new("witness", Encoding::Json, true)];
        for _ in 0..extras {
            let encoding = if rng.below(2) == 0 { Encoding::Json } else { Encoding::Protobuf };
            let users = if is_crowd { &USERS[..1] } else { USERS };
            clients.push(Client::new(users[rng.below(users.len() as u32) as usize], encoding, false));
        }
        let tokens = USERS.iter().chain(&["witness"]).map(|user| {
            let claims = if user.is_empty() { "{}".to_owned() } else { format!(r#"{{"sub":"{user}"}}"#) };
            (*user, token(&claims))
        });
        let (tokens, ledger, calls) = (tokens.collect(), Ledger::default(), Vec::new());
        let is_loud = rng.below(4) == 0;
        Self { world, tokens, rng, clients, ledger, calls, is_loud, is_crowd }
    }

    /// The witness subscribes to everything before anybody else comes.
    fn raise_witness(&mut self) {
        self.dial(0);
        for channel in CHANNELS {
            self.command(0, |client, _| client.subscribe(channel, 0));
        }
        while !self.clients[0].is_answered() {
            self.step(0);
        }
    }

    /// Time, a turn of the shards, and what clients do by themselves.
    fn step(&mut self, ticks: u32) {
        self.world.tick += ticks;
        self.world.turn();
        let Self { world, clients, rng, ledger, .. } = self;
        for client in clients.iter_mut().filter(|client| client.is_up()) {
            let now = world.tick;
            let pipe = world.nets[client.shard].pipe(client.socket);
            client.read(pipe, rng, ledger, now);
            check_pong(client, pipe, now);
        }
        self.world
            .sweep_pipes(|socket| clients.iter().any(|client| client.is_up() && client.socket == socket));
        self.calls.retain(|(id, number)| match self.world.answer(*id) {
            Some(ApiAnswer::Published(_)) => {
                self.ledger.accept(*number);
                false
            }
            Some(other) => panic!("{other:?} to a publish"),
            None => true,
        });
    }

    fn act(&mut self) {
        for _ in 0..self.rng.between(1, 3) {
            let at = self.rng.below(self.clients.len() as u32 - 1) as usize + 1;
            if !self.clients[at].is_up() {
                if self.rng.below(2) == 0 {
                    self.dial(at);
                }
            } else {
                self.act_connected(at);
            }
        }
        if self.rng.below(6) == 0 {
            self.act_api();
        }
    }

    fn act_connected(&mut self, at: usize) {
        let channel = self.a_channel();
        match self.rng.below(40) {
            0..=9 if !self.clients[at].wanted.contains(channel) => {
                let flag = if self.rng.below(5) == 0 { 2 } else { 0 };
                self.command(at, |client, _| client.subscribe(channel, flag));
            }
            0..=9 => {}
            10..=14 => self.command(at, |client, _| client.unsubscribe(channel)),
            15..=27 => {
                let padding = self.padding(60_000);
                self.command(at, |client, ledger| {
                    let (number, data) = ledger.publish(channel, padding);
                    client.publish(channel, number, &data)
                });
            }
            28 => self.loop_subscriptions(at, channel),
            29 => self.command(at, |client, _| client.presence("room")),
            30 => self.command(at, |client, _| client.history("hist:a", -1)),
            31 => self.lose(at, "FIN", |pipe| pipe.finish()),
            32 => self.lose(at, "RST", |pipe| pipe.reset()),
            33 => self.say_goodbye(at),
            34 => self.clients[at].answers = false,
            35 => {
                self.clients[at].was_slow = true;
                self.pipe(at).room = 2000;
            }
            36 => {
                (self.clients[at].reads, self.clients[at].was_slow) = (false, true);
                self.pipe(at).room = 5000;
            }
            37 => {
                self.clients[at].reads = true;
                self.pipe(at).room = crate::net::SEND_BUFFER;
            }
            _ => {}
        }
    }

    /// Subscribe, unsubscribe and subscribe again in one frame, as client libraries do.
    fn loop_subscriptions(&mut self, at: usize, channel: &str) {
        let Self { world, clients, rng, .. } = self;
        let client = &mut clients[at];
        let mut commands = Vec::new();
        for _ in 0..rng.between(1, 4) {
            let was = client.wanted.contains(channel);
            commands.push(if was { client.unsubscribe(channel) } else { client.subscribe(channel, 0) });
        }
        let pipe = world.nets[client.shard].pipe(client.socket);
        client.send(pipe, rng, &commands);
    }

    fn act_api(&mut self) {
        let channel = self.a_channel().to_owned();
        let user = USERS[self.rng.below(USERS.len() as u32) as usize].to_owned();
        let target = Target { user, ..Target::default() };
        let shards = 0..self.world.shards.len();
        match self.rng.below(10) {
            0 => {
                for shard in shards {
                    let (code, reason) = (4001, "by order".to_owned());
                    let target = target.clone();
                    let whitelist = Vec::new();
                    self.world.call(shard, ApiCommand::Disconnect { target, whitelist, code, reason });
                }
            }
            1 | 2 => {
                let call = ApiSubscribe { target, channel, ..ApiSubscribe::default() };
                for shard in shards {
                    self.world.call(shard, ApiCommand::Subscribe(Box::new(call.clone())));
                }
            }
            3 | 4 => {
                for shard in shards {
                    let (target, channel) = (target.clone(), channel.clone());
                    self.world.call(shard, ApiCommand::Unsubscribe { target, channel });
                }
            }
            _ => {
                let padding = self.padding(150_000);
                let (number, data) = self.ledger.publish(&channel, padding);
                let home = self.world.home(&channel);
                let publish = ApiPublish { channel, data: data.into(), ..ApiPublish::default() };
                let id = self.world.call(home, ApiCommand::Publish(Box::new(publish)));
                self.calls.push((id, number));
            }
        }
    }

    /// Everybody reads, answers come; then all must be as the model says.
    fn quiet(&mut self) {
        for client in &mut self.clients {
            client.reads = true;
            if client.is_up() {
                self.world.nets[client.shard].pipe(client.socket).room = usize::MAX;
            }
        }
        let mut still = 0;
        while still < 3 {
            self.world.settle();
            self.step(0);
            still = if self.is_still() { still + 1 } else { 0 };
        }
        assert!(self.calls.is_empty(), "calls without an answer");
        self.check_presence();
        self.check_users();
        self.check_tops();
        for client in &self.clients {
            client.settle(&mut self.ledger);
        }
        self.ledger.audit();
    }

    /// Nobody has anything to read or waits for an answer.
    fn is_still(&self) -> bool {
        self.clients.iter().filter(|client| client.is_up()).all(|client| {
            let pipe = &self.world.nets[client.shard].pipes[&client.socket];
            client.is_answered() && pipe.outbound.is_empty() && pipe.inbound.is_empty()
        })
    }

    fn check_presence(&mut self) {
        for channel in CHANNELS.iter().filter(|channel| !channel.contains(':') || channel.starts_with("hist"))
        {
            let up = self.clients.iter().filter(|client| client.active().any(|active| active == *channel));
            let members: BTreeMap<String, String> =
                up.filter_map(|client| Some((client.id.clone()?, client.user.clone()))).collect();
            let users: BTreeSet<&String> = members.values().collect();
            let users = users.len();
            let home = self.world.home(channel);
            let channel = (*channel).to_owned();
            let answer = self.world.ask(home, ApiCommand::Presence { channel: channel.clone() });
            let ApiAnswer::Presence(present) = answer else { panic!("{answer:?}") };
            let count = present.len();
            let present: BTreeMap<String, String> =
                present.into_iter().map(|member| (member.client, member.user)).collect();
            assert_eq!(present.len(), count, "{channel}: somebody is present twice");
            assert_eq!(present, members, "{channel}");
            let answer = self.world.ask(home, ApiCommand::PresenceStats { channel: channel.clone() });
            let ApiAnswer::PresenceStats { num_clients, num_users } = answer else { panic!("{answer:?}") };
            assert_eq!((num_clients as usize, num_users as usize), (members.len(), users), "{channel}");
            if !channel.contains(':') {
                let heard = self.clients[0].present.get(&channel).cloned().unwrap_or_default();
                let ids: BTreeSet<String> = members.into_keys().collect();
                assert_eq!(heard, ids, "{channel}: joins and leaves do not add up");
            }
        }
    }

    /// As many sessions of each user as may be, each in its personal channel.
    fn check_users(&mut self) {
        let client = &self.world.common.settings.client;
        let personal = client.personal_channel.as_ref();
        let most = match client.user_connection_limit {
            _ if personal.is_some_and(|personal| personal.single_connection) => 1,
            0 => usize::MAX,
            limit => limit as usize,
        };
        let mut sessions: BTreeMap<&str, usize> = BTreeMap::new();
        for client in self.clients.iter().filter(|client| client.is_up() && !client.user.is_empty()) {
            *sessions.entry(&client.user).or_default() += 1;
            let own = format!("#{}", client.user);
            assert_eq!(client.active().any(|channel| channel == own), personal.is_some(), "{own}");
            assert!(personal.is_none() || client.heard_itself(&own), "{own}");
        }
        assert!(sessions.values().all(|count| *count <= most), "{sessions:?}, at most {most}");
    }

    /// Subscribers of channels with history have got all there is.
    fn check_tops(&mut self) {
        for channel in CHANNELS.iter().filter(|channel| has_history(channel)) {
            let command =
                ApiCommand::History { channel: (*channel).to_owned(), limit: 0, since: None, reverse: false };
            let answer = self.world.ask(self.world.home(channel), command);
            let ApiAnswer::History { position, .. } = answer else { panic!("{answer:?}") };
            for next in self.clients.iter().filter_map(|client| client.next_offset(channel)) {
                assert_eq!(next, position.offset + 1, "{channel}: the end is missing");
            }
        }
    }

    /// Everybody goes, each in a way of its own; nothing may stay behind.
    fn curtain(&mut self) {
        if self.rng.below(3) == 0 {
            for shard in 0..self.world.shards.len() {
                self.world.tell(shard, Mail::Drain { window_ticks: self.rng.below(50) });
            }
        }
        for at in 0..self.clients.len() {
            if !self.clients[at].is_up() {
                continue;
            }
            match self.rng.below(5) {
                0 => self.say_goodbye(at),
                1 => self.lose(at, "FIN", |pipe| pipe.finish()),
                2 => self.lose(at, "RST", |pipe| pipe.reset()),
                3 => self.clients[at].answers = false,
                _ => self.clients[at].reads = false,
            }
        }
        for _ in 0..220 {
            self.step(2);
        }
        for (at, shard) in self.world.shards.iter().enumerate() {
            assert_eq!(shard.leftovers(), [], "shard {at}");
        }
        assert_eq!(self.world.common.admission.connections(), 0);
        self.world.sweep_pipes(|_| false);
        assert!(self.world.nets.iter().all(|net| net.pipes.is_empty()), "a socket was never closed");
    }

    fn dial(&mut self, at: usize) {
        let shard = self.rng.below(self.world.shards.len() as u32) as usize;
        let socket = self.world.dial(shard);
        let Self { world, clients, rng, tokens, is_crowd, .. } = self;
        let client = &mut clients[at];
        client.begin(shard, socket);
        let pipe = world.nets[shard].pipe(socket);
        client.upgrade(pipe);
        let mut commands = vec![client.connect(tokens[client.user.as_str()].clone())];
        for channel in CHANNELS.iter().filter(|_| at > 0) {
            let wants = if *is_crowd { CROWDED.contains(channel) } else { rng.below(4) == 0 };
            if wants {
                commands.push(client.subscribe(channel, 0));
            }
        }
        client.send(pipe, rng, &commands);
    }

    fn command(
        &mut self,
        at: usize,
        make: impl FnOnce(&mut Client, &mut Ledger) -> millpond::protocol::client::Command,
    ) {
        let Self { world, clients, rng, ledger, .. } = self;
        let client = &mut clients[at];
        let command = make(client, ledger);
        client.send(world.nets[client.shard].pipe(client.socket), rng, &[command]);
    }

    fn say_goodbye(&mut self, at: usize) {
        let Self { world, clients, rng, ledger, .. } = self;
        let client = &mut clients[at];
        let mut out = Vec::new();
        crate::frames::frame(&mut out, rng, crate::frames::CLOSE, true, &1000_u16.to_be_bytes());
        let pipe = world.nets[client.shard].pipe(client.socket);
        pipe.send(&out);
        pipe.finish();
        client.over(End::Own("goodbye"), ledger);
    }

    fn lose(&mut self, at: usize, reason: &'static str, how: impl FnOnce(&mut crate::net::Pipe)) {
        how(self.pipe(at));
        self.clients[at].over(End::Own(reason), &mut self.ledger);
    }

    fn pipe(&mut self, at: usize) -> &mut crate::net::Pipe {
        let client = &self.clients[at];
        self.world.nets[client.shard].pipe(client.socket)
    }

    fn a_channel(&mut self) -> &'static str {
        let channels = if self.is_crowd { CROWDED } else { CHANNELS };
        channels[self.rng.below(channels.len() as u32) as usize]
    }

    fn padding(&mut self, most: u32) -> usize {
        match self.rng.below(if self.is_loud { 2 } else { 12 }) {
            0 => self.rng.below(most) as usize,
            1 => self.rng.below(6000) as usize,
            _ => 0,
        }
    }
}

/// A ping that was not answered ends the connection in time.
fn check_pong(client: &Client, pipe: &crate::net::Pipe, now: u32) {
    let is_ended = pipe.closed.is_some() || pipe.server_fin;
    if let Some(pinged_at) = client.pinged_at.filter(|_| !is_ended) {
        assert!(now < pinged_at + PONG_TICKS + LINGER_TICKS + 40, "no 3012 in time");
    }
    if client.end == Some(End::Closed(3012)) {
        assert!(client.pinged_at.is_some() || client.was_slow, "3012 although it answered all pings");
    }
}
