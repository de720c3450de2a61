//! Events for backends in virtual time over 1 to 8 shards (issue 4): replayed, they give the state that the server API
//! tells, whatever clients and networks do; nobody flaps inside the grace period; and nothing is made that nobody wants.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "user_presence/world.rs"]
#[allow(dead_code, reason = "each test file uses a part")]
mod world;

use std::collections::{BTreeMap, BTreeSet};

use millpond::base::rng::Rng;
use millpond::hub::api::{ApiAnswer, ApiCommand, ApiSubscribe, Target};
use millpond::hub::events::{EndedBy, Event, EventKind, EventKinds};
use serde_json::json;
use world::{EPOCH_MS, World};

const CONFIGURATION: &str = r#"
    user_presence.enabled = true
    user_presence.away_after = "90s"
    client.subscribe_to_user_personal_channel.enabled = true
    [[channel.namespaces]]
    name = "presence"
    allow_subscribe_for_client = true
    [[channel.namespaces]]
    name = "room"
    allow_subscribe_for_client = true
    presence = true
    [[channel.namespaces]]
    name = "log"
    allow_subscribe_for_client = true
    history_size = 10
    history_ttl = "60s"
    force_recovery = true
"#;

fn world(shards: u16) -> World {
    World::with_events(shards, CONFIGURATION, EventKinds::from_iter(EventKind::ALL))
}

fn pass(world: &mut World, ticks: u32) {
    for _ in 0..ticks {
        world.step();
    }
}

/// Kinds since the last look, with what they are about.
fn told(world: &mut World) -> Vec<(EventKind, String)> {
    let name = |event: Event| {
        let about = if event.channel.is_empty() { event.user.clone() } else { event.channel.clone() };
        (event.kind(), about)
    };
    world.told.drain(..).map(name).collect()
}

fn of_user(world: &mut World, user: &str) -> Vec<EventKind> {
    let all = told(world).into_iter();
    all.filter(|(kind, about)| *kind >= EventKind::Online && about == user).map(|(kind, _)| kind).collect()
}

/// What a backend knows that replays the events.
#[derive(Default)]
struct Backend {
    /// Client id to user.
    clients: BTreeMap<String, String>,
    past: BTreeSet<String>,
    subscriptions: BTreeSet<(String, String)>,
    occupied: BTreeSet<String>,
    users: BTreeMap<String, EventKind>,
    at_ms: u64,
    count: usize,
}

impl Backend {
    fn take(&mut self, event: &Event, seed: u64) {
        let context = || format!("seed {seed}: {event:?}");
        assert!(event.at_ms >= self.at_ms, "{}", context());
        self.at_ms = event.at_ms;
        self.count += 1;
        let client = event.client().map(|client| client.as_str().to_owned());
        let about = || (client.clone().unwrap(), event.channel.clone());
        match event.kind() {
            EventKind::Connected => {
                let client = client.unwrap();
                assert!(!self.past.contains(&client), "{}", context());
                assert!(self.clients.insert(client, event.user.clone()).is_none(), "{}", context());
            }
            EventKind::Disconnected => {
                let client = client.unwrap();
                assert_eq!(self.clients.remove(&client).as_ref(), Some(&event.user), "{}", context());
                assert!(self.subscriptions.iter().all(|(of, _)| *of != client), "{}", context());
                assert!(event.by() != EndedBy::Nobody && event.code >= 1000, "{}", context());
                self.past.insert(client);
            }
            EventKind::Subscribed => {
                assert_eq!(self.clients.get(&about().0), Some(&event.user), "{}", context());
                assert!(self.subscriptions.insert(about()), "{}", context());
            }
            EventKind::Unsubscribed => {
                assert_eq!(self.clients.get(&about().0), Some(&event.user), "{}", context());
                assert!(self.subscriptions.remove(&about()), "{}", context());
            }
            EventKind::Occupied => assert!(self.occupied.insert(event.channel.clone()), "{}", context()),
            EventKind::Vacated => assert!(self.occupied.remove(&event.channel), "{}", context()),
            state @ (EventKind::Online | EventKind::Away | EventKind::Offline) => {
                let before = self.users.insert(event.user.clone(), state).unwrap_or(EventKind::Offline);
                assert_ne!(before, state, "{}", context());
            }
            other => panic!("{other:?}"),
        }
    }

