//! Who is online, away or offline, in virtual time over 1 to 8 shards (issue 4, acceptance 6): what watchers are told
//! equals a plain model, nobody flaps inside the grace period, and offline comes on time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "user_presence/model.rs"]
mod model;
#[path = "user_presence/world.rs"]
#[allow(dead_code, reason = "each test file uses a part")]
mod world;

use std::collections::HashMap;

use millpond::base::rng::Rng;
use millpond::hub::api::{ApiAnswer, ApiCommand, Target, UserState};
use model::{AWAY_AFTER, OFFLINE_AFTER, User};
use serde_json::{Value, json};
use world::{EPOCH_MS, Event, World};

const CONFIGURATION: &str = r#"
    user_presence.enabled = true
    user_presence.away_after = "90s"
    client.channel_limit = 1000
    [[channel.namespaces]]
    name = "presence"
    allow_subscribe_for_client = true
"#;

fn world(shards: u16) -> World {
    World::new(shards, CONFIGURATION)
}

/// A connection subscribed to the channels of these users.
fn watcher(world: &mut World, shard: usize, users: impl Iterator<Item = String>) -> i32 {
    let socket = world.connect(shard, "watcher");
    for (id, user) in (2..).zip(users) {
        world.send(socket, &json!({ "id": id, "subscribe": { "channel": format!("presence:{user}") } }));
    }
    world.run();
    socket
}

/// User and state of every publication that arrived, also with the subscription.
fn told(world: &mut World, socket: i32) -> Vec<(String, String)> {
    let mut told = Vec::new();
    for message in world.inbox(socket) {
        let push = &message["push"]["pub"]["data"];
        let initial = message["subscribe"]["publications"].as_array().into_iter().flatten();
        for data in
            initial.map(|publication| &publication["data"]).chain([push]).filter(|data| !data.is_null())
        {
            let text = |key: &str| data[key].as_str().unwrap().to_owned();
            told.push((text("user"), text("state")));
        }
    }
    told
}

fn states(world: &mut World, socket: i32) -> Vec<String> {
    told(world, socket).into_iter().map(|(_, state)| state).collect()
}

fn pass(world: &mut World, ticks: u32) {
    for _ in 0..ticks {
        world.step();
    }
}

fn get(world: &mut World, socket: i32, users: &[&str]) -> Value {
    world.inbox(socket);
    world.send(socket, &json!({ "id": 9, "rpc": { "method": "presence.get", "data": { "users": users } } }));
    world.run();
    world.inbox(socket).pop().unwrap()
}

#[test]
fn the_current_state_comes_with_the_subscription_and_each_change_once() {
    for shards in 1..=8 {
        let mut world = world(shards);
        let watcher = watcher(&mut world, 0, ["bob".to_owned()].into_iter());
        let replies = world.inbox(watcher);
        let subscribe = &replies.last().unwrap()["subscribe"];
        assert_eq!(
            subscribe,
            &json!({ "publications": [{ "data": { "user": "bob", "state": "offline" } }],
                     "recovered": true, "was_recovering": true })
        );
        pass(&mut world, 20);
        let last = usize::from(shards) - 1;
        let bob = world.connect(last, "bob");
        pass(&mut world, 20);
        assert_eq!(states(&mut world, watcher), ["online"]);
        world.close(bob, Some(1000));
        world.run();
        let messages = world.inbox(watcher);
        let seen = (EPOCH_MS / 1000) + u64::from(world.tick) / 10;
        let expected = json!({ "push": { "channel": "presence:bob", "pub": { "data":
            { "user": "bob", "state": "offline", "last_seen": seen } } } });
        assert_eq!(messages, [expected], "a goodbye is offline at once, {shards} shards");
        pass(&mut world, 700);
        assert_eq!(states(&mut world, watcher), Vec::<String>::new());
    }
}

#[test]
fn browsers_say_goodbye_without_a_code_and_other_codes_are_none() {
    let mut world = world(2);
    let watcher = watcher(&mut world, 0, ["bob".to_owned()].into_iter());
    for (code, is_goodbye) in [(None, true), (Some(1001), true), (Some(1000), true), (Some(1002), false)] {
        let bob = world.connect(1, "bob");
        pass(&mut world, 20);
        world.close(bob, code);
        pass(&mut world, 20);
        let told = states(&mut world, watcher);
        assert_eq!(told.last().unwrap() == "offline", is_goodbye, "{code:?}: {told:?}");
    }
}

