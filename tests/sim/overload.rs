//! A shard that is behind with reading its sockets closes nobody for what it has not read (C02, C03, R14): its peers
//! answered in time, and only those who did not end.

use millpond::base::ids::ShardId;
use millpond::hub::api::{ApiCommand, ApiPublish};
use millpond::hub::metrics::DISCONNECT_CODES;

use crate::frames::{self, Seen, TEXT};
use crate::hub::settings;
use crate::rows::{Peer, Stage, UPGRADE};
use crate::world::World;

/// A client's frame into the kernel, where it waits until the shard reads.
fn put(stage: &mut Stage, peer: Peer, text: &str) {
    let mut out = Vec::new();
    frames::frame(&mut out, &mut stage.world.rng, TEXT, true, text.as_bytes());
    stage.pipe(peer).send(&out);
}

/// Whoever was pinged answers at once, and closes are told; one turn a tick, so that no turn is late.
fn pass(stage: &mut Stage, peers: &[Peer], ticks: u32, mut answers: impl FnMut(usize) -> bool) -> Vec<usize> {
    let mut closed = Vec::new();
    for _ in 0..ticks {
        stage.world.pass(1);
        for (at, peer) in peers.iter().enumerate() {
            for seen in stage.seen(*peer) {
                match seen {
                    Seen::Data(TEXT, text) if text == b"{}" && answers(at) => put(stage, *peer, "{}"),
                    Seen::Data(TEXT, text) if text == b"{}" => {}
                    Seen::Close(3012, _) => closed.push(at),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    closed
}

/// The poller never comes to these sockets for longer than three intervals: who answers stays, who does not goes.
#[test]
fn pongs_that_wait_unread_count() {
    let mut stage = Stage::new(settings());
    let peers: Vec<Peer> = (0..40).map(|_| stage.live()).collect();
    stage.world.polled = 0;
    let closed = pass(&mut stage, &peers, 900, |at| at != 7);
    assert_eq!(closed, [7]);
    let figures = stage.world.shards[0].figures(0, 0, 0);
    assert!(figures.pongs > 39 * 2, "{} pongs were found", figures.pongs);
    assert_eq!(figures.stalls, 0, "no turn was late");
}

/// The same with a poller that comes to a few sockets a turn, and a peer that dies on the way.
#[test]
fn a_dead_peer_among_unread_ones_is_found_at_its_time() {
    let mut stage = Stage::new(settings());
    let peers: Vec<Peer> = (0..200).map(|_| stage.live()).collect();
    stage.world.polled = 1;
    let mut pings = 0;
    let answers = |at: usize, pings: &mut u32| {
        *pings += u32::from(at == 150);
        at != 150 || *pings < 2
    };
    // Its second ping comes after 12.5 to 25 and 25 more seconds; 8 s later it is given up.
    let closed = pass(&mut stage, &peers, 125 + 250 + 79, |at| answers(at, &mut pings));
    assert!(closed.is_empty(), "{closed:?} were closed too early");
    let closed = pass(&mut stage, &peers, 125 + 2, |at| answers(at, &mut pings));
    assert_eq!((closed, pings), (vec![150], 2));
}

/// Whoever sent its request and its connect command in time is not stale, however late both are read.
#[test]
fn handshakes_that_wait_unread_are_served() {
    let mut stage = Stage::new(settings());
    stage.world.polled = 0;
    let peers: Vec<Peer> = (0..20).map(|_| stage.dial()).collect();
    let (slow, silent) = (peers[3], peers[4]);
    for peer in peers.iter().filter(|peer| peer.socket != silent.socket) {
        stage.pipe(*peer).send(UPGRADE.as_bytes());
    }
    // Five seconds after the accept they are read because they would be closed; the answer goes out then.
    for _ in 0..52 {
        stage.world.pass(1);
    }
    assert_eq!(stage.pipe(silent).closed, Some(false), "nothing came from it");
    for peer in peers.iter().filter(|peer| peer.socket != silent.socket) {
        let response = std::mem::take(&mut stage.pipe(*peer).outbound);
        assert!(response.starts_with(b"HTTP/1.1 101 "));
        if peer.socket != slow.socket {
            put(&mut stage, *peer, r#"{"id":1,"connect":{}}"#);
        }
    }
    let mut ends = Vec::new();
    for _ in 0..70 {
        stage.world.pass(1);
        for peer in peers.iter().filter(|peer| peer.socket != silent.socket) {
            for seen in stage.seen(*peer) {
                match seen {
                    Seen::Data(TEXT, reply) => assert!(reply.starts_with(br#"{"id":1,"connect""#)),
                    Seen::Close(code, _) => ends.push((peer.socket, code)),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert_eq!(ends, [(slow.socket, 3502)]);
    assert_eq!(stage.world.shards[0].figures(0, 0, 0).clients, 18);
}

/// A request that was read long after its deadline leaves its client the time that connecting takes.
#[test]
fn a_late_upgrade_leaves_time_to_connect() {
    let mut stage = Stage::new(settings());
    let peer = stage.dial();
    stage.pipe(peer).send(UPGRADE.as_bytes());
    // The shard stands still: 9.8 of the 10 seconds of `stale_close_delay` are over when it reads.
    stage.world.tick += 98;
    stage.world.turn();
    assert!(std::mem::take(&mut stage.pipe(peer).outbound).starts_with(b"HTTP/1.1 101 "));
    stage.world.pass(40);
    stage.say(peer, r#"{"id":1,"connect":{}}"#);
    assert!(matches!(stage.seen(peer)[..], [Seen::Data(TEXT, _)]));

    let idle = stage.upgraded();
    stage.world.pass(99);
    assert_eq!(stage.seen(idle), []);
    stage.world.pass(2);
    assert!(
        matches!(stage.seen(idle)[..], [Seen::Close(3502, _)]),
        "who does nothing has no more than before"
    );
}

/// Two shards and a connection to the first; the second is the home of `channel`.
fn with_a_home_elsewhere() -> (Stage, Peer, String) {
    let mut stage = Stage { world: World::new(1, 2, settings()) };
    let channel = (0..).map(|at| format!("hist:{at}")).find(|name| stage.world.home(name) == 1).unwrap();
    let peer = stage.live();
    (stage, peer, channel)
}

/// A command waits for a home that stands still for longer than a pong may take: the pong behind it counts, and a
/// connection that is dead besides is found once the command is answered.
#[test]
fn who_waits_for_a_slow_home_is_not_closed_for_it() {
    for is_dead in [false, true] {
        let (mut stage, peer, channel) = with_a_home_elsewhere();
        // Until it is pinged.
        while stage.pipe(peer).outbound.is_empty() {
            stage.world.pass(1);
        }
        assert_eq!(stage.seen(peer).len(), 1);
        stage.world.busy[1] = u32::MAX;
        put(&mut stage, peer, &format!(r#"{{"id":2,"publish":{{"channel":"{channel}","data":1}}}}"#));
        stage.world.turn();
        if !is_dead {
            put(&mut stage, peer, "{}");
        }
        for _ in 0..150 {
            stage.world.pass(1);
            assert_eq!(stage.seen(peer), [], "neither answered nor closed while the home is away");
        }
        stage.world.busy[1] = 0;
        (0..12).for_each(|_| stage.world.pass(1));
        let seen = stage.seen(peer);
        assert!(matches!(&seen[0], Seen::Data(TEXT, reply) if reply.starts_with(br#"{"id":2"#)), "{seen:?}");
        assert_eq!(seen.len(), 1 + usize::from(is_dead));
        assert_eq!(matches!(seen.last(), Some(Seen::Close(3012, _))), is_dead);
    }
}

/// The same for the connect command itself.
#[test]
fn a_connect_that_waits_for_a_slow_home_is_not_stale() {
    let mut stage = Stage { world: World::new(1, 2, settings()) };
    let channel = (0..).map(|at| format!("hist:{at}")).find(|name| stage.world.home(name) == 1).unwrap();
    let peer = stage.upgraded();
    stage.world.busy[1] = u32::MAX;
    let token = crate::hub::token(&format!(r#"{{"sub":"u","channels":["{channel}"]}}"#));
    put(&mut stage, peer, &format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#));
    for _ in 0..150 {
        stage.world.pass(1);
        assert_eq!(stage.seen(peer), []);
    }
    stage.world.busy[1] = 0;
    (0..3).for_each(|_| stage.world.pass(1));
    assert!(matches!(&stage.seen(peer)[..], [Seen::Data(TEXT, _)]));
    let stale = DISCONNECT_CODES.iter().position(|code| *code == 3502).unwrap();
    assert_eq!(stage.world.shards[0].figures(0, 0, 0).disconnects[stale], 0);
}

/// Publications wait while the mail for another shard has not left. The shell sends mail at the very end of a turn, so
/// the shard must say then that it has something to do, or they would lie until somebody wakes it.
#[test]
fn what_was_put_off_for_mail_goes_on_once_that_has_left() {
    const PUBLICATIONS: usize = 5000;
    let (mut stage, peer, channel) = with_a_home_elsewhere();
    stage.say(peer, &format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#));
    let Stage { mut world } = stage;
    world.settle();
    world.room = 0;
    for number in 0..PUBLICATIONS {
        let data = number.to_string().into();
        let publish = ApiPublish { channel: channel.clone(), data, ..ApiPublish::default() };
        world.call(1, ApiCommand::Publish(Box::new(publish)));
    }
    world.turn();
    assert!(!world.shards[1].has_put_off(), "nothing has left, so nothing can go on");
    let mut left = 0;
    while left < PUBLICATIONS {
        left += world.shards[1].post().drain_to(ShardId(0), |_| Ok(()));
        assert_eq!(world.shards[1].has_put_off(), left < PUBLICATIONS, "after {left}");
        world.turn();
    }
    assert_eq!((left, world.shards[1].has_put_off()), (PUBLICATIONS, false));
}
