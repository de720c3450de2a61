//! Whose turn it is, in virtual time: rooms beside a large channel with a rush of joins, or with publications. Counts
//! writes and turns, never the clock.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "user_presence/world.rs"]
#[allow(dead_code, reason = "each test file uses a part")]
mod world;

use std::collections::BTreeMap;

use bytes::Bytes;
use millpond::base::rng::Rng;
use millpond::hub::api::{ApiCommand, ApiPublish};
use millpond::limits;
use serde_json::{Value, json};
use world::World;

const NAMESPACES: &str = "[[channel.namespaces]]\nname = \"crowd\"\npresence = true\njoin_leave = true\n\
    force_push_join_leave = true\nallow_subscribe_for_client = true\n\
    [[channel.namespaces]]\nname = \"room\"\nallow_subscribe_for_client = true\n";

/// `count` users of `channel`, all on shard 0, with nothing under way any more.
fn fill(world: &mut World, channel: &str, count: usize) -> Vec<i32> {
    let sockets: Vec<i32> = (0..count).map(|user| world.connect(0, &format!("{channel}-{user}"))).collect();
    world.run();
    for socket in &sockets {
        subscribe(world, *socket, channel);
    }
    settle(world);
    sockets.iter().for_each(|socket| drop(world.inbox(*socket)));
    sockets
}

/// Seconds without anything.
fn settle(world: &mut World) {
    for _ in 0..50 {
        world.step();
    }
}

fn subscribe(world: &mut World, socket: i32, channel: &str) {
    world.send(socket, &json!({ "id": 2, "subscribe": { "channel": channel } }));
}

fn publish(world: &mut World, channel: &str, data: usize) {
    let data = Bytes::from(data.to_string());
    let publish = ApiPublish { channel: channel.into(), data, ..ApiPublish::default() };
    world.put_at_home(channel, &ApiCommand::Publish(Box::new(publish)));
}

/// What a socket was pushed: joins and leaves as `+user` and `-user`, publications as their data.
fn pushed(world: &mut World, socket: i32) -> Vec<String> {
    let of = |message: &Value| {
        let push = message.get("push")?;
        let user = |what: &str| push.get(what)?["info"]["user"].as_str().map(str::to_owned);
        let join = user("join").map(|user| format!("+{user}"));
        let leave = user("leave").map(|user| format!("-{user}"));
        join.or(leave).or_else(|| Some(push.get("pub")?["data"].to_string()))
    };
    world.inbox(socket).iter().filter_map(of).collect()
}

/// One user more in the crowd; the letters have arrived when this returns, nothing is written yet.
fn one_joins(world: &mut World, user: &str) -> i32 {
    let socket = world.connect(0, user);
    world.run();
    subscribe(world, socket, "crowd:a");
    socket
}

#[test]
fn a_room_waits_for_a_few_writes_of_a_rush_of_joins_and_no_more() {
    let mut world = World::new(4, NAMESPACES);
    let crowd = fill(&mut world, "crowd:a", 300);
    let room = fill(&mut world, "room:a", 20);
    one_joins(&mut world, "new");
    let (mut turns, mut told) = (0, 0);
    loop {
        publish(&mut world, "room:a", turns);
        // The letter to the home, the one to the subscribers, the sweep.
        let written: Vec<Vec<i32>> = (0..3).map(|_| world.turn()).collect();
        let to = |sockets: &[i32]| {
            let count = |turn: &Vec<i32>| turn.iter().filter(|socket| sockets.contains(socket)).count();
            written.iter().map(count).collect::<Vec<_>>()
        };
        assert_eq!(to(&room).iter().sum::<usize>(), 20, "turn {turns}");
        assert!(to(&crowd).iter().all(|count| *count <= limits::ANNOUNCEMENT_WRITES_PER_TURN));
        let now = to(&crowd).iter().sum::<usize>();
        told += now;
        turns += 1;
        if now == 0 {
            break;
        }
    }
    assert_eq!(told, 128, "what four shards may do at once, divided by four");
    for _ in 0..10 {
        world.fine_ms += 1;
        let written: usize = (0..4).map(|_| world.turn().len()).sum();
        assert_eq!(written, 5, "and then twenty a millisecond, divided by four");
    }
    settle(&mut world);
    assert!(crowd.iter().all(|socket| pushed(&mut world, *socket) == ["+new"]));
    let expected: Vec<String> = (0..turns).map(|number| number.to_string()).collect();
    assert!(room.iter().all(|socket| pushed(&mut world, *socket) == expected));
}

#[test]
fn joins_that_come_while_others_are_told_cost_no_further_write() {
    let mut world = World::new(4, NAMESPACES);
    let crowd = fill(&mut world, "crowd:a", 300);
    let mut writes = 0;
    for number in 0..40 {
        one_joins(&mut world, &format!("new-{number}"));
        for _ in 0..8 {
            writes += world.turn().iter().filter(|socket| crowd.contains(socket)).count();
        }
        world.fine_ms += 1;
    }
    for _ in 0..50 {
        world.tick += 1;
        world.fine_ms = 0;
        while let written = world.turn()
            && !written.is_empty()
        {
            writes += written.iter().filter(|socket| crowd.contains(socket)).count();
        }
    }
    assert!(writes <= 300 * 3, "{writes} writes for 40 joins to 300");
    let expected: Vec<String> = (0..40).map(|number| format!("+new-{number}")).collect();
    assert!(crowd.iter().all(|socket| pushed(&mut world, *socket) == expected));
}