#[test]
fn a_lost_session_is_away_for_questions_and_offline_on_the_tick() {
    let mut world = world(3);
    let watcher = watcher(&mut world, 0, ["bob".to_owned()].into_iter());
    let bob = world.connect(1, "bob");
    pass(&mut world, 20);
    world.kill(bob, true);
    world.run();
    let lost_at = world.tick;
    assert_eq!(states(&mut world, watcher), ["offline", "online"]);
    let reply = get(&mut world, watcher, &["bob"]);
    let seen = (EPOCH_MS / 1000) + u64::from(lost_at) / 10;
    assert_eq!(
        reply["rpc"]["data"]["users"]["bob"],
        json!({ "state": "away", "devices": 0, "last_seen": seen })
    );
    pass(&mut world, OFFLINE_AFTER - 1);
    assert_eq!(states(&mut world, watcher), Vec::<String>::new());
    world.step();
    assert_eq!(states(&mut world, watcher), ["offline"]);
}

#[test]
fn a_pulled_cable_counts_from_the_last_answered_ping() {
    let mut world = world(4);
    let watcher = watcher(&mut world, 0, ["bob".to_owned()].into_iter());
    let bob = world.connect(1, "bob");
    let mut sign = world.tick;
    for _ in 0..1200 {
        if world.step().contains(&Event::Ponged(bob)) {
            sign = world.tick;
        }
    }
    states(&mut world, watcher);
    world.cut(bob);
    while world.tick < sign + OFFLINE_AFTER {
        assert_eq!(states(&mut world, watcher), Vec::<String>::new(), "at {}", world.tick - sign);
        world.step();
    }
    assert_eq!(states(&mut world, watcher), ["offline"]);
}

#[test]
fn a_reconnect_within_the_grace_period_publishes_nothing() {
    let mut world = world(5);
    let watcher = watcher(&mut world, 0, ["bob".to_owned()].into_iter());
    let mut bob = world.connect(1, "bob");
    pass(&mut world, 20);
    assert_eq!(states(&mut world, watcher), ["offline", "online"]);
    for round in 0..6 {
        if round % 2 == 0 {
            world.kill(bob, round == 2);
        } else {
            world.cut(bob);
        }
        pass(&mut world, 540);
        bob = world.connect(2 + round % 3, "bob");
        pass(&mut world, 50);
    }
    assert_eq!(states(&mut world, watcher), Vec::<String>::new());
    world.close(bob, None);
    pass(&mut world, 1);
    assert_eq!(states(&mut world, watcher), ["offline"], "the session took the place of the lost one");
}

#[test]
fn idle_or_set_away_is_away_and_the_active_device_wins() {
    let mut world = world(2);
    let watcher = watcher(&mut world, 0, ["bob".to_owned()].into_iter());
    let (phone, desk) = (world.connect(0, "bob"), world.connect(1, "bob"));
    pass(&mut world, AWAY_AFTER - 1);
    assert_eq!(states(&mut world, watcher), ["offline", "online"]);
    world.step();
    assert_eq!(states(&mut world, watcher), ["away"]);
    world.send(phone, &json!({ "id": 5, "unsubscribe": { "channel": "presence:x" } }));
    pass(&mut world, 20);
    assert_eq!(states(&mut world, watcher), ["online"]);
    let set =
        |state: &str| json!({ "id": 6, "rpc": { "method": "presence.set", "data": { "state": state } } });
    world.send(phone, &set("away"));
    pass(&mut world, 20);
    assert_eq!(states(&mut world, watcher), ["away"]);
    world.send(phone, &json!({ "id": 7, "unsubscribe": { "channel": "presence:x" } }));
    pass(&mut world, 20);
    assert_eq!(states(&mut world, watcher), Vec::<String>::new(), "set away stays");
    world.send(desk, &set("online"));
    pass(&mut world, 20);
    assert_eq!(states(&mut world, watcher), ["online"]);
    assert_eq!(world.inbox(desk).last().unwrap(), &json!({ "id": 6, "rpc": { "data": {} } }));
    world.close(desk, Some(1000));
    pass(&mut world, 20);
    assert_eq!(states(&mut world, watcher), ["away"], "what is left is set away");
    world.send(phone, &set("sleeping"));
    world.run();
    assert_eq!(world.inbox(phone).last().unwrap()["error"]["code"], 107);
}

