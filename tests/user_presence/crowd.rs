//! A crowd beside the model: everything that can happen to users, at random.

use std::collections::HashMap;

use millpond::base::rng::Rng;
use millpond::hub::api::{ApiAnswer, ApiCommand};
use serde_json::json;

use super::model::User;
use super::world::{EPOCH_MS, Event, World};
use super::{SUBSCRIBE, set, told, watcher, world};

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
    /// Subscriptions that libraries of sessions that are back send at a tick.
    later: Vec<(u32, i32)>,
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
            later: Vec::new(),
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
            self.resubscribe();
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
            user.enters(socket, now);
            return self.starts(index, socket);
        }
        let socket = usable[self.rng.below(usable.len() as u32) as usize];
        match pick {
            0..=2 => {
                let code = [None, Some(1000), Some(1001)][self.rng.below(3) as usize];
                let says_so = self.rng.below(2) == 0;
                if says_so {
                    self.world.send(socket, &set("offline"));
                    user.will_leave(socket);
                }
                self.world.close(socket, code);
                if code.is_none() { user.closes(socket, now) } else { user.says_goodbye(socket, now) }
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
                self.world.send(socket, &set(if away { "away" } else { "online" }));
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

    /// What happens in the very tick in which a session begins.
    fn starts(&mut self, index: usize, socket: i32) {
        let (now, user) = (self.world.tick, &mut self.users[index]);
        match self.rng.below(10) {
            0 => {
                self.world.send(socket, &json!({ "id": 3, "unsubscribe": { "channel": "presence:x" } }));
                user.acts(socket, now);
            }
            1 | 2 => {
                let away = self.rng.below(2) == 0;
                self.world.send(socket, &set(if away { "away" } else { "online" }));
                user.sets(socket, away, now);
            }
            3 => {
                self.world.kill(socket, true);
                user.is_lost(socket, now, now);
            }
            4..=6 => {
                self.world.send(socket, &SUBSCRIBE);
                user.subscribes(socket, now);
                self.later.push((now + 1 + self.rng.below(250), socket));
            }
            _ => {}
        }
    }

    /// Libraries get subscriptions back, some after a while.
    fn resubscribe(&mut self) {
        let now = self.world.tick;
        let due: Vec<i32> =
            self.later.extract_if(.., |(tick, _)| *tick == now).map(|(_, socket)| socket).collect();
        for socket in due.into_iter().filter(|socket| !self.cut.contains(socket)) {
            self.world.send(socket, &SUBSCRIBE);
            self.users[self.owners[&socket]].subscribes(socket, now);
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