#[test]
fn a_publication_does_not_wait_for_the_pace_and_takes_what_came_before_it_along() {
    let mut world = World::new(4, NAMESPACES);
    let crowd = fill(&mut world, "crowd:a", 300);
    let late = one_joins(&mut world, "new");
    (0..4).for_each(|_| drop(world.turn()));
    publish(&mut world, "crowd:a", 7);
    let written: Vec<usize> = (0..4).map(|_| world.turn().len()).collect();
    assert!(written.iter().sum::<usize>() >= 301, "{written:?}");
    assert!(written.iter().all(|count| *count <= limits::SWEEP_WRITES_PER_TURN));
    assert_eq!(pushed(&mut world, late), ["+new", "7"]);
    assert!(crowd.iter().all(|socket| pushed(&mut world, *socket) == ["+new", "7"]));
}

#[test]
fn rooms_do_not_wait_for_large_channels_nor_those_for_them() {
    let mut world = World::new(1, NAMESPACES);
    let large: Vec<Vec<i32>> = (0..2).map(|at| fill(&mut world, &format!("room:large-{at}"), 400)).collect();
    let rooms: Vec<Vec<i32>> = (0..8).map(|at| fill(&mut world, &format!("room:{at}"), 20)).collect();
    (0..2).for_each(|at| publish(&mut world, &format!("room:large-{at}"), 1));
    world.turn();
    (0..8).for_each(|at| publish(&mut world, &format!("room:{at}"), 1));
    let turns: Vec<Vec<i32>> = (0..6).map(|_| world.turn()).collect();
    for (at, room) in rooms.iter().enumerate() {
        let last = turns.iter().rposition(|turn| turn.iter().any(|socket| room.contains(socket)));
        assert!(last <= Some(1), "room {at} was done in turn {last:?}");
    }
    for channel in &large {
        let count = turns[0].iter().filter(|socket| channel.contains(socket)).count();
        assert_eq!(
            count,
            limits::SWEEP_WRITES_PER_TURN / 4,
            "half of the turn is for large ones, in equal parts"
        );
    }
    let everybody = large.iter().chain(&rooms).flatten();
    everybody.for_each(|socket| assert_eq!(pushed(&mut world, *socket), ["1"]));
}

#[test]
fn a_channel_that_takes_longer_than_a_second_to_tell_has_longer_seconds() {
    let configuration = format!(
        "{}join_leave_max_rate = 1\n",
        NAMESPACES.split_once("[[channel.namespaces]]\nname = \"room\"").unwrap().0
    );
    // With so many shards, each tells one subscriber a millisecond.
    let mut world = World::new(64, &configuration);
    let crowd = fill(&mut world, "crowd:a", 1500);
    // Time goes by in ticks here, and the pace allows no more than a burst in each.
    (0..5).for_each(|_| settle(&mut world));
    crowd.iter().for_each(|socket| drop(world.inbox(*socket)));
    for number in 0..5 {
        one_joins(&mut world, &format!("new-{number}"));
    }
    (0..14).for_each(|_| drop(world.step()));
    let counts = |world: &mut World, socket| {
        let inbox = world.inbox(socket);
        inbox.iter().filter(|message| message["push"]["message"].is_object()).count()
    };
    assert_eq!(counts(&mut world, crowd[0]), 0, "the second is not over");
    (0..3).for_each(|_| settle(&mut world));
    assert_eq!(counts(&mut world, crowd[0]), 1);
    assert_eq!(counts(&mut world, crowd[1499]), 1);
}

/// Joins, leaves and publications at random, in channels of all sizes: everybody is told of everything that happened
/// while it was there, in the order in which it happened.
#[test]
fn nothing_is_lost_doubled_or_reordered() {
    for seed in 0..6_u64 {
        let mut random = Rng::new(seed);
        let mut world = World::new(if seed % 2 == 0 { 1 } else { 16 }, NAMESPACES);
        let sizes = [5, 12, 40, 90, 200];
        let mut members: Vec<Vec<i32>> =
            (0..sizes.len()).map(|at| fill(&mut world, &format!("crowd:{at}"), sizes[at])).collect();
        let mut expected: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for step in 0..400_usize {
            let at = random.below(sizes.len() as u32) as usize;
            let channel = format!("crowd:{at}");
            let mut tell = |members: &[i32], what: String| {
                members.iter().for_each(|of| expected.entry(*of).or_default().push(what.clone()));
            };
            match random.below(10) {
                0..4 => {
                    let user = format!("s{step}");
                    let socket = world.connect(0, &user);
                    world.send(socket, &json!({ "id": 2, "subscribe": { "channel": channel } }));
                    members[at].push(socket);
                    tell(&members[at], format!("+{user}"));
                }
                4..7 if members[at].len() > 2 => {
                    // Only those leave whose user the test knows.
                    let place = random.below(members[at].len() as u32) as usize;
                    let socket = members[at][place];
                    world.send(socket, &json!({ "id": 3, "unsubscribe": { "channel": channel } }));
                    members[at].remove(place);
                    tell(&members[at], "-".into());
                }
                _ => {
                    publish(&mut world, &channel, step);
                    tell(&members[at], step.to_string());
                }
            }
            // The home hears of one after the other.
            (0..3).for_each(|_| drop(world.turn()));
            world.fine_ms += u64::from(random.below(3));
            if world.fine_ms >= 100 {
                world.tick += 1;
                world.fine_ms = 0;
            }
        }
        settle(&mut world);
        let there: Vec<i32> = members.into_iter().flatten().collect();
        for socket in there {
            let heard: Vec<String> = pushed(&mut world, socket)
                .into_iter()
                .map(|of| if of.starts_with('-') { "-".to_owned() } else { of })
                .collect();
            assert_eq!(heard, expected.remove(&socket).unwrap_or_default(), "seed {seed}, socket {socket}");
        }
    }
}