#[test]
fn flapping_is_told_once_a_second_at_most() {
    let mut world = world(3);
    let watcher = watcher(&mut world, 2, ["bob".to_owned()].into_iter());
    let bob = world.connect(1, "bob");
    pass(&mut world, 20);
    states(&mut world, watcher);
    for round in 0..1000 {
        let state = if round % 2 == 0 { "away" } else { "online" };
        world.send(bob, &json!({ "id": 6, "rpc": { "method": "presence.set", "data": { "state": state } } }));
        world.run();
        if round % 10 == 9 {
            world.step();
        }
    }
    pass(&mut world, 20);
    let told = states(&mut world, watcher);
    assert!((2..=12).contains(&told.len()), "{} in 10 s", told.len());
    assert_eq!(told.last().unwrap(), "online");
}

#[test]
fn a_stopping_server_shows_nobody_offline() {
    let mut world = world(4);
    let watcher = watcher(&mut world, 0, (0..50).map(|user| format!("u{user}")));
    for user in 0..50 {
        world.connect(user % 4, &format!("u{user}"));
    }
    pass(&mut world, 20);
    told(&mut world, watcher);
    world.drain(100);
    let mut told_last = Vec::new();
    while world.is_open(watcher) {
        told_last.extend(told(&mut world, watcher));
        world.step();
    }
    assert_eq!(told_last, []);
}

#[test]
fn backends_disconnect_for_good_or_for_a_while() {
    let mut world = world(3);
    let watcher = watcher(&mut world, 0, ["bob".to_owned()].into_iter());
    for (code, state) in [(3503, "offline"), (4500, "offline"), (3011, "online"), (4000, "online")] {
        world.connect(1, "bob");
        pass(&mut world, 20);
        states(&mut world, watcher);
        let target = Target { user: "bob".into(), ..Target::default() };
        world.api(&ApiCommand::Disconnect { target, whitelist: Vec::new(), code, reason: "because".into() });
        pass(&mut world, 20);
        let told = states(&mut world, watcher);
        assert_eq!(told.last().map_or("online", String::as_str), state, "{code}");
    }
}

#[test]
fn many_users_at_once_and_who_may_ask() {
    let mut world = world(8);
    for user in 0..20 {
        world.connect(user % 8, &format!("u{user}"));
    }
    let asker = world.connect(3, "asker");
    pass(&mut world, 20);
    let users: Vec<String> = (0..40).map(|user| format!("u{user}")).collect();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let reply = get(&mut world, asker, &names);
    let of = reply["rpc"]["data"]["users"].as_object().unwrap();
    let online = of.values().filter(|view| view["state"] == "online" && view["devices"] == 1).count();
    assert_eq!((of.len(), online), (40, 20));
    let answers = world.api(&ApiCommand::UserPresence { users: users.clone() });
    let mut views = HashMap::new();
    for answer in answers {
        let ApiAnswer::UserPresence(of) = answer else { panic!("{answer:?}") };
        views.extend(of);
    }
    assert_eq!(views.len(), 40);
    assert_eq!(views.values().filter(|view| view.state == UserState::Online).count(), 20);
    let many: Vec<&str> = std::iter::repeat_n("u1", 101).collect();
    assert_eq!(get(&mut world, asker, &many)["error"]["code"], 106);
    assert_eq!(get(&mut world, asker, &["caf\u{e9}"])["error"]["code"], 107, "no channel can be called so");
}

