//! R02: connections that say nothing hold a tenth of the slots at most, and never keep a client out.

use millpond::hub::metrics::Refusal;

use crate::hub::settings;
use crate::rows::{Peer, Stage, UPGRADE};

const CONNECT: &str = r#"{"id":1,"connect":{}}"#;

fn stage(max_connections: u32) -> Stage {
    let mut settings = settings();
    settings.max_connections = max_connections;
    Stage::new(settings)
}

fn dialled(stage: &mut Stage, count: usize) -> Vec<Peer> {
    (0..count).map(|_| Peer { socket: stage.world.dial(0) }).collect()
}

/// A tick, with as many turns as a shard takes that says it is busy.
fn tick(stage: &mut Stage) {
    stage.world.pass(1);
    (0..20).for_each(|_| stage.world.turn());
}

fn open(stage: &mut Stage, peers: &[Peer]) -> usize {
    peers.iter().filter(|peer| stage.pipe(**peer).closed.is_none()).count()
}

fn refused(stage: &mut Stage, why: Refusal) -> u64 {
    stage.world.shards[0].figures(0, 0, 0).refusals[why as usize]
}

#[test]
fn the_silent_hold_a_tenth_of_the_slots_and_nobody_is_kept_out() {
    let mut stage = stage(200);
    let silent = dialled(&mut stage, 200);
    stage.world.pass(1);
    let clients: Vec<Peer> = (0..180).map(|_| stage.live()).collect();
    assert_eq!(stage.world.shards[0].figures(0, 0, 0).clients, 180);
    (0..6).for_each(|_| tick(&mut stage));
    assert_eq!(open(&mut stage, &silent), 20);
    assert_eq!(refused(&mut stage, Refusal::Silent), 180);
    assert_eq!(refused(&mut stage, Refusal::ConnectionLimit), 0);
    stage.world.pass(50);
    assert_eq!((open(&mut stage, &silent), open(&mut stage, &clients)), (0, 180));
    assert_eq!(refused(&mut stage, Refusal::Timeout), 20, "theirs was the ordinary deadline");
}

/// They come faster than clients do, for ever.
#[test]
fn a_flood_of_silent_connections_keeps_nobody_out() {
    let mut stage = stage(200);
    let mut silent = Vec::new();
    for round in 0..150 {
        silent.extend(dialled(&mut stage, 60));
        stage.world.pass(1);
        stage.live();
        let others = stage.world.shards[0].figures(0, 0, 0).unauthenticated;
        assert!(others <= 60 * 7, "{others} in round {round}");
    }
    assert_eq!(stage.world.shards[0].figures(0, 0, 0).clients, 150);
    (0..6).for_each(|_| tick(&mut stage));
    assert_eq!(open(&mut stage, &silent), 20);
}

/// Ten times the share at once, each a round trip of 0.3 s from the server: the last goes the way of the first.
#[test]
fn a_herd_of_clients_gets_in_whole() {
    let mut stage = stage(2000);
    let herd = dialled(&mut stage, 2000);
    for peer in &herd {
        stage.pipe(*peer).send(UPGRADE.as_bytes());
    }
    for _ in 0..3 {
        stage.world.pass(1);
    }
    for peer in &herd {
        assert!(std::mem::take(&mut stage.pipe(*peer).outbound).starts_with(b"HTTP/1.1 101 "));
        stage.say(*peer, CONNECT);
    }
    stage.world.pass(20);
    assert_eq!(stage.world.shards[0].figures(0, 0, 0).clients, 2000);
    assert_eq!(stage.world.shards[0].figures(0, 0, 0).refusals, [0; Refusal::COUNT]);
}

/// A request in the kernel counts, however late the shard comes to read it.
#[test]
fn requests_that_wait_unread_are_no_silence() {
    let mut stage = stage(200);
    stage.world.polled = 0;
    let herd = dialled(&mut stage, 200);
    for peer in &herd {
        stage.pipe(*peer).send(UPGRADE.as_bytes());
    }
    (0..6).for_each(|_| tick(&mut stage));
    let answered = |stage: &mut Stage, peer: &Peer| stage.pipe(*peer).outbound.starts_with(b"HTTP/1.1 101 ");
    // Those within the share are read when the poller comes to them, or at their deadline.
    assert_eq!(herd.iter().filter(|peer| answered(&mut stage, peer)).count(), 180);
    assert_eq!((open(&mut stage, &herd), refused(&mut stage, Refusal::Silent)), (200, 0));
    assert_eq!(stage.disconnects(3013), 0, "whoever was found to have gone on stays");
}

/// An upgrade without a connect command is no client either; who is told to go may come again.
#[test]
fn upgraded_but_silent_makes_room() {
    let mut stage = stage(200);
    let idle: Vec<Peer> = (0..200).map(|_| stage.upgraded()).collect();
    (0..6).for_each(|_| tick(&mut stage));
    assert_eq!(stage.disconnects(3013), 180);
    // The close frame is answered, or there is an RST a second later.
    (0..11).for_each(|_| tick(&mut stage));
    for _ in 0..180 {
        stage.live();
    }
    assert_eq!(stage.world.shards[0].figures(0, 0, 0).clients, 180);
    stage.world.pass(120);
    assert_eq!(open(&mut stage, &idle), 0);
    assert_eq!(stage.disconnects(3013) + stage.disconnects(3502), 200, "theirs was the ordinary deadline");
}

/// A socket that nobody listens to any more leaves no entry behind it.
#[test]
fn nothing_is_left_of_newcomers() {
    let mut stage = stage(100_000);
    let silent = dialled(&mut stage, 5000);
    stage.world.pass(1);
    for peer in &silent {
        stage.pipe(*peer).finish();
    }
    stage.world.pass(2);
    assert!(stage.is_clean(), "{:?}", stage.world.shards[0].leftovers());
}