    /// The same as the server API says.
    fn check(&self, world: &mut World, users: &[String], seed: u64) {
        let mut clients = BTreeMap::new();
        let mut subscriptions = BTreeSet::new();
        let anonymous = std::iter::once("");
        for user in users.iter().map(String::as_str).chain(anonymous) {
            for answer in world.api(&ApiCommand::Connections { user: user.into() }) {
                let ApiAnswer::Connections(views) = answer else { panic!("{answer:?}") };
                for view in views {
                    clients.insert(view.client.clone(), user.to_owned());
                    subscriptions.extend(view.channels.into_iter().map(|name| (view.client.clone(), name)));
                }
            }
        }
        let mut occupied = BTreeSet::new();
        for answer in world.api(&ApiCommand::Channels { pattern: "".into(), limit: 1000, after: "".into() }) {
            let ApiAnswer::Channels(names) = answer else { panic!("{answer:?}") };
            occupied.extend(names.into_iter().map(|(name, _)| name));
        }
        assert_eq!(self.clients, clients, "seed {seed}, tick {}", world.tick);
        assert_eq!(self.subscriptions, subscriptions, "seed {seed}, tick {}", world.tick);
        assert_eq!(self.occupied, occupied, "seed {seed}, tick {}", world.tick);
    }
}

/// What one random run has done.
struct Run {
    world: World,
    rng: Rng,
    backend: Backend,
    open: Vec<i32>,
    users: Vec<String>,
    watchers: Vec<i32>,
    seed: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let shards = seed as u16 % 8 + 1;
        let users: Vec<String> = (0..12).map(|user| format!("u{user}")).chain(["w".to_owned()]).collect();
        let mut world = world(shards);
        let watchers = vec![world.connect(0, "w")];
        for (id, user) in (2..).zip(&users) {
            let channel = format!("presence:{user}");
            world.send(watchers[0], &json!({ "id": id, "subscribe": { "channel": channel } }));
        }
        world.run();
        let (rng, backend) = (Rng::new(seed), Backend::default());
        Self { world, rng, backend, open: Vec::new(), users, watchers, seed }
    }

    fn act(&mut self) {
        let Self { world, rng, open, users, .. } = self;
        open.retain(|socket| world.is_open(*socket));
        let user = users[rng.below(12) as usize].clone();
        let channel = ["room:a", "room:b", "log:c", "log:d", "room:e"][rng.below(5) as usize];
        let target = Target { user: user.clone(), ..Target::default() };
        let Some(place) = (!open.is_empty()).then(|| rng.below(open.len() as u32) as usize) else {
            return open.push(world.connect(0, &user));
        };
        let socket = open[place];
        let set =
            |state: &str| json!({ "id": 6, "rpc": { "method": "presence.set", "data": { "state": state } } });
        match rng.below(16) {
            0..=4 => {
                let shard = rng.below(self.seed as u32 % 8 + 1) as usize;
                open.push(world.connect(shard, &user));
            }
            5..=7 => world.send(socket, &json!({ "id": 7, "subscribe": { "channel": channel } })),
            8 => world.send(socket, &json!({ "id": 8, "unsubscribe": { "channel": channel } })),
            9 => world.send(socket, &set(if rng.below(2) == 0 { "away" } else { "online" })),
            10 => world.close(socket, [None, Some(1000), Some(4000)][rng.below(3) as usize]),
            11 => world.kill(socket, rng.below(2) == 0),
            12 => world.cut(socket),
            13 => {
                let code = [3503, 3000][rng.below(2) as usize];
                let (whitelist, reason) = (Vec::new(), "because".to_owned());
                world.api(&ApiCommand::Disconnect { target, whitelist, code, reason });
            }
            14 => drop(world.api(&ApiCommand::Unsubscribe { target, channel: channel.into() })),
            _ => {
                let call = ApiSubscribe { target, channel: channel.into(), ..ApiSubscribe::default() };
                world.api(&ApiCommand::Subscribe(Box::new(call)));
            }
        }
    }

    fn replay(&mut self) {
        for event in self.world.told.drain(..) {
            self.backend.take(&event, self.seed);
        }
    }

    /// Watchers are told the same states, up to a second later.
    fn check_states(&mut self) {
        let mut last = BTreeMap::new();
        for message in self.world.inbox(self.watchers[0]) {
            let initial = message["subscribe"]["publications"].as_array().into_iter().flatten();
            for data in
                initial.map(|publication| &publication["data"]).chain([&message["push"]["pub"]["data"]])
            {
                if let (Some(user), Some(state)) = (data["user"].as_str(), data["state"].as_str()) {
                    last.insert(user.to_owned(), state.to_owned());
                }
            }
        }
        for (user, state) in last {
            let told = self.backend.users.get(&user).map_or("offline", |kind| kind.name());
            assert_eq!(told, state, "seed {}, {user}, tick {}", self.seed, self.world.tick);
        }
    }
}

