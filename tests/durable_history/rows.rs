//! Single promises of durable history, one after the other.

use millpond::hub::api::{ApiAnswer, ApiCommand, ApiError, ApiPublish, Position};
use millpond::log::error::StorageError;
use millpond::log::fake::Fault;
use serde_json::{Value, json};

use crate::settings;
use crate::world::{Ending, World};

const CHANNEL: &str = "all:x";

fn world() -> World {
    World::new(1, 2, &settings())
}

fn publish(text: &str) -> ApiPublish {
    let data = format!("{text:?}").into();
    ApiPublish { channel: CHANNEL.to_owned(), data, ..ApiPublish::default() }
}

fn versioned(text: &str, version: u64, epoch: &str) -> ApiPublish {
    ApiPublish { version, version_epoch: epoch.to_owned(), ..publish(text) }
}

/// Starts calls and lets them all reach the log's queue, where they wait.
fn start(world: &mut World, calls: Vec<ApiPublish>) -> Vec<u64> {
    let calls = calls.into_iter().map(|call| ApiCommand::Publish(Box::new(call)));
    let ids = calls.map(|call| world.call(CHANNEL, call)).collect();
    world.carry();
    ids
}

fn offsets(world: &mut World, ids: Vec<u64>) -> Vec<Result<u64, ApiError>> {
    world.settle();
    let offset = |answer| match answer {
        Some(ApiAnswer::Published(position)) => Ok(position.map_or(0, |position: Position| position.offset)),
        Some(ApiAnswer::Error(error)) => Err(error),
        other => panic!("{other:?}"),
    };
    ids.into_iter().map(|id| offset(world.answer(id))).collect()
}

