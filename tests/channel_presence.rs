//! Channel presence that scales, in virtual time: pages, grace for lost members, and a bound on joins and leaves.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "user_presence/world.rs"]
#[allow(dead_code, reason = "each test file uses a part")]
mod world;

use std::collections::HashSet;

use millpond::hub::api::{ApiAnswer, ApiCommand};
use serde_json::{Value, json};
use world::World;

fn world(shards: u16, options: &str) -> World {
    let configuration = format!(
        "[[channel.namespaces]]\nname = \"room\"\npresence = true\nallow_subscribe_for_client = true\n{options}"
    );
    World::new(shards, &configuration)
}

const ANNOUNCED: &str = "join_leave = true\nforce_push_join_leave = true\n";

fn enter(world: &mut World, shard: usize, user: &str) -> i32 {
    let socket = world.connect(shard, user);
    world.run();
    world.send(socket, &json!({ "id": 2, "subscribe": { "channel": "room:a" } }));
    world.run();
    socket
}

fn pass(world: &mut World, ticks: u32) {
    for _ in 0..ticks {
        world.step();
    }
}

/// Joins (`+user`), leaves (`-user`) and counts (`=clients/users`) that arrived.
fn news(world: &mut World, socket: i32) -> Vec<String> {
    let mut news = Vec::new();
    for message in world.inbox(socket) {
        let push = &message["push"];
        let user = |of: &Value| of["info"]["user"].as_str().map(str::to_owned);
        news.extend(user(&push["join"]).map(|user| format!("+{user}")));
        news.extend(user(&push["leave"]).map(|user| format!("-{user}")));
        let counts = &push["message"]["data"];
        if counts["channel"] == "room:a" {
            news.push(format!("={}/{}", counts["num_clients"], counts["num_users"]));
        }
    }
    news
}

/// Sessions and users by `presence_stats`, and the users by `presence`.
fn present(world: &mut World) -> ((u32, u32), Vec<String>) {
    let stats = ApiCommand::PresenceStats { channel: "room:a".into() };
    let Some(ApiAnswer::PresenceStats { num_clients, num_users }) = world.api_at_home("room:a", &stats)
    else {
        panic!("no stats");
    };
    let members = ApiCommand::Presence { channel: "room:a".into() };
    let Some(ApiAnswer::Presence(members)) = world.api_at_home("room:a", &members) else {
        panic!("no members");
    };
    let mut users: Vec<String> = members.into_iter().map(|member| member.user).collect();
    users.sort_unstable();
    assert_eq!(users.len(), num_clients as usize);
    ((num_clients, num_users), users)
}

#[test]
fn a_lost_member_stays_for_the_grace_period() {
    for shards in [1, 2, 3, 8] {
        let mut world = world(shards, &format!("{ANNOUNCED}presence_grace = \"10s\""));
        let last = usize::from(shards) - 1;
        let ann = enter(&mut world, 0, "ann");
        let bob = enter(&mut world, last, "bob");
        news(&mut world, ann);
        world.kill(bob, true);
        pass(&mut world, 99);
        assert_eq!(news(&mut world, ann), Vec::<String>::new());
        assert_eq!(present(&mut world), ((2, 2), vec!["ann".into(), "bob".into()]));
        let bob = enter(&mut world, 0, "bob");
        assert_eq!(news(&mut world, ann), ["+bob", "-bob"], "no gap between the sessions");
        assert_eq!(present(&mut world), ((2, 2), vec!["ann".into(), "bob".into()]));
        pass(&mut world, 200);
        assert_eq!(news(&mut world, ann), Vec::<String>::new());
        world.kill(bob, false);
        world.run();
        pass(&mut world, 100);
        assert_eq!(news(&mut world, ann), ["-bob"], "who does not come back leaves");
        assert_eq!(present(&mut world), ((1, 1), vec!["ann".into()]));
        let bob = enter(&mut world, last, "bob");
        world.close(bob, Some(1001));
        pass(&mut world, 1);
        assert_eq!(news(&mut world, ann), ["+bob", "-bob"], "a goodbye is no loss");
        world.kill(ann, true);
        world.run();
        assert_eq!(present(&mut world), ((1, 1), vec!["ann".into()]), "also where nobody else is there");
        pass(&mut world, 100);
        assert_eq!(present(&mut world), ((0, 0), Vec::new()));
    }
}

