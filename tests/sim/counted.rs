//! Whatever a shard exports moves where it should: one scenario in which everything happens once, and no figure is left
//! at zero.

use std::time::Duration;

use millpond::hub::api::{ApiAnswer, ApiCommand, ApiError, ApiPublish, ApiSubscribe, Target};
use millpond::hub::metrics::{MemoryCategory, ReceivedKind, Refusal, SentKind, ShardMetrics};
use millpond::hub::settings::{Settings, UserPresenceSettings};

use crate::frames::{self, TEXT};
use crate::hub::{settings, token};
use crate::rows::{Peer, Stage};
use crate::world::World;

type Figure = fn(&ShardMetrics) -> u64;

/// Expiry of the tokens: 2100.
const EXPIRY: &str = r#""exp":4102444800"#;

fn with_everything() -> Settings {
    let mut settings = settings();
    settings.client.command_rate_limit = 40;
    settings.channel.options[0].join_leave_max_rate = 1;
    settings.user_presence = Some(UserPresenceSettings {
        namespace: "quiet".into(),
        away_after: Duration::ZERO,
        offline_after: Duration::from_secs(60),
        last_seen_users: 100,
    });
    settings
}

/// A command and a turn for each shard; what comes back is not looked at.
fn say(stage: &mut Stage, peer: Peer, text: &str) {
    stage.say(peer, text);
    stage.world.settle();
    stage.pipe(peer).outbound.clear();
}