#[test]
fn replayed_events_give_the_state_that_the_server_api_tells() {
    let mut events = 0;
    for seed in 0..24 {
        let mut run = Run::new(seed);
        for round in 0..150 {
            for _ in 0..run.rng.below(6) {
                run.act();
            }
            run.world.run();
            let ticks = [0, 1, 3, 30, 400][run.rng.below(5) as usize];
            pass(&mut run.world, ticks);
            run.replay();
            run.backend.check(&mut run.world, &run.users, seed);
            run.replay();
            if round % 10 == 9 {
                pass(&mut run.world, 15);
                run.replay();
                run.check_states();
            }
        }
        run.world.drain(20);
        pass(&mut run.world, 100);
        run.replay();
        assert!(run.backend.clients.is_empty() && run.backend.subscriptions.is_empty(), "seed {seed}");
        assert!(run.backend.occupied.is_empty(), "seed {seed}");
        events += run.backend.count;
    }
    assert!(events > 10_000, "only {events} events");
}

#[test]
fn a_connection_tells_its_story_in_order() {
    let mut world = world(3);
    let bob = world.connect(1, "bob");
    world.send(bob, &json!({ "id": 2, "subscribe": { "channel": "room:a" } }));
    world.run();
    let mut all: Vec<Event> = std::mem::take(&mut world.told);
    all.retain(|event| event.client().is_some());
    let expected =
        [(EventKind::Connected, ""), (EventKind::Subscribed, "#bob"), (EventKind::Subscribed, "room:a")];
    assert_eq!(all.iter().map(|e| (e.kind(), e.channel.as_str())).collect::<Vec<_>>(), expected);
    let at_ms = EPOCH_MS + u64::from(world.tick) * 100;
    assert!(all.iter().all(|event| event.user == "bob" && event.at_ms == at_ms && event.by == 0));
    let client = all[0].client().unwrap();
    assert!(all.iter().all(|event| event.client() == Some(client)));
    let listed = world.api(&ApiCommand::Connections { user: "bob".into() });
    let is_listed = |answer: &ApiAnswer| matches!(answer, ApiAnswer::Connections(views) if views.iter().any(|v| v.client == client.as_str()));
    assert!(listed.iter().any(is_listed), "the id is the one that the server API and the client know");
    let target = Target { user: "bob".into(), ..Target::default() };
    world.api(&ApiCommand::Unsubscribe { target, channel: "room:a".into() });
    world.send(bob, &json!({ "id": 3, "subscribe": { "channel": "room:b" } }));
    world.send(bob, &json!({ "id": 4, "unsubscribe": { "channel": "room:b" } }));
    world.close(bob, Some(4001));
    world.run();
    let ended: Vec<_> = world.told.drain(..).filter(|event| event.by != 0).collect();
    let brief = |e: &Event| (e.kind(), e.channel.clone(), e.by(), e.code, e.reason.clone());
    let (none, gone) = (String::new(), EventKind::Unsubscribed);
    assert_eq!(
        ended.iter().map(brief).collect::<Vec<_>>(),
        [
            (gone, "room:a".into(), EndedBy::Server, 2000, "server unsubscribe".into()),
            (gone, "room:b".into(), EndedBy::Client, 0, none.clone()),
            (gone, "#bob".into(), EndedBy::Disconnect, 0, none.clone()),
            (EventKind::Disconnected, none.clone(), EndedBy::Client, 4001, none),
        ]
    );
}