#[test]
fn sessions_of_a_user_are_listed_with_what_backends_want_to_know() {
    let mut world = world(3);
    let since: Vec<u64> = (0..3)
        .map(|shard| {
            world.connect(shard, "bob");
            pass(&mut world, 25);
            (EPOCH_MS + u64::from(world.tick - 25) * 100) / 1000
        })
        .collect();
    let first = watcher(&mut world, 0, ["x".to_owned(), "ann".to_owned()].into_iter());
    let listed = |world: &mut World, user: &str| -> Vec<_> {
        let answers = world.api(&ApiCommand::Connections { user: user.into() }).into_iter();
        answers
            .flat_map(|answer| match answer {
                ApiAnswer::Connections(views) => views,
                other => panic!("{other:?}"),
            })
            .collect()
    };
    let views = listed(&mut world, "bob");
    assert_eq!(views.iter().map(|view| view.since).collect::<Vec<_>>(), since);
    assert!(views.iter().all(|view| view.address == Some([192, 0, 2, 1].into()) && view.channels.is_empty()));
    let views = listed(&mut world, "watcher");
    assert_eq!(views.len(), 1);
    assert_eq!((views[0].transport, views[0].protocol, views[0].away), ("websocket", "json", false));
    assert_eq!(views[0].channels, ["presence:ann", "presence:x"]);
    pass(&mut world, AWAY_AFTER);
    assert!(listed(&mut world, "watcher")[0].away);
    world.close(first, None);
    pass(&mut world, 1);
    assert!(listed(&mut world, "watcher").is_empty());
    assert!(listed(&mut world, "").is_empty(), "nobody in particular");
}

#[test]
fn without_the_setting_there_are_no_methods() {
    let mut world = World::new(2, "");
    let bob = world.connect(0, "bob");
    world.run();
    assert_eq!(get(&mut world, bob, &["bob"])["error"]["code"], 108);
    let answers = world.api(&ApiCommand::UserPresence { users: vec!["bob".into()] });
    assert!(answers.iter().all(|answer| matches!(answer, ApiAnswer::Error(error) if error.code() == 108)));
}

/// Users with up to three devices each, everything that can happen to them at random, and the model beside.
struct Crowd {
    world: World,
    rng: Rng,
    names: Vec<String>,
    users: Vec<User>,
    owners: HashMap<i32, usize>,
    /// Cut from the network; the server will notice.
    cut: Vec<i32>,
    watchers: Vec<i32>,
    told: Vec<Vec<(u32, String)>>,
}

impl Crowd {
    const WATCHED_BY_ONE: usize = 250;

    fn new(shards: u16, count: usize, seed: u64) -> Self {
        let mut world = world(shards);
        let names: Vec<String> = (0..count).map(|user| format!("u{user}")).collect();
        let watchers = names.chunks(Self::WATCHED_BY_ONE).enumerate();
        let watchers: Vec<i32> = watchers
            .map(|(at, names)| watcher(&mut world, at % usize::from(shards), names.iter().cloned()))
            .collect();
        for watcher in &watchers {
            assert!(told(&mut world, *watcher).iter().all(|(_, state)| state == "offline"));
        }
        Self {
            world,
            rng: Rng::new(seed),
            users: vec![User::default(); count],
            told: vec![Vec::new(); count],
            names,
            owners: HashMap::new(),
            cut: Vec::new(),
            watchers,
        }
    }

    fn run(&mut self, ticks: u32, shards: u16) {
        for _ in 0..ticks {
            self.world.tick += 1;
            if self.rng.below(500) == 0 {
                // The wall clock jumps, back or forth by up to an hour: timers must not care.
                self.world.wall_ms = EPOCH_MS - 3_600_000 + u64::from(self.rng.below(7_200_000));
            }
            for user in 0..self.users.len() {
                // About one deed of each user in 40 s.
                if self.rng.below(400) == 0 {
                    self.deed(user, shards);
                }
            }
            let events = self.world.run();
            let now = self.world.tick;
            self.users.iter_mut().for_each(|user| user.passes(now));
            for event in events {
                self.heard(&event, now);
            }
            self.collect(now);
        }
    }