#[test]
fn an_anonymous_member_is_kept_and_the_next_takes_its_place() {
    let options = format!("{ANNOUNCED}presence_grace = \"10s\"\nallow_subscribe_for_anonymous = true");
    let mut world = world(3, &options);
    let ann = enter(&mut world, 0, "ann");
    let guest = enter(&mut world, 1, "");
    news(&mut world, ann);
    world.kill(guest, true);
    world.run();
    pass(&mut world, 50);
    assert_eq!(news(&mut world, ann), Vec::<String>::new());
    assert_eq!(present(&mut world), ((2, 2), vec![String::new(), "ann".into()]));
    let guest = enter(&mut world, 2, "");
    assert_eq!(news(&mut world, ann), ["+", "-"]);
    pass(&mut world, 200);
    assert_eq!(present(&mut world), ((2, 2), vec![String::new(), "ann".into()]));
    world.kill(guest, true);
    world.run();
    pass(&mut world, 100);
    assert_eq!(news(&mut world, ann), ["-"]);
}

#[test]
fn a_page_is_never_larger_than_asked_for_however_many_are_lost() {
    for shards in [1, 4] {
        let mut world = world(shards, "presence_grace = \"60s\"");
        let sockets: Vec<i32> =
            (0..40).map(|user| enter(&mut world, user % usize::from(shards), &format!("u{user}"))).collect();
        for lost in [0, 3, 36, 40] {
            sockets[..lost]
                .iter()
                .filter(|socket| world.is_open(**socket))
                .copied()
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|socket| world.kill(socket, true));
            world.run();
            for limit in [1, 3, 4, 39, 40, 100] {
                let members = pages(&mut world, limit, |_| {});
                assert_eq!(members.len(), 40, "{shards} shards, {lost} lost, pages of {limit}");
            }
        }
    }
}

#[test]
fn time_in_which_the_server_stood_still_is_no_time_to_return() {
    for shards in [1, 3] {
        let mut world = world(shards, &format!("{ANNOUNCED}presence_grace = \"10s\""));
        let last = usize::from(shards) - 1;
        let ann = enter(&mut world, 0, "ann");
        let (bob, eve) = (enter(&mut world, last, "bob"), enter(&mut world, last, "eve"));
        news(&mut world, ann);
        world.kill(bob, true);
        world.kill(eve, true);
        world.run();
        pass(&mut world, 30);
        world.tick += 300;
        pass(&mut world, 20);
        assert_eq!(news(&mut world, ann), Vec::<String>::new());
        enter(&mut world, 0, "bob");
        assert_eq!(news(&mut world, ann), ["+bob", "-bob"], "no gap between the sessions");
        pass(&mut world, 48);
        assert_eq!(news(&mut world, ann), Vec::<String>::new());
        pass(&mut world, 3);
        assert_eq!(news(&mut world, ann), ["-eve"], "the rest of the grace is left");
    }
}

#[test]
fn without_grace_a_lost_member_leaves_at_once() {
    let mut world = world(2, ANNOUNCED);
    let ann = enter(&mut world, 0, "ann");
    let bob = enter(&mut world, 1, "bob");
    news(&mut world, ann);
    world.kill(bob, true);
    world.run();
    assert_eq!(news(&mut world, ann), ["-bob"]);
}

#[test]
fn too_many_joins_become_counts_and_the_last_count_is_right() {
    let mut world = world(4, &format!("{ANNOUNCED}join_leave_max_rate = 5"));
    let ann = enter(&mut world, 0, "ann");
    pass(&mut world, 20);
    news(&mut world, ann);
    let mut sockets = Vec::new();
    for user in 0..300 {
        sockets.push(enter(&mut world, user % 4, &format!("u{user}")));
        if user % 10 == 9 {
            world.step();
        }
    }
    let mut rush = news(&mut world, ann);
    let joins = rush.iter().filter(|of| of.starts_with('+')).count();
    let counts = rush.iter().filter(|of| of.starts_with('=')).count();
    assert!(joins <= 5 * 4 && (2..=4).contains(&counts), "{joins} joins, {counts} counts in 3 s");
    pass(&mut world, 30);
    rush.extend(news(&mut world, ann));
    assert_eq!(rush.last().unwrap(), "=301/301");
    for socket in sockets.drain(..200) {
        world.close(socket, None);
    }
    pass(&mut world, 30);
    assert_eq!(news(&mut world, ann).last().unwrap(), "=101/101");
    world.close(sockets.pop().unwrap(), None);
    pass(&mut world, 30);
    assert_eq!(news(&mut world, ann), ["-u299"], "the rush is over");
}