fn history(world: &mut World, limit: i32, since: Option<Position>, reverse: bool) -> Vec<String> {
    let command = ApiCommand::History { channel: CHANNEL.into(), limit, since, reverse };
    match world.ask(CHANNEL, command) {
        ApiAnswer::History { publications, .. } => publications
            .iter()
            .map(|p| String::from_utf8(p.data.to_vec()).unwrap().replace('"', ""))
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn position(world: &mut World) -> Position {
    let command = ApiCommand::History { channel: CHANNEL.into(), limit: 0, since: None, reverse: false };
    match world.ask(CHANNEL, command) {
        ApiAnswer::History { position, .. } => position,
        other => panic!("{other:?}"),
    }
}

fn subscribe(world: &mut World, socket: i32, since: Option<&Position>) -> Value {
    let mut subscribe = json!({ "channel": CHANNEL });
    if let Some(Position { offset, epoch }) = since {
        subscribe = json!({ "channel": CHANNEL, "recover": true, "offset": offset, "epoch": epoch });
    }
    world.send(socket, &json!({ "id": 2, "subscribe": subscribe }));
    world.settle();
    world.inbox(socket).into_iter().find(|message| message["id"] == 2).expect("a reply")
}

#[test]
fn nothing_is_delivered_or_answered_before_the_log_has_it() {
    let mut world = world();
    let socket = world.connect();
    subscribe(&mut world, socket, None);
    let ids = start(&mut world, vec![publish("a")]);
    world.send(socket, &json!({ "id": 3, "publish": { "channel": CHANNEL, "data": "b" } }));
    world.carry();
    assert_eq!((world.desk.waiting().0, world.answer(ids[0]).is_none()), (2, true));
    assert_eq!(world.inbox(socket), Vec::<Value>::new());
    assert_eq!(offsets(&mut world, ids), [Ok(1)]);
    let heard = world.inbox(socket);
    let data: Vec<_> = heard.iter().map(|message| &message["push"]["pub"]["data"]).collect();
    assert_eq!(data, [&json!("a"), &json!("b"), &Value::Null], "{heard:?}");
    assert_eq!(heard[2], json!({ "id": 3, "publish": {} }));
}

#[test]
fn versions_suppress_also_what_is_under_way_and_after_a_restart() {
    let mut world = world();
    let calls =
        vec![versioned("v5", 5, ""), versioned("v4", 4, ""), versioned("v6", 6, ""), publish("plain")];
    let ids = start(&mut world, calls);
    assert_eq!(world.desk.waiting().0, 1, "what depends on version 5 waits for it");
    assert_eq!(offsets(&mut world, ids), [Ok(1), Ok(1), Ok(2), Ok(3)]);
    assert_eq!(history(&mut world, -1, None, false), ["v5", "v6", "plain"]);
    let mut world = world.restart(Ending::Killed);
    let ids = start(&mut world, vec![versioned("again", 6, ""), versioned("v7", 7, "")]);
    assert_eq!(offsets(&mut world, ids), [Ok(3), Ok(4)], "the version outlived a publication without one");
    // Nor does a removal forget it.
    assert!(matches!(
        world.ask(CHANNEL, ApiCommand::HistoryRemove { channel: CHANNEL.into() }),
        ApiAnswer::Done
    ));
    let mut world = world.restart(Ending::Killed);
    let ids = start(&mut world, vec![versioned("again", 7, ""), versioned("other", 1, "epoch")]);
    assert_eq!(offsets(&mut world, ids), [Ok(4), Ok(5)]);
    assert_eq!(history(&mut world, -1, None, false), ["other"]);
}

#[test]
fn a_version_that_was_not_stored_may_come_again() {
    let mut world = world();
    let ids = start(&mut world, vec![versioned("v1", 1, "")]);
    assert_eq!(offsets(&mut world, ids), [Ok(1)]);
    world.desk.disk().inject(Fault::Sync(StorageError::Device), 0);
    let calls = vec![versioned("v2", 2, ""), versioned("v2", 2, ""), versioned("v2", 2, "")];
    let ids = start(&mut world, calls);
    let refused = Err(ApiError::StorageUnavailable);
    assert_eq!(
        offsets(&mut world, ids),
        [refused, Ok(2), Ok(2)],
        "the second is stored, the third suppressed"
    );
    assert_eq!(history(&mut world, -1, None, false), ["v1", "v2"]);
}

#[test]
fn one_idempotency_key_is_one_publication_also_under_way() {
    let mut world = world();
    let keyed = || ApiPublish { idempotency_key: "key".to_owned(), ..publish("once") };
    world.desk.disk().inject(Fault::Sync(StorageError::Device), 0);
    let ids = start(&mut world, vec![keyed(), keyed()]);
    let refused = Err(ApiError::StorageUnavailable);
    assert_eq!(offsets(&mut world, ids), [refused, refused], "a failure is that of all, and not remembered");
    let ids = start(&mut world, vec![keyed(), keyed()]);
    assert_eq!(world.desk.waiting().0, 1);
    assert_eq!(offsets(&mut world, ids), [Ok(1), Ok(1)]);
    let ids = start(&mut world, vec![keyed()]);
    assert_eq!(offsets(&mut world, ids), [Ok(1)]);
    assert_eq!(history(&mut world, -1, None, false), ["once"]);
}

#[test]
fn what_is_not_for_history_is_delivered_at_once_and_has_no_number() {
    let mut world = world();
    let socket = world.connect();
    subscribe(&mut world, socket, None);
    let ids = start(&mut world, vec![ApiPublish { skip_history: true, ..publish("now") }]);
    assert_eq!(world.desk.waiting(), (0, 0), "the log is not asked");
    assert_eq!(offsets(&mut world, ids), [Ok(0)]);
    assert_eq!(world.inbox(socket)[0]["push"]["pub"], json!({ "data": "now" }));
    assert_eq!(history(&mut world, -1, None, false), Vec::<String>::new());
}

#[test]
fn a_history_begins_with_the_first_who_asks_and_keeps_its_epoch() {
    let mut world = world();
    let socket = world.connect();
    let reply = subscribe(&mut world, socket, None);
    let epoch = reply["subscribe"]["epoch"].as_str().unwrap().to_owned();
    let mut world = world.restart(Ending::Killed);
    assert_eq!(position(&mut world), Position { offset: 0, epoch: epoch.clone() });
    let ids = start(&mut world, vec![publish("a"), publish("b")]);
    assert_eq!(offsets(&mut world, ids), [Ok(1), Ok(2)]);
    // Who was told of nothing yet misses nothing.
    let socket = world.connect();
    let reply = subscribe(&mut world, socket, Some(&Position { offset: 0, epoch }));
    assert_eq!(reply["subscribe"]["recovered"], true);
    assert_eq!(reply["subscribe"]["publications"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_recovery_is_complete_or_is_none() {
    let mut world = world();
    let ids = start(&mut world, (0..40).map(|n| publish(&n.to_string())).collect());
    assert_eq!(offsets(&mut world, ids).len(), 40);
    let epoch = position(&mut world).epoch;
    let mut outcome = |offset: u64, epoch: &str| {
        let socket = world.connect();
        let reply = subscribe(&mut world, socket, Some(&Position { offset, epoch: epoch.to_owned() }));
        let count = reply["subscribe"]["publications"].as_array().map_or(0, Vec::len);
        (reply["subscribe"]["recovered"] == true, count, reply["subscribe"]["offset"].as_u64().unwrap_or(0))
    };
    // recovery_max_publication_limit is 30.
    assert_eq!(outcome(10, &epoch), (true, 30, 10));
    assert_eq!(outcome(9, &epoch), (false, 0, 40));
    assert_eq!(outcome(40, &epoch), (true, 0, 40));
    assert_eq!(outcome(41, &epoch), (false, 0, 40), "nobody was told of it");
    assert_eq!(outcome(39, "another"), (false, 0, 40));
    // Fifteen of these are more than half of a client's queue takes.
    let ids = start(&mut world, (0..15).map(|_| publish(&"x".repeat(11_000))).collect());
    assert!(offsets(&mut world, ids).iter().all(Result::is_ok));
    let mut outcome = |offset: u64| {
        let socket = world.connect();
        let reply = subscribe(&mut world, socket, Some(&Position { offset, epoch: epoch.clone() }));
        (reply["subscribe"]["recovered"] == true, reply["subscribe"]["offset"].as_u64())
    };
    assert_eq!(outcome(45), (true, Some(45)));
    assert_eq!(outcome(40), (false, Some(55)));
}

#[test]
fn reads_go_in_both_directions_and_refuse_what_makes_no_sense() {
    let mut world = world();
    let ids = start(&mut world, (1..=9).map(|n| publish(&n.to_string())).collect());
    assert_eq!(offsets(&mut world, ids).len(), 9);
    let epoch = position(&mut world).epoch;
    let at = |offset| Some(Position { offset, epoch: epoch.clone() });
    assert_eq!(history(&mut world, 2, None, false), ["1", "2"]);
    assert_eq!(history(&mut world, 2, at(4), false), ["5", "6"]);
    assert_eq!(history(&mut world, 2, None, true), ["9", "8"]);
    assert_eq!(history(&mut world, 3, at(3), true), ["2", "1"]);
    assert_eq!(history(&mut world, -1, at(7), false), ["8", "9"]);
    let mut refused = |since: Position, reverse: bool| {
        let command = ApiCommand::History { channel: CHANNEL.into(), limit: 1, since: Some(since), reverse };
        match world.ask(CHANNEL, command) {
            ApiAnswer::Error(error) => error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(Position { offset: 0, epoch: epoch.clone() }, true), ApiError::BadRequest);
    let other = Position { offset: 1, epoch: "other".to_owned() };
    assert_eq!(refused(other, false), ApiError::UnrecoverablePosition);
}

#[test]
fn a_full_disk_refuses_publications_and_live_traffic_goes_on() {
    let mut world = world();
    let socket = world.connect();
    subscribe(&mut world, socket, None);
    world.send(socket, &json!({ "id": 3, "subscribe": { "channel": "quiet:live" } }));
    world.settle();
    world.inbox(socket);
    world.desk.disk().set_capacity(Some(48 << 10));
    let filler = "x".repeat(2000);
    let mut stored = 0;
    loop {
        let ids = start(&mut world, vec![publish(&filler)]);
        match offsets(&mut world, ids)[0] {
            Ok(offset) => stored = offset,
            Err(error) => break assert_eq!(error, ApiError::StorageUnavailable),
        }
    }
    world.inbox(socket);
    world.send(socket, &json!({ "id": 4, "publish": { "channel": CHANNEL, "data": filler } }));
    world.send(socket, &json!({ "id": 5, "publish": { "channel": "quiet:live", "data": "live" } }));
    world.settle();
    let heard = world.inbox(socket);
    let error = json!({ "code": 100, "message": "internal server error", "temporary": true });
    assert!(heard.contains(&json!({ "id": 4, "error": error })), "{heard:?}");
    assert!(heard.iter().any(|message| message["push"]["pub"]["data"] == "live"), "{heard:?}");
    assert_eq!(heard.len(), 3);
    world.desk.disk().set_capacity(None);
    let ids = start(&mut world, vec![publish("after")]);
    assert_eq!(offsets(&mut world, ids), [Ok(stored + 1)], "no gap");
    assert_eq!(world.inbox(socket)[0]["push"]["pub"]["offset"], stored + 1);
}

#[test]
fn publications_expire_and_a_recovery_across_them_is_none() {
    let mut world = world();
    let ids = start(&mut world, vec![publish("old")]);
    assert_eq!(offsets(&mut world, ids), [Ok(1)]);
    let epoch = position(&mut world).epoch;
    world.tick += 35_900;
    let ids = start(&mut world, vec![publish("new")]);
    assert_eq!(offsets(&mut world, ids), [Ok(2)]);
    world.tick += 200;
    assert_eq!(history(&mut world, -1, None, false), ["new"]);
    for (offset, recovered) in [(0, false), (1, true)] {
        let socket = world.connect();
        let reply = subscribe(&mut world, socket, Some(&Position { offset, epoch: epoch.clone() }));
        assert_eq!(reply["subscribe"]["recovered"] == true, recovered, "{reply}");
    }
}

/// What is on disk comes again at every recovery: it must not cost a JSON client its connection each time.
#[test]
fn what_is_no_json_reaches_json_clients_in_a_form_that_is() {
    let mut world = world();
    let live = world.connect();
    let epoch = subscribe(&mut world, live, None)["subscribe"]["epoch"].as_str().unwrap().to_owned();
    let bytes = ApiPublish { data: b"\x01\xff"[..].into(), ..publish("") };
    let ids = start(&mut world, vec![publish("a"), bytes, publish("b")]);
    assert_eq!(offsets(&mut world, ids), [Ok(1), Ok(2), Ok(3)]);
    let expected = [json!("a"), json!({ "b64data": "Af8=" }), json!("b")];
    let heard = world.inbox(live);
    assert_eq!(heard.iter().map(|of| of["push"]["pub"]["data"].clone()).collect::<Vec<_>>(), expected);
    let mut world = world.restart(Ending::Killed);
    let back = world.connect();
    let data = |list: &Value| -> Vec<Value> {
        list.as_array().into_iter().flatten().map(|of| of["data"].clone()).collect()
    };
    let reply = subscribe(&mut world, back, Some(&Position { offset: 0, epoch }));
    assert_eq!(
        (data(&reply["subscribe"]["publications"]), &reply["subscribe"]["recovered"]),
        (expected.to_vec(), &json!(true))
    );
    world.send(back, &json!({ "id": 3, "history": { "channel": CHANNEL, "limit": 10 } }));
    world.settle();
    let reply = world.inbox(back).pop().expect("a reply");
    assert_eq!(data(&reply["history"]["publications"]), expected);
}

/// Who reads a long history from its old end has a long way to go. It is gone in parts, between which everybody else is
/// served, and the page shows where the stream stood when it was asked for.
#[test]
fn the_way_through_a_long_history_holds_nobody_up() {
    const KEPT: usize = 9_000;
    const SHARE: usize = 500;
    let mut world = filled(KEPT);
    world.set_share(SHARE);
    let read = |limit| ApiCommand::History { channel: CHANNEL.into(), limit, since: None, reverse: false };
    let (first, second) = (world.call(CHANNEL, read(3)), world.call(CHANNEL, read(5)));
    world.turn_once();
    let late = world.call(CHANNEL, ApiCommand::Publish(Box::new(publish("late"))));
    let other = ApiPublish { channel: "few:other".into(), ..publish("other") };
    let other = world.call("few:other", ApiCommand::Publish(Box::new(other)));
    let (mut turns, mut published) = (1, [None; 2]);
    let mut pages = [None, None];
    while pages.iter().any(Option::is_none) {
        world.turn_once();
        turns += 1;
        assert!(turns < 200, "the walk does not end");
        for (page, id) in pages.iter_mut().zip([first, second]) {
            *page = page.take().or_else(|| world.answer(id));
        }
        for (at, id) in published.iter_mut().zip([late, other]) {
            *at = at.or_else(|| world.answer(id).map(|_| turns));
        }
    }
    let in_time = published.iter().all(|at| at.is_some_and(|at| at < 8));
    assert!(in_time, "publications waited for the reader: {published:?} of {turns}");
    assert!(turns > KEPT / SHARE, "{turns} turns for {KEPT} publications");
    for (page, count) in pages.into_iter().zip([3, 5]) {
        let Some(ApiAnswer::History { publications, position, .. }) = page else { panic!("{page:?}") };
        let offsets: Vec<u64> = publications.iter().map(|of| of.offset).collect();
        assert_eq!((offsets, position.offset), ((1..=count).collect(), KEPT as u64));
    }
    // The way is known now.
    let id = world.call(CHANNEL, read(4));
    (0..4).for_each(|_| world.turn_once());
    assert!(world.answer(id).is_some());
}

/// Long histories that wait are begun in order, however many newcomers there are.
#[test]
fn newcomers_do_not_overtake_a_long_history_that_waits() {
    let mut world = filled(2_100);
    world.set_share(1_000);
    let read = || ApiCommand::History { channel: CHANNEL.into(), limit: 10_000, since: None, reverse: true };
    // Each looks at 4,200 records, and a turn at no more than 2,000: some wait.
    let mut first: Vec<_> = (0..20).map(|_| world.call(CHANNEL, read())).collect();
    let mut turns = 0;
    while !first.is_empty() {
        world.turn_once();
        first.retain(|id| world.answer(*id).is_none());
        (0..2).for_each(|_| _ = world.call(CHANNEL, read()));
        turns += 1;
        assert!(turns < 150, "{} wait for ever", first.len());
    }
}

/// A read that is not long is done at once, and the turns behind it look at so much less.
#[test]
fn what_a_turn_looks_at_beyond_its_share_is_missing_to_the_next_turns() {
    let mut world = filled(600);
    world.set_share(20);
    let read = || ApiCommand::History { channel: CHANNEL.into(), limit: 3, since: None, reverse: false };
    let ids = [world.call(CHANNEL, read()), world.call(CHANNEL, read())];
    let mut answered = [None; 2];
    for turn in 1..100 {
        world.turn_once();
        for (at, id) in answered.iter_mut().zip(ids) {
            *at = at.or_else(|| world.answer(id).map(|_| turn));
        }
    }
    let [Some(first), Some(second)] = answered else { panic!("{answered:?}") };
    assert!((25..40).contains(&(second - first)), "600 records are 30 turns: {answered:?}");
}

/// A world in which the channel has so many publications.
fn filled(count: usize) -> World {
    let mut world = world();
    for part in 0..count / 60 {
        let ids = start(&mut world, (0..60).map(|at| publish(&(part * 60 + at).to_string())).collect());
        assert!(offsets(&mut world, ids).iter().all(Result::is_ok));
    }
    world
}
