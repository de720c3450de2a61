//! What clients are told of where they stand, and in which channels they stand anywhere.

use millpond::hub::api::{ApiAnswer, ApiCommand, ApiError, Position};
use millpond::hub::settings::Settings;
use millpond::log::settings::MailboxLimits;
use serde_json::{Value, json};

use crate::bench::{Bench, offsets, sent, settings};
use crate::desk::log_settings;
use crate::frames::{self, Seen};
use crate::hub::token;
use crate::town::Town;

/// A library that takes its epoch from the connect reply only (centrifuge-python 0.7.0).
#[test]
fn who_connects_before_the_first_message_knows_the_epoch_and_gets_nothing_twice() {
    let mut bench = Bench::new();
    let before = bench.open("", None);
    let told = before.position.clone();
    assert_eq!((told.offset, before.recovered, told.epoch.len()), (0, true, 8));
    assert_eq!(bench.open("phone", None).position, told, "the same for every session");
    for number in 0..5 {
        bench.send(&["ann"], &number.to_string(), "");
    }
    bench.run();
    bench.mail();
    let ApiAnswer::Sent(results) = bench.answers().remove(0).1 else { panic!("no answer") };
    assert_eq!(results[0].as_ref().unwrap().epoch, told.epoch);
    let again = bench.open("", Some(Position { offset: 5, epoch: told.epoch.clone() }));
    assert_eq!((offsets(&again), again.recovered), (vec![], true));
    let again = bench.open("", Some(told));
    assert_eq!((offsets(&again), again.recovered), (vec![1], true), "the first of two pages");
}

#[test]
fn what_is_told_without_a_mailbox_costs_nothing_and_is_the_same_after_a_restart() {
    let mut bench = Bench::new();
    let told = bench.open("", None).position;
    assert_eq!(bench.desk.written(), (0, 0));
    let mut after = Bench::on(bench.disk.killed(), log_settings(MailboxLimits::default()));
    let again = after.open("", Some(told.clone()));
    assert_eq!((again.position, again.recovered), (told.clone(), true));
    for (offset, epoch, recovered) in
        [(0, "", true), (3, "", false), (3, &*told.epoch, false), (0, "_", false)]
    {
        let since = Position { offset, epoch: epoch.to_owned() };
        assert_eq!(after.open("", Some(since)).recovered, recovered, "{offset} {epoch}");
    }
}

/// Settings in which personal channels have a history, and anybody may read it.
fn with_history() -> Settings {
    let mut settings = settings();
    settings.client.personal_channel.as_mut().unwrap().namespace = "hist".into();
    settings
}

/// A socket that is connected as this user, and what it was told.
fn connect(town: &mut Town, user: &str) -> (i32, Value) {
    let socket = town.world.dial(0);
    let head = "GET /connection/websocket HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    town.world.pipe(0, socket).send(head.as_bytes());
    let token = token(&json!({ "sub": user }).to_string());
    let reply = ask(town, socket, true, &json!({"id": 1, "connect": {"token": token}}));
    (socket, reply)
}

/// The answer to a command.
fn ask(town: &mut Town, socket: i32, mut in_http: bool, command: &Value) -> Value {
    let mut out = Vec::new();
    frames::frame(&mut out, &mut town.rng, frames::TEXT, true, command.to_string().as_bytes());
    town.world.pipe(0, socket).send(&out);
    town.settle();
    let mut inbox: Vec<u8> = town.world.pipe(0, socket).outbound.drain(..).collect();
    while let Some(seen) = frames::next(&mut inbox, &mut in_http) {
        let Seen::Data(_, text) = seen else { continue };
        let lines = std::str::from_utf8(&text).unwrap().lines();
        let mut replies = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        if let Some(reply) = replies.find(|reply| reply["id"] == command["id"]) {
            return reply;
        }
    }
    panic!("no answer to {command}");
}

#[test]
fn a_mailbox_has_no_history_beside_it() {
    let mut town = Town::new(1, 2, with_history(), log_settings(MailboxLimits::default()));
    for (channel, is_there) in [("hist:#ann", false), ("hist:#a,b", true), ("hist:room", true)] {
        let home = town.world.home(channel);
        for reads in [true, false] {
            let command = if reads {
                ApiCommand::History { channel: channel.into(), limit: -1, since: None, reverse: false }
            } else {
                ApiCommand::HistoryRemove { channel: channel.into() }
            };
            let answer = town.world.ask(home, command);
            let is_refused = matches!(answer, ApiAnswer::Error(ApiError::NotAvailable));
            assert_eq!(is_refused, !is_there, "{channel}: {answer:?}");
        }
    }
    let (ann, _) = connect(&mut town, "ann");
    for (channel, is_there) in [("hist:#ann", false), ("hist:room", true)] {
        let reply =
            ask(&mut town, ann, false, &json!({"id": 2, "history": {"channel": channel, "limit": 5}}));
        assert_eq!(
            reply.get("error").map(|error| &error["code"]),
            (!is_there).then_some(&json!(108)),
            "{reply}"
        );
    }
}

/// Who has a token for it may listen, and is not told that anything would be recovered.
#[test]
fn the_mailbox_of_another_user_has_no_position() {
    let mut town = Town::new(1, 2, with_history(), log_settings(MailboxLimits::default()));
    let (eve, _) = connect(&mut town, "eve");
    let token = token(&json!({"sub": "eve", "channel": "hist:#ann"}).to_string());
    let subscribe = json!({"channel": "hist:#ann", "token": token, "recover": true, "recoverable": true});
    let reply = ask(&mut town, eve, false, &json!({"id": 2, "subscribe": subscribe}));
    assert_eq!(reply, json!({"id": 2, "subscribe": {}}));
    let (_, own) = connect(&mut town, "ann");
    assert_eq!(own["connect"]["subs"]["hist:#ann"]["recoverable"], true);
}

#[test]
fn nothing_is_promised_to_who_cannot_have_a_mailbox() {
    let mut town = Town::new(1, 2, settings(), log_settings(MailboxLimits::default()));
    for user in ["a,b", "a#b"] {
        let id = town.send(&[user], "1");
        town.settle();
        assert_eq!(sent(&town.answers[&id]), [Err(ApiError::UserName)]);
        let (_, reply) = connect(&mut town, user);
        assert_eq!(reply["connect"]["subs"][format!("#{user}")], json!({}), "{reply}");
    }
    // A name that channels cannot have keeps its user out, as long as there are personal channels.
    let (_, reply) = connect(&mut town, "\u{fc}ser");
    assert_eq!(reply["error"]["code"], 107);
    let id = town.send(&["\u{fc}ser"], "1");
    town.settle();
    assert_eq!(sent(&town.answers[&id]), [Err(ApiError::UserName)]);
}
