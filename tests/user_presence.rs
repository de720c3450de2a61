//! Who is online, away or offline, in virtual time over 1 to 8 shards (issue 4, acceptance 6): what watchers are told
//! equals a plain model, nobody flaps inside the grace period, and offline comes on time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "user_presence/crowd.rs"]
mod crowd;
#[path = "user_presence/model.rs"]
mod model;
#[path = "user_presence/world.rs"]
#[allow(dead_code, reason = "each test file uses a part")]
mod world;

use std::collections::HashMap;
use std::sync::LazyLock;

use millpond::hub::api::{ApiAnswer, ApiCommand, Target, UserState};
use model::{AWAY_AFTER, OFFLINE_AFTER};
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
fn a_goodbye_has_its_code_and_everything_else_is_a_loss() {
    let mut world = world(2);
    let watcher = watcher(&mut world, 0, ["bob".to_owned()].into_iter());
    for (code, is_goodbye) in [(None, false), (Some(1001), true), (Some(1000), true), (Some(1002), false)] {
        let bob = world.connect(1, "bob");
        pass(&mut world, 20);
        world.close(bob, code);
        pass(&mut world, 20);
        let told = states(&mut world, watcher);
        assert_eq!(told.last().unwrap() == "offline", is_goodbye, "{code:?}: {told:?}");
    }
}

/// Without a code: a library that was told of a lost network is back at once, and nobody hears of it; one that was told to
/// disconnect stays away, and its user is offline three seconds later.
#[test]
fn who_closes_without_a_code_is_back_soon_or_gone() {
    let mut world = world(2);
    let watcher = watcher(&mut world, 0, ["bob".to_owned()].into_iter());
    let bob = world.connect(1, "bob");
    pass(&mut world, 20);
    assert_eq!(states(&mut world, watcher).last().unwrap(), "online");
    world.close(bob, None);
    pass(&mut world, 25);
    let bob = world.connect(1, "bob");
    pass(&mut world, 40);
    assert_eq!(states(&mut world, watcher), Vec::<String>::new());
    world.close(bob, None);
    pass(&mut world, 29);
    assert_eq!(states(&mut world, watcher), Vec::<String>::new());
    pass(&mut world, 3);
    assert_eq!(states(&mut world, watcher), ["offline"]);
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
        pass(&mut world, 25);
        world.send(bob, &json!({ "id": 5, "unsubscribe": { "channel": "presence:x" } }));
        pass(&mut world, 25);
    }
    assert_eq!(states(&mut world, watcher), Vec::<String>::new());
    world.close(bob, Some(1000));
    pass(&mut world, 1);
    assert_eq!(states(&mut world, watcher), ["offline"], "the session took the place of the lost one");
}

/// What libraries send by themselves to be back.
const BACK: [&str; 2] = ["presence:x", "presence:y"];

fn is_back(world: &mut World, shard: usize, user: &str) -> i32 {
    let socket = world.connect(shard, user);
    for (id, channel) in (2..).zip(BACK) {
        world.send(socket, &json!({ "id": id, "subscribe": { "channel": channel } }));
    }
    socket
}

#[test]
fn whoever_was_away_is_away_after_a_short_drop_until_the_user_does_something() {
    for shards in [1, 2, 5] {
        let mut world = world(shards);
        let last = usize::from(shards) - 1;
        let watcher = watcher(&mut world, 0, ["bob", "amy"].map(str::to_owned).into_iter());
        let (mut bob, mut amy) = (world.connect(last, "bob"), world.connect(0, "amy"));
        world.send(amy, &set("away"));
        pass(&mut world, AWAY_AFTER + 20);
        told(&mut world, watcher);
        for round in 0..4 {
            world.kill(bob, round % 2 == 0);
            world.kill(amy, round % 2 == 1);
            pass(&mut world, 1 + 100 * round);
            (bob, amy) = (is_back(&mut world, 0, "bob"), is_back(&mut world, last, "amy"));
            pass(&mut world, 50);
            assert_eq!(told(&mut world, watcher), [], "round {round}, {shards} shards");
        }
        for socket in [bob, amy] {
            world.send(socket, &json!({ "id": 8, "unsubscribe": { "channel": "presence:x" } }));
        }
        pass(&mut world, 20);
        assert_eq!(told(&mut world, watcher), [("bob".to_owned(), "online".to_owned())], "amy is set away");
        world.send(amy, &set("online"));
        pass(&mut world, 20);
        assert_eq!(told(&mut world, watcher), [("amy".to_owned(), "online".to_owned())]);
    }
}