#[test]
fn disconnects_say_who_ended_the_connection() {
    let mut world = world(2);
    let target = Target { user: "bob".into(), ..Target::default() };
    let mut ends = Vec::new();
    for way in 0..6 {
        let bob = world.connect(way % 2, "bob");
        world.run();
        match way {
            0 => world.close(bob, None),
            1 => world.kill(bob, false),
            2 => world.kill(bob, true),
            3 => world.cut(bob),
            4 => {
                let (whitelist, reason) = (Vec::new(), "out you go".to_owned());
                let target = target.clone();
                world.api(&ApiCommand::Disconnect { target, whitelist, code: 4444, reason });
            }
            _ => world.drain(0),
        }
        pass(&mut world, 400);
        let ended = world.told.drain(..).filter(|event| event.kind() == EventKind::Disconnected);
        ends.extend(ended.map(|event| (event.by(), event.code, event.reason)));
    }
    let expected = [
        (EndedBy::Client, 1005, ""),
        (EndedBy::Network, 1006, ""),
        (EndedBy::Network, 1006, ""),
        (EndedBy::Server, 3012, "no pong"),
        (EndedBy::Server, 4444, "out you go"),
        (EndedBy::Server, 3001, "shutdown"),
    ];
    assert_eq!(ends, expected.map(|(by, code, reason)| (by, code, reason.to_owned())));
}

#[test]
fn who_returns_within_grace_was_never_gone() {
    for shards in 1..=8 {
        let mut world = world(shards);
        let mut bob = world.connect(0, "bob");
        pass(&mut world, 5);
        assert_eq!(of_user(&mut world, "bob"), [EventKind::Online]);
        for round in 0..20 {
            world.kill(bob, round % 2 == 0);
            pass(&mut world, 599);
            bob = world.connect(round % usize::from(shards), "bob");
            world.run();
            world.send(bob, &json!({ "id": 2, "unsubscribe": { "channel": "room:x" } }));
            pass(&mut world, 5);
        }
        assert_eq!(of_user(&mut world, "bob"), [], "{shards} shards");
        world.kill(bob, true);
        pass(&mut world, 599);
        assert_eq!(of_user(&mut world, "bob"), []);
        world.step();
        assert_eq!(of_user(&mut world, "bob"), [EventKind::Offline], "{shards} shards");
        let again = world.connect(0, "bob");
        pass(&mut world, 900);
        assert_eq!(of_user(&mut world, "bob"), [EventKind::Online, EventKind::Away]);
        world.close(again, Some(1000));
        world.run();
        assert_eq!(of_user(&mut world, "bob"), [EventKind::Offline]);
    }
}

#[test]
fn only_wanted_kinds_are_made() {
    for kind in EventKind::ALL {
        let mut world = World::with_events(2, CONFIGURATION, EventKinds::from_iter([kind]));
        for shard in [0, 1] {
            let bob = world.connect(shard, "bob");
            world.run();
            pass(&mut world, 901);
            world.close(bob, Some(1000));
            pass(&mut world, 1);
        }
        let told = told(&mut world);
        assert_eq!(told.len(), 2, "{kind:?}: {told:?}");
        assert!(told.iter().all(|(of, _)| *of == kind));
    }
    let mut world = World::new(2, CONFIGURATION);
    let bob = world.connect(0, "bob");
    world.close(bob, None);
    world.run();
    assert!(world.told.is_empty());
}

#[test]
fn a_stopping_server_tells_disconnects_but_nobody_offline() {
    let mut world = world(4);
    for user in 0..40 {
        world.connect(user % 4, &format!("u{user}"));
    }
    pass(&mut world, 5);
    world.told.clear();
    world.drain(50);
    pass(&mut world, 100);
    let told = told(&mut world);
    let count = |kind: EventKind| told.iter().filter(|(of, _)| *of == kind).count();
    assert_eq!((count(EventKind::Disconnected), count(EventKind::Vacated)), (40, 40));
    assert_eq!((count(EventKind::Offline), count(EventKind::Away)), (0, 0));
}