    fn deed(&mut self, index: usize, shards: u16) {
        let (now, user) = (self.world.tick, &mut self.users[index]);
        let usable: Vec<i32> =
            user.sessions.iter().map(|of| of.socket).filter(|socket| !self.cut.contains(socket)).collect();
        let pick = self.rng.below(12);
        if usable.is_empty() || (pick == 0 && usable.len() < 3) {
            let shard = self.rng.below(u32::from(shards)) as usize;
            let socket = self.world.connect(shard, &self.names[index]);
            self.owners.insert(socket, index);
            return user.enters(socket, now);
        }
        let socket = usable[self.rng.below(usable.len() as u32) as usize];
        match pick {
            0..=2 => {
                self.world.close(socket, [None, Some(1000), Some(1001)][self.rng.below(3) as usize]);
                user.says_goodbye(socket, now);
            }
            3..=5 => {
                self.world.kill(socket, pick == 3);
                user.is_lost(socket, now, now);
            }
            6 => {
                self.world.cut(socket);
                self.cut.push(socket);
            }
            7 | 8 => {
                let away = pick == 7;
                let params = json!({ "state": if away { "away" } else { "online" } });
                self.world
                    .send(socket, &json!({ "id": 2, "rpc": { "method": "presence.set", "data": params } }));
                user.sets(socket, away, now);
            }
            9 | 10 => {
                self.world.send(socket, &json!({ "id": 3, "unsubscribe": { "channel": "presence:x" } }));
                user.acts(socket, now);
            }
            _ => {
                self.world.send(socket, &json!({ "id": 4, "presence_stats": { "channel": "presence:x" } }));
            }
        }
    }

    fn heard(&mut self, event: &Event, now: u32) {
        let (Event::Ponged(socket) | Event::Closed(socket, _)) = event;
        let Some(&owner) = self.owners.get(socket) else { return };
        let user = &mut self.users[owner];
        match event {
            Event::Ponged(_) => user.pongs(*socket, now),
            Event::Closed(_, 3012) => {
                let sign = user.sessions.iter().find(|of| of.socket == *socket).map_or(now, |of| of.sign);
                user.is_lost(*socket, sign, now);
                self.cut.retain(|cut| cut != socket);
            }
            Event::Closed(..) => {}
        }
    }

    fn collect(&mut self, now: u32) {
        for at in 0..self.watchers.len() {
            for (name, state) in told(&mut self.world, self.watchers[at]) {
                let user: usize = name[1..].parse().unwrap();
                self.told[user].push((now, state));
            }
        }
    }

    /// What the server answers about everybody, beside the model.
    fn compare_answers(&mut self) {
        let now = self.world.tick;
        for names in self.names.clone().chunks(1000) {
            let mut seen = 0;
            for answer in self.world.api(&ApiCommand::UserPresence { users: names.to_vec() }) {
                let ApiAnswer::UserPresence(views) = answer else { panic!("{answer:?}") };
                for (name, view) in views {
                    let user = &self.users[name[1..].parse::<usize>().unwrap()];
                    assert_eq!(view.state.name(), user.state(), "{name} at {now}: {user:?}");
                    assert_eq!(view.devices as usize, user.sessions.len(), "{name} at {now}: {user:?}");
                    let unix = |tick: u32| (self.world.wall_ms + u64::from(tick) * 100) / 1000;
                    let last_seen = user.seen.filter(|_| user.sessions.is_empty()).map(unix);
                    assert_eq!(view.last_seen, last_seen, "{name} at {now}: {user:?}");
                    seen += 1;
                }
            }
            assert_eq!(seen, names.len());
        }
    }
}

fn from_environment(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn watchers_and_answers_agree_with_the_model() {
    let count = from_environment("MILLPOND_PRESENCE_USERS", 400) as usize;
    let seed = u64::from(from_environment("MILLPOND_PRESENCE_SEED", 4));
    let ticks = from_environment("MILLPOND_PRESENCE_TICKS", 6000);
    for shards in from_environment("MILLPOND_PRESENCE_SHARDS", 1)..=8 {
        let shards = shards as u16;
        let mut crowd = Crowd::new(shards, count, seed + u64::from(shards));
        for _ in 0..10 {
            crowd.run(ticks / 10, shards);
            crowd.compare_answers();
        }
        let changes: usize = crowd.users.iter().map(|user| user.log.len()).sum();
        println!("{shards} shards, seed {seed}: {count} users, {ticks} ticks, {changes} changes");
        assert!(changes > count, "nothing happened");
        for (name, (user, told)) in crowd.names.iter().zip(crowd.users.iter().zip(&crowd.told)) {
            let log: Vec<_> = user.log.iter().map(|(tick, state)| (*tick, (*state).to_owned())).collect();
            assert_eq!(*told, log, "{name}, {shards} shards, seed {seed}");
        }
    }
}