#[test]
fn presence_of_a_channel_comes_in_pages() {
    for shards in [1, 2, 5, 8] {
        let mut world = world(shards, "");
        let mut sockets: Vec<i32> =
            (0..200).map(|user| world.connect(user % usize::from(shards), &format!("u{user}"))).collect();
        world.run();
        for socket in &sockets {
            world.send(*socket, &json!({ "id": 2, "subscribe": { "channel": "room:a" } }));
        }
        world.run();
        for limit in [1, 7, 100, 199, 200, 201, 100_000] {
            let members = pages(&mut world, limit, |_| {});
            assert_eq!(members.len(), 200, "{shards} shards, pages of {limit}");
        }
        // Whoever stays is listed once, also where others leave between the pages and lists are compacted.
        let stay = sockets.split_off(120);
        let members = pages(&mut world, 7, |world| {
            for _ in 0..5 {
                if let Some(socket) = sockets.pop() {
                    world.close(socket, None);
                }
            }
            world.run();
        });
        let stayed = (120..200).filter(|user| members.contains(&format!("u{user}"))).count();
        assert_eq!((stayed, stay.len()), (80, 80));
        let wrong = ApiCommand::PresencePage { channel: "room:a".into(), limit: 1, cursor: "x".into() };
        assert!(world.api(&wrong).iter().all(|answer| matches!(answer, ApiAnswer::Error(_))));
    }
}

/// Users on all pages of `room:a`, each page asked for once; nobody stands on two.
fn pages(world: &mut World, limit: u32, mut between: impl FnMut(&mut World)) -> HashSet<String> {
    let (mut users, mut from) = (HashSet::new(), String::new());
    loop {
        let page = ApiCommand::PresencePage { channel: "room:a".into(), limit, cursor: from };
        let Some(ApiAnswer::PresencePage { members, cursor }) = world.api_at_home("room:a", &page) else {
            panic!("no page");
        };
        assert!(members.len() <= limit as usize && (!members.is_empty() || cursor.is_empty()));
        for member in members {
            assert!(users.insert(member.user.clone()), "{} twice", member.user);
        }
        if cursor.is_empty() {
            return users;
        }
        from = cursor;
        between(world);
    }
}

/// Times of one question each, in whatever profile this runs (release for figures):
///
///   MILLPOND_PRESENCE_USERS=1000000 cargo test --release --test channel_presence figures -- --ignored --nocapture
#[test]
#[ignore = "prints figures, asserts none"]
#[allow(clippy::disallowed_methods, reason = "it measures")]
fn figures_of_a_large_channel() {
    let count: usize = std::env::var("MILLPOND_PRESENCE_USERS").map_or(100_000, |text| text.parse().unwrap());
    let mut world = world(2, "");
    for user in 0..count {
        let socket = world.connect(user % 2, &format!("u{user}"));
        world.send(socket, &json!({ "id": 2, "subscribe": { "channel": "room:a" } }));
        if user % 1000 == 999 {
            world.run();
        }
    }
    world.run();
    let stats = ApiCommand::PresenceStats { channel: "room:a".into() };
    let page = |cursor: &str| ApiCommand::PresencePage {
        channel: "room:a".into(),
        limit: 1000,
        cursor: cursor.into(),
    };
    let first = page("");
    let middle = page(&format!("0.{}", count / 4));
    for (name, command) in [("presence_stats", &stats), ("first page", &first), ("middle page", &middle)] {
        world.api_at_home("room:a", command);
        let start = std::time::Instant::now();
        let answer = world.api_at_home("room:a", command);
        println!("{count} members, {name} of 1000 at most: {:?}", start.elapsed());
        assert!(answer.is_some());
    }
}