fn connected(stage: &mut Stage, user: &str) -> Peer {
    let peer = stage.upgraded();
    let token = token(&format!(r#"{{"sub":"{user}",{EXPIRY}}}"#));
    say(stage, peer, &format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#));
    peer
}

fn sum(stage: &mut Stage, figure: impl Fn(&ShardMetrics) -> u64) -> u64 {
    stage.world.shards.iter_mut().map(|shard| figure(&shard.figures(1, 100, 100))).sum()
}

/// Two shards; `ann` is on the first.
fn everything_happens() -> Stage {
    let mut stage = Stage { world: World::new(1, 2, with_everything()) };
    let (ann, bob) = (connected(&mut stage, "ann"), connected(&mut stage, "bob"));
    // The first join of a second is pushed, the second only counted; the leave comes in a second of its own.
    say(&mut stage, ann, r#"{"id":2,"subscribe":{"channel":"room"}}"#);
    say(&mut stage, bob, r#"{"id":2,"subscribe":{"channel":"room"}}"#);
    (0..30).for_each(|_| stage.world.pass(1));
    say(&mut stage, bob, r#"{"id":3,"unsubscribe":{"channel":"room"}}"#);
    commands(&mut stage, ann);
    calls(&mut stage);
    while !stage.pipe(ann).outbound.ends_with(b"{}") {
        stage.pipe(ann).outbound.clear();
        stage.world.pass(1);
    }
    say(&mut stage, ann, "{}");
    offences(&mut stage);
    stage
}

fn commands(stage: &mut Stage, ann: Peer) {
    let (connection, subscription) = (
        token(&format!(r#"{{"sub":"ann",{EXPIRY}}}"#)),
        token(&format!(r#"{{"sub":"ann","channel":"room",{EXPIRY}}}"#)),
    );
    for command in [
        r#"{"id":3,"publish":{"channel":"room","data":1}}"#,
        r#"{"id":4,"publish":{"channel":"hist:a","data":1}}"#,
        r#"{"id":5,"publish":{"channel":"nowhere:a","data":1}}"#,
        r#"{"id":6,"presence":{"channel":"room"}}"#,
        r#"{"id":7,"presence_stats":{"channel":"room"}}"#,
        r#"{"id":8,"history":{"channel":"hist:a","limit":1}}"#,
        r#"{"id":9,"rpc":{"method":"presence.get","data":{"users":["ann","bob"]}}}"#,
        &format!(r#"{{"id":10,"refresh":{{"token":"{connection}"}}}}"#),
        &format!(r#"{{"id":11,"sub_refresh":{{"channel":"room","token":"{subscription}"}}}}"#),
    ] {
        say(stage, ann, command);
    }
    // The other shard has no room for a letter.
    let far = (0..).map(|at| format!("hist:{at}")).find(|name| stage.world.home(name) == 1).unwrap();
    stage.world.room = 0;
    stage.say(ann, &format!("{{\"id\":12,\"history\":{{\"channel\":\"{far}\"}}}}\n{{\"id\":13,\"presence_stats\":{{\"channel\":\"{far}\"}}}}"));
    stage.world.room = 1000;
    stage.world.settle();
}

fn calls(stage: &mut Stage) {
    let target = Target { user: "ann".into(), ..Target::default() };
    let channel = "quiet:x".to_owned();
    let subscribe =
        ApiSubscribe { target: target.clone(), channel: channel.clone(), ..ApiSubscribe::default() };
    stage.world.ask(0, ApiCommand::Subscribe(Box::new(subscribe)));
    stage.world.ask(0, ApiCommand::Unsubscribe { target: target.clone(), channel });
    let expire_at = crate::world::BIRTH + 10_000;
    stage.world.ask(0, ApiCommand::Refresh { target, expired: false, expire_at, info: None });
}

/// Each by a connection of its own.
fn offences(stage: &mut Stage) {
    for text in [r#"{"send":{"data":1}}"#, "{"] {
        let peer = connected(stage, "");
        say(stage, peer, text);
    }
    let unmasked = connected(stage, "eve");
    stage.pipe(unmasked).send(&[0x81, 0]);
    stage.world.settle();
    let flood = connected(stage, "flo");
    let text = (2..60).map(|id| format!(r#"{{"id":{id},"unsubscribe":{{"channel":"x"}}}}"#));
    let mut frame = Vec::new();
    let text = text.collect::<Vec<_>>().join("\n");
    frames::frame(&mut frame, &mut stage.world.rng, TEXT, true, text.as_bytes());
    stage.pipe(flood).send(&frame);
    stage.world.settle();
    let slow = connected(stage, "sam");
    say(stage, slow, r#"{"id":2,"subscribe":{"channel":"quiet:slow"}}"#);
    stage.pipe(slow).room = 10;
    let data = format!("\"{}\"", "x".repeat(10_000)).into();
    let publish = ApiPublish { channel: "quiet:slow".into(), data, ..ApiPublish::default() };
    let home = stage.world.home("quiet:slow");
    stage.world.ask(home, ApiCommand::Publish(Box::new(publish)));
    let other = stage.dial();
    stage.pipe(other).send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    stage.world.settle();
    stage.upgraded();
    stage.world.tick += 30;
    stage.world.settle();
}

#[test]
fn no_figure_stays_at_zero() {
    let mut stage = everything_happens();
    for kind in SentKind::ALL {
        assert!(sum(&mut stage, |of| of.sent[*kind as usize]) > 0, "{kind:?} was never sent");
    }
    for kind in ReceivedKind::ALL {
        assert!(sum(&mut stage, |of| of.received[*kind as usize]) > 0, "{kind:?} never came");
    }
    for category in MemoryCategory::ALL {
        assert!(sum(&mut stage, |of| of.memory[*category as usize]) > 0, "no memory for {category:?}");
    }
    let figures: [(&str, Figure); 22] = [
        ("connections", |of| of.connections),
        ("clients", |of| of.clients),
        ("users", |of| of.users),
        ("subscriptions", |of| of.subscriptions),
        ("channels", |of| of.channels),
        ("out_queue_bytes", |of| of.out_queue_bytes),
        ("mail_queue", |of| of.mail_queue),
        ("accepts", |of| of.accepts),
        ("bytes_sent", |of| of.bytes_sent),
        ("bytes_received", |of| of.bytes_received),
        ("writes", |of| of.writes),
        ("pings", |of| of.pings),
        ("pongs", |of| of.pongs),
        ("publications", |of| of.publications),
        ("turns", |of| of.turns),
        ("mail_in", |of| of.mail_in),
        ("mail_out", |of| of.mail_out),
        ("mail_full", |of| of.mail_full),
        ("unauthenticated", |of| of.unauthenticated),
        ("stalls", |of| of.stalls),
        ("commands_over_rate", |of| of.commands_over_rate),
        ("violations", |of| of.violations),
    ];
    for (name, figure) in figures {
        assert!(sum(&mut stage, figure) > 0, "{name} did not move");
    }
    assert!(sum(&mut stage, |of| of.input_bytes_kept) > 0);
    assert_eq!(sum(&mut stage, |of| of.handed_over), 1);
}

/// Letters to the shard itself are no mail; one to the other is counted once on both sides.
#[test]
fn letters_between_shards_are_counted_once_on_both_sides() {
    let mut alone = Stage::new(settings());
    let peer = alone.live();
    alone.say(peer, r#"{"id":2,"subscribe":{"channel":"hist:a"}}"#);
    let figures = alone.world.shards[0].figures(0, 0, 0);
    assert_eq!((figures.mail_in, figures.mail_out, figures.mail_full), (0, 0, 0));

    let mut stage = Stage { world: World::new(1, 2, settings()) };
    let far = (0..).map(|at| format!("hist:{at}")).find(|name| stage.world.home(name) == 1).unwrap();
    let peer = stage.live();
    stage.say(peer, &format!(r#"{{"id":2,"history":{{"channel":"{far}"}}}}"#));
    stage.world.settle();
    let [here, there] = [0, 1].map(|at| stage.world.shards[at].figures(0, 0, 0));
    assert_eq!((here.mail_out, there.mail_in), (1, 1), "the question");
    assert_eq!((there.mail_out, here.mail_in), (1, 1), "the answer");
}

/// A socket that the control plane does not take is a refusal and no handover: each has one counter.
#[test]
fn a_refused_handover_is_no_handover() {
    let mut stage = Stage::new(settings());
    for _ in 0..3 {
        let peer = stage.dial();
        stage.pipe(peer).send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        stage.world.turn();
    }
    stage.world.shards[0].handovers_refused(1);
    let figures = stage.world.shards[0].figures(0, 0, 0);
    assert_eq!((figures.handed_over, figures.refusals[Refusal::HandOver as usize]), (2, 1));
}

/// A subscription that would have ended before it begins is refused, and not answered as if it were there.
#[test]
fn a_subscription_by_the_api_that_is_over_already_is_refused() {
    let mut stage = Stage::new(settings());
    stage.live();
    for (expire_at, is_refused) in
        [(1, true), (crate::world::BIRTH - 1, true), (crate::world::BIRTH + 100, false), (0, false)]
    {
        let call = ApiSubscribe { channel: "hist:x".into(), expire_at, ..ApiSubscribe::default() };
        let answer = stage.world.ask(0, ApiCommand::Subscribe(Box::new(call)));
        assert_eq!(
            matches!(answer, ApiAnswer::Error(ApiError::BadRequest)),
            is_refused,
            "{expire_at}: {answer:?}"
        );
    }
}