#[test]
fn away_comes_when_it_would_have_come_without_the_drop() {
    for (lost_at, back_at) in [(300, 400), (500, 899), (500, 950), (850, 890)] {
        let mut world = world(3);
        let watcher = watcher(&mut world, 0, ["bob".to_owned()].into_iter());
        let bob = world.connect(1, "bob");
        pass(&mut world, lost_at);
        world.kill(bob, true);
        let mut away_at = None;
        states(&mut world, watcher);
        for tick in lost_at..AWAY_AFTER + 100 {
            if tick == back_at {
                is_back(&mut world, 2, "bob");
            }
            world.step();
            for state in states(&mut world, watcher) {
                assert_eq!((state.as_str(), away_at.replace(tick + 1)), ("away", None));
            }
        }
        assert_eq!(away_at, Some(AWAY_AFTER), "lost at {lost_at}, back at {back_at}");
    }
}

#[test]
fn of_several_lost_sessions_the_most_present_returns_first_and_none_is_set_away_by_mistake() {
    let mut world = world(4);
    let watcher = watcher(&mut world, 0, ["bob".to_owned()].into_iter());
    let (phone, desk) = (world.connect(1, "bob"), world.connect(2, "bob"));
    world.send(desk, &set("away"));
    pass(&mut world, 20);
    assert_eq!(states(&mut world, watcher), ["offline", "online"]);
    world.kill(phone, true);
    world.kill(desk, true);
    pass(&mut world, 100);
    let first = is_back(&mut world, 3, "bob");
    world.step();
    let second = is_back(&mut world, 0, "bob");
    pass(&mut world, 20);
    assert_eq!(states(&mut world, watcher), Vec::<String>::new());
    world.send(first, &set("away"));
    pass(&mut world, 20);
    assert_eq!(states(&mut world, watcher), ["away"]);
    world.send(second, &json!({ "id": 8, "unsubscribe": { "channel": "presence:x" } }));
    pass(&mut world, 20);
    assert_eq!(states(&mut world, watcher), ["online"]);
}

#[test]
fn clients_whose_close_frame_has_no_code_say_goodbye_before() {
    let mut world = world(2);
    let watcher = watcher(&mut world, 0, ["bob".to_owned()].into_iter());
    for (code, then_acts, expected) in
        [(None, false, vec!["offline"]), (Some(1011), false, vec!["offline"]), (None, true, vec![])]
    {
        let bob = world.connect(1, "bob");
        pass(&mut world, 20);
        states(&mut world, watcher);
        world.send(bob, &set("offline"));
        world.run();
        assert_eq!(world.inbox(bob).last().unwrap(), &json!({ "id": 6, "rpc": { "data": {} } }));
        if then_acts {
            world.send(bob, &json!({ "id": 8, "unsubscribe": { "channel": "presence:x" } }));
        }
        pass(&mut world, 20);
        assert_eq!(states(&mut world, watcher), Vec::<String>::new(), "it is still there");
        world.close(bob, code);
        pass(&mut world, 20);
        assert_eq!(states(&mut world, watcher), expected, "{code:?}, {then_acts}");
    }
}

#[test]
fn a_server_that_stood_still_does_not_count_it_against_those_who_were_lost() {
    for shards in [1, 3] {
        let mut world = World::new(shards, &CONFIGURATION.replace("\"90s\"", "\"0s\""));
        let watcher = watcher(&mut world, 0, ["bob", "amy"].map(str::to_owned).into_iter());
        let (bob, amy) = (world.connect(0, "bob"), world.connect(0, "amy"));
        pass(&mut world, 20);
        told(&mut world, watcher);
        let lost_at = world.tick;
        world.kill(bob, true);
        world.kill(amy, true);
        pass(&mut world, 100);
        world.tick += 2 * OFFLINE_AFTER;
        pass(&mut world, 1);
        assert_eq!(told(&mut world, watcher), [], "{shards} shards");
        let reply = get(&mut world, watcher, &["amy"]);
        let seen = (EPOCH_MS / 1000) + u64::from(lost_at) / 10;
        assert_eq!(reply["rpc"]["data"]["users"]["amy"]["last_seen"], seen);
        pass(&mut world, OFFLINE_AFTER - 110);
        is_back(&mut world, 0, "bob");
        pass(&mut world, 5);
        assert_eq!(told(&mut world, watcher), [], "{shards} shards");
        pass(&mut world, 10);
        assert_eq!(
            told(&mut world, watcher),
            [("amy".to_owned(), "offline".to_owned())],
            "the rest of its time"
        );
    }
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
    world.close(first, Some(1000));
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

static SUBSCRIBE: LazyLock<Value> =
    LazyLock::new(|| json!({ "id": 5, "subscribe": { "channel": "presence:x" } }));

fn set(state: &str) -> Value {
    json!({ "id": 6, "rpc": { "method": "presence.set", "data": { "state": state } } })
}
