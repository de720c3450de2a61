//! Rows of bad-input.md that are about time and order, in virtual time: one shard, raw connections.

use millpond::hub::api::{ApiAnswer, ApiCommand, ApiPublish, ApiSubscribe, Target};
use millpond::hub::mail::Mail;
use millpond::hub::metrics::DISCONNECT_CODES;
use millpond::hub::settings::Settings;

use crate::frames::{self, CLOSE, PING, Seen, TEXT};
use crate::hub::settings;
use crate::net::Pipe;
use crate::world::World;

pub(crate) const UPGRADE: &str = "GET /connection/websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// One shard and connections to it.
pub(crate) struct Stage {
    pub(crate) world: World,
}

/// A connection of a stage.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) socket: i32,
}

impl Stage {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { world: World::new(1, 1, settings) }
    }

    pub(crate) fn dial(&mut self) -> Peer {
        let socket = self.world.dial(0);
        self.world.turn();
        Peer { socket }
    }

    pub(crate) fn upgraded(&mut self) -> Peer {
        let peer = self.dial();
        self.pipe(peer).send(UPGRADE.as_bytes());
        self.world.turn();
        let response = std::mem::take(&mut self.pipe(peer).outbound);
        assert!(response.starts_with(b"HTTP/1.1 101 "));
        peer
    }

    pub(crate) fn live(&mut self) -> Peer {
        let peer = self.upgraded();
        self.say(peer, r#"{"id":1,"connect":{}}"#);
        assert!(matches!(self.seen(peer)[..], [Seen::Data(TEXT, _)]));
        peer
    }

    pub(crate) fn pipe(&mut self, peer: Peer) -> &mut Pipe {
        self.world.pipe(0, peer.socket)
    }

    pub(crate) fn frame(&mut self, peer: Peer, opcode: u8, fin: bool, payload: &[u8]) {
        let mut out = Vec::new();
        frames::frame(&mut out, &mut self.world.rng, opcode, fin, payload);
        self.pipe(peer).send(&out);
        self.world.turn();
    }

    pub(crate) fn say(&mut self, peer: Peer, text: &str) {
        self.frame(peer, TEXT, true, text.as_bytes());
    }

    /// All that arrived.
    pub(crate) fn seen(&mut self, peer: Peer) -> Vec<Seen> {
        let bytes = &mut self.pipe(peer).outbound;
        let seen = std::iter::from_fn(|| frames::next(bytes, &mut false)).collect();
        assert!(bytes.is_empty(), "half a frame");
        seen
    }

    /// Texts, and the code of a close, that arrived; a ping is answered.
    pub(crate) fn texts(&mut self, peer: Peer) -> (Vec<String>, Option<u16>) {
        let (mut texts, mut close, mut pinged) = (Vec::new(), None, false);
        for seen in self.seen(peer) {
            match seen {
                Seen::Data(TEXT, text) if text == b"{}" => pinged = true,
                Seen::Data(TEXT, text) => {
                    let text = String::from_utf8(text).unwrap();
                    texts.extend(text.split('\n').map(str::to_owned));
                }
                Seen::Close(code, _) => close = Some(code),
                other => panic!("{other:?}"),
            }
        }
        if pinged {
            self.say(peer, "{}");
        }
        (texts, close)
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.world.shards[0].leftovers().is_empty()
    }

    pub(crate) fn disconnects(&mut self, code: u16) -> u64 {
        let place = DISCONNECT_CODES.iter().position(|known| *known == code).unwrap();
        self.world.shards[0].figures(0, 0, 0).disconnects[place]
    }
}

/// P02: one reply to two closes; the slot is free after FIN, with a close before it or without.
#[test]
fn closes_and_fins() {
    let mut stage = Stage::new(settings());
    let peer = stage.live();
    let mut twice = Vec::new();
    for _ in 0..2 {
        frames::frame(&mut twice, &mut stage.world.rng, CLOSE, true, &1000_u16.to_be_bytes());
    }
    stage.pipe(peer).send(&twice);
    stage.pipe(peer).finish();
    stage.world.pass(1);
    assert_eq!(stage.seen(peer), [Seen::Close(1000, String::new())]);
    assert_eq!(stage.pipe(peer).closed, Some(false));
    assert!(stage.is_clean());

    let peer = stage.live();
    stage.pipe(peer).finish();
    stage.world.pass(1);
    assert_eq!((stage.seen(peer), stage.pipe(peer).closed), (vec![], Some(false)));
    assert!(stage.is_clean());
}

/// P01 and P03: nothing runs behind a close, and a peer that does not answer ours is reset after a second.
#[test]
fn an_unanswered_close() {
    let mut stage = Stage::new(settings());
    let peer = stage.live();
    stage.say(peer, "{\"id\":2}\n{\"id\":3,\"publish\":{\"channel\":\"room\",\"data\":1}}");
    assert!(matches!(stage.seen(peer)[..], [Seen::Close(3501, _)]));
    stage.say(peer, r#"{"id":4,"publish":{"channel":"room","data":1}}"#);
    stage.world.pass(9);
    assert_eq!((stage.seen(peer), stage.pipe(peer).closed), (vec![], None));
    stage.world.pass(2);
    assert_eq!(stage.pipe(peer).closed, Some(true));
    assert!(stage.is_clean());
    assert_eq!(stage.world.shards[0].figures(0, 0, 0).publications, 0);
}

/// P04: pings begin spread over half an interval, and who does not answer goes with 3012 at its own time.
#[test]
fn no_pong() {
    let mut stage = Stage::new(settings());
    let peers: Vec<Peer> = (0..60).map(|_| stage.live()).collect();
    let start = stage.world.tick;
    let (mut pinged, mut ended) = (vec![0; peers.len()], vec![0; peers.len()]);
    while stage.world.tick < start + 340 {
        stage.world.pass(1);
        for (at, peer) in peers.iter().enumerate() {
            for seen in stage.seen(*peer) {
                match seen {
                    Seen::Data(TEXT, text) if text == b"{}" => pinged[at] = stage.world.tick,
                    Seen::Close(3012, _) => ended[at] = stage.world.tick,
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    for (pinged, ended) in pinged.iter().zip(&ended) {
        assert!((start + 125..=start + 250).contains(pinged), "{pinged}");
        assert_eq!(*ended, pinged + 80);
    }
    pinged.sort_unstable();
    pinged.dedup();
    assert!(pinged.len() > 30, "pings in {} different ticks", pinged.len());
    assert_eq!(stage.disconnects(3012), 60);
    stage.world.pass(20);
    assert!(stage.is_clean());
}

/// P05: a pong that nobody asked for is ignored as a WebSocket frame, and a violation as a command.
#[test]
fn unasked_pongs() {
    let mut stage = Stage::new(settings());
    let peer = stage.live();
    stage.frame(peer, frames::PONG, true, b"hello");
    assert_eq!(stage.seen(peer), []);
    stage.say(peer, "{}");
    assert!(matches!(stage.seen(peer)[..], [Seen::Close(3501, _)]));
}

/// P06: 20 control frames a second are answered, more are not; and nothing is kept of a connection that sent some.
#[test]
fn floods_of_pings() {
    let mut stage = Stage::new(settings());
    let peer = stage.live();
    for _ in 0..5 {
        (0..20).for_each(|_| stage.frame(peer, PING, true, b"p"));
        assert_eq!(stage.seen(peer).len(), 20);
        stage.world.pass(10);
    }
    stage.world.pass(1);
    let cold = stage.world.shards[0].leftovers().into_iter().find(|(name, _)| *name == "cold parts");
    assert_eq!(cold, None, "a connection at rest owns nothing");
    (0..21).for_each(|_| stage.frame(peer, PING, true, b"p"));
    let seen = stage.seen(peer);
    assert_eq!(seen.len(), 21);
    assert!(matches!(seen[20], Seen::Close(1008, _)));
}

/// P07: what waits for a peer that half-closed still goes out, for a second.
#[test]
fn half_closes() {
    for reads in [true, false] {
        let mut stage = Stage::new(settings());
        let peer = stage.live();
        stage.pipe(peer).room = 5;
        stage.say(peer, r#"{"id":2,"history":{"channel":"hist:a"}}"#);
        stage.pipe(peer).finish();
        stage.world.pass(1);
        assert_eq!(stage.pipe(peer).closed, None, "the reply waits");
        if reads {
            stage.pipe(peer).room = 10_000;
            stage.world.pass(2);
            assert!(
                matches!(&stage.seen(peer)[..], [Seen::Data(TEXT, text)] if text.starts_with(b"{\"id\":2"))
            );
        }
        stage.world.pass(11);
        assert!(stage.pipe(peer).closed.is_some());
        assert!(stage.is_clean());
    }
}

/// C02, C03: a shard that stood still does not punish its peers for it; who stays silent afterwards goes.
#[test]
fn a_stall_is_forgiven() {
    let mut stage = Stage::new(settings());
    let peers: Vec<Peer> = (0..20).map(|_| stage.live()).collect();
    stage.world.pass(200);
    stage.world.tick += 600;
    stage.world.turn();
    let after = stage.world.tick;
    while stage.world.tick < after + 79 {
        for (at, peer) in peers.iter().enumerate() {
            let waits = stage.pipe(*peer).outbound.len();
            if waits > 0 && at % 2 == 0 && stage.world.tick > after + 40 {
                assert_eq!(stage.texts(*peer), (vec![], None));
            }
        }
        stage.world.pass(1);
        assert_eq!(stage.disconnects(3012), 0, "{} ticks after the stall", stage.world.tick - after);
    }
    stage.world.pass(3);
    assert_eq!(stage.disconnects(3012), 10, "the silent half");
    for peer in peers.iter().step_by(2) {
        assert_eq!(stage.texts(*peer), (vec![], None));
    }
    assert_eq!(stage.world.shards[0].figures(0, 0, 0).stalls, 1);
}

fn numbered(first: usize, count: usize) -> String {
    let lines: Vec<String> = (first..first + count)
        .map(|id| format!(r#"{{"id":{id},"unsubscribe":{{"channel":"c"}}}}"#))
        .collect();
    lines.join("\n")
}

/// R15: commands over the rate get error 111, then reading stops for a second, and nothing is lost meanwhile; who
/// goes on gets 3013.
#[test]
fn too_many_commands() {
    let mut settings = settings();
    settings.client.command_rate_limit = 10;
    let mut stage = Stage::new(settings);
    let peer = stage.live();
    stage.world.pass(20);
    (0..5).for_each(|at| stage.say(peer, &numbered(2 + at * 10, 10)));
    let (texts, _) = stage.texts(peer);
    assert_eq!(texts.len(), 18, "{texts:?}");
    assert!(texts[..10].iter().all(|text| text.contains(r#""unsubscribe":{}"#)));
    assert!(texts[10..].iter().all(|text| text.contains(r#""code":111"#)));
    stage.world.pass(9);
    assert_eq!(stage.texts(peer), (vec![], None), "reading stopped");
    let mut next = 20;
    for _ in 0..6 {
        stage.world.pass(3);
        for text in stage.texts(peer).0 {
            assert!(text.starts_with(&format!(r#"{{"id":{next},"#)), "{text} is not {next}");
            next += 1;
        }
    }
    assert!(next > 30, "it goes on where it stopped");
}

/// R15: who does not slow down is disconnected.
#[test]
fn too_many_commands_for_too_long() {
    let mut settings = settings();
    settings.client.command_rate_limit = 10;
    let mut stage = Stage::new(settings);
    let peer = stage.live();
    stage.world.pass(20);
    let mut close = None;
    for second in 0..90 {
        stage.say(peer, &numbered(2 + second * 40, 40));
        stage.world.pass(10);
        close = stage.texts(peer).1;
        if close.is_some() {
            break;
        }
    }
    assert_eq!(close, Some(3013));
    stage.world.pass(12);
    assert!(stage.is_clean());
}

/// Without pings: a pong may not stand in the middle of a message.
fn unpinged() -> Settings {
    let mut settings = settings();
    settings.client.ping_interval = std::time::Duration::ZERO;
    settings
}

/// F20: a message that does not end is refused 30 s after it began, however it trickles.
#[test]
fn an_endless_message() {
    let mut stage = Stage::new(unpinged());
    let peer = stage.live();
    let begin = stage.world.tick;
    stage.frame(peer, TEXT, false, b"{");
    let close = loop {
        stage.world.pass(1);
        stage.frame(peer, 0, false, b" ");
        if let Some(close) = stage.texts(peer).1 {
            break close;
        }
    };
    assert_eq!(close, 1008);
    assert!((begin + 300..begin + 303).contains(&stage.world.tick), "{} ticks", stage.world.tick - begin);
}

/// F20 again: a peer that is always in the middle of some message, but ends each soon, is fine.
#[test]
fn messages_across_reads() {
    let mut stage = Stage::new(unpinged());
    let peer = stage.live();
    let mut half = Vec::new();
    for id in 2..500 {
        let mut bytes = std::mem::take(&mut half);
        let text = format!(r#"{{"id":{id},"unsubscribe":{{"channel":"c"}}}}"#);
        frames::frame(&mut bytes, &mut stage.world.rng, TEXT, true, text.as_bytes());
        half = bytes.split_off(bytes.len() - 5);
        stage.pipe(peer).send(&bytes);
        stage.world.pass(2);
        assert_eq!(stage.texts(peer).1, None, "after {} ticks", stage.world.tick);
    }
}

/// H19: a request head that trickles in ends five seconds after accept, not after its last byte.
#[test]
fn a_slow_request() {
    let mut stage = Stage::new(settings());
    let peer = stage.dial();
    let begin = stage.world.tick;
    for byte in UPGRADE.bytes().take(200) {
        stage.pipe(peer).send(&[byte]);
        stage.world.pass(1);
        if stage.pipe(peer).closed.is_some() {
            break;
        }
    }
    assert_eq!(stage.world.tick, begin + 50);
    assert!(stage.is_clean());
}

/// Upgraded and then silent: stale ten seconds after accept.
#[test]
fn a_connection_that_never_connects() {
    let mut stage = Stage::new(settings());
    let peer = stage.upgraded();
    stage.world.pass(99);
    assert_eq!(stage.seen(peer), []);
    stage.world.pass(1);
    assert!(matches!(stage.seen(peer)[..], [Seen::Close(3502, _)]));
}

/// R04: a reader that does not read is disconnected with 3008 once its queue is full, and its queue is gone at once.
#[test]
fn a_slow_reader() {
    let mut stage = Stage::new(settings());
    let peers: Vec<Peer> = (0..20).map(|_| stage.live()).collect();
    for peer in &peers {
        stage.say(*peer, r#"{"id":2,"subscribe":{"channel":"quiet:a"}}"#);
        stage.seen(*peer);
    }
    stage.pipe(peers[7]).room = 1000;
    let data = format!("\"{}\"", "x".repeat(10_000));
    for round in 0..40 {
        let publish =
            ApiPublish { channel: "quiet:a".into(), data: data.clone().into(), ..ApiPublish::default() };
        stage.world.ask(0, ApiCommand::Publish(Box::new(publish)));
        let queued = stage.world.shards[0].figures(0, 0, 0).out_queue_bytes;
        assert!(queued < 330_000, "{queued} bytes wait in round {round}");
        for (at, peer) in peers.iter().enumerate().filter(|(at, _)| *at != 7) {
            assert_eq!(stage.seen(*peer).len(), 1, "{at} in round {round}");
        }
    }
    assert_eq!(stage.disconnects(3008), 1);
    assert!(stage.world.shards[0].figures(0, 0, 0).out_queue_bytes < 30_000);
    // The frame in the middle of which the kernel's buffer was full is ended, then the close frame follows.
    stage.pipe(peers[7]).room = 100_000;
    stage.world.pass(1);
    assert!(matches!(stage.seen(peers[7])[..], [Seen::Data(TEXT, _), Seen::Close(3008, _)]));
}

/// The server API takes back a subscription whose home has not answered yet: it ends as soon as it stands, unless the
/// server API wants it again.
#[test]
fn unsubscribed_while_pending() {
    for again in [false, true] {
        let mut stage = Stage::new(settings());
        let peer = stage.live();
        let mut bytes = Vec::new();
        let command = br#"{"id":2,"subscribe":{"channel":"hist:a"}}"#;
        frames::frame(&mut bytes, &mut stage.world.rng, TEXT, true, command);
        stage.pipe(peer).send(&bytes);
        let (target, channel) = (Target::default(), "hist:a".to_owned());
        stage.world.call(0, ApiCommand::Unsubscribe { target, channel: channel.clone() });
        if again {
            let call = ApiSubscribe { channel: channel.clone(), ..ApiSubscribe::default() };
            stage.world.call(0, ApiCommand::Subscribe(Box::new(call)));
        }
        stage.world.turn();
        let texts = stage.texts(peer).0;
        assert!(texts[0].starts_with(r#"{"id":2,"subscribe":"#), "{texts:?}");
        let answer = stage.world.ask(0, ApiCommand::PresenceStats { channel });
        let ApiAnswer::PresenceStats { num_clients, .. } = answer else { panic!("{answer:?}") };
        if again {
            assert_eq!((texts.len(), num_clients), (1, 1));
        } else {
            assert!(texts[1].contains(r#""unsubscribe":{"code":2000"#), "{texts:?}");
            assert_eq!((texts.len(), num_clients), (2, 0));
        }
    }
}

/// A request for the control plane is handed over once, and what arrives behind the first read stays in the kernel.
#[test]
fn a_request_of_the_control_plane() {
    let mut stage = Stage::new(settings());
    let peer = stage.dial();
    let request =
        format!("POST /api/info HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n{}", "x".repeat(70_000));
    stage.pipe(peer).send(request.as_bytes());
    stage.world.turn();
    let handed = std::mem::take(&mut stage.world.nets[0].handed);
    assert_eq!(handed.len(), 1);
    assert!(request.as_bytes().starts_with(&handed[0].1));
    assert_eq!(stage.pipe(peer).outbound, b"");
    assert!(stage.is_clean());
}

/// The same where the shard writes before it reads: the write that fails is not the end of what the peer said.
#[test]
fn what_came_before_a_reset_counts_though_a_write_fails_first() {
    for others in [0, 12] {
        let mut stage = Stage::new(settings());
        let peers: Vec<Peer> = (0..=others).map(|_| stage.live()).collect();
        for peer in &peers {
            stage.say(*peer, r#"{"id":2,"subscribe":{"channel":"quiet:open"}}"#);
        }
        let peer = peers[0];
        stage.say(peer, r#"{"id":3,"subscribe":{"channel":"hist:a"}}"#);
        stage.world.polled = 0;
        let mut frame = Vec::new();
        let command = br#"{"id":4,"publish":{"channel":"hist:a","data":"word"}}"#;
        frames::frame(&mut frame, &mut stage.world.rng, TEXT, true, command);
        stage.pipe(peer).send(&frame);
        stage.pipe(peer).reset();
        let publish = ApiPublish { channel: "quiet:open".into(), data: "1".into(), ..ApiPublish::default() };
        stage.world.call(0, ApiCommand::Publish(Box::new(publish)));
        (0..4).for_each(|_| stage.world.turn());
        stage.world.polled = usize::MAX;
        (0..4).for_each(|_| stage.world.turn());
        assert!(stage.pipe(peer).closed.is_some());
        let history =
            ApiCommand::History { channel: "hist:a".into(), limit: -1, since: None, reverse: false };
        let answer = format!("{:?}", stage.world.ask(0, history));
        assert!(answer.contains("word"), "with {others} others: {answer}");
    }
}

/// What was sent before a reset is read: a publication is not lost, and a goodbye is one.
#[test]
fn what_came_before_a_reset_counts() {
    let mut stage = Stage::new(settings());
    let (reader, peer) = (stage.live(), stage.live());
    stage.say(reader, r#"{"id":2,"subscribe":{"channel":"quiet:a"}}"#);
    stage.texts(reader);
    let publish = br#"{"id":2,"publish":{"channel":"quiet:a","data":{"last":"word"}}}"#;
    let mut out = Vec::new();
    frames::frame(&mut out, &mut stage.world.rng, TEXT, true, publish);
    frames::frame(&mut out, &mut stage.world.rng, CLOSE, true, &1000_u16.to_be_bytes());
    stage.pipe(peer).send(&out);
    stage.pipe(peer).reset();
    stage.world.pass(1);
    let (texts, _) = stage.texts(reader);
    assert!(texts.len() == 1 && texts[0].contains("word"), "{texts:?}");
    assert!(stage.pipe(peer).closed.is_some());
}

/// A client that asked for WebSocket pings is told from a dead one as any other: by the pong, whatever it carries.
#[test]
fn who_answers_no_websocket_ping_goes() {
    let mut stage = Stage::new(settings());
    let native = |stage: &mut Stage| {
        let peer = stage.dial();
        let upgrade = UPGRADE.replace("websocket HTTP", "websocket?cf_ws_frame_ping_pong=true HTTP");
        stage.pipe(peer).send(upgrade.as_bytes());
        stage.world.turn();
        stage.pipe(peer).outbound.clear();
        stage.say(peer, r#"{"id":1,"connect":{}}"#);
        stage.texts(peer);
        peer
    };
    let (dead, alive) = (native(&mut stage), native(&mut stage));
    let mut pings = 0;
    for _ in 0..120 {
        stage.world.pass(10);
        for seen in stage.seen(alive) {
            let Seen::Ping(payload) = seen else { panic!("{seen:?}") };
            stage.frame(alive, frames::PONG, true, &payload);
            pings += 1;
        }
        stage.frame(alive, frames::PONG, true, b"unasked");
    }
    assert!((4..=10).contains(&pings), "{pings} pings in two minutes");
    assert!(matches!(stage.seen(dead)[..], [Seen::Ping(_), Seen::Close(3012, _)]));
    assert_eq!((stage.pipe(alive).closed, stage.disconnects(3012)), (None, 1));
}

/// A small node is emptied at 1,000 a second, however many shards it has.
#[test]
fn a_drain_is_as_gentle_on_many_shards_as_on_one() {
    for shards in [1, 4, 7] {
        let mut world = World::new(1, shards, settings());
        for number in 0..2000 {
            let shard = number % usize::from(shards);
            let socket = world.dial(shard);
            world.pipe(shard, socket).send(UPGRADE.as_bytes());
        }
        world.settle();
        for shard in 0..usize::from(shards) {
            world.tell(shard, Mail::Drain { window_ticks: 300 });
        }
        let closed = |world: &mut World| -> u64 {
            world.shards.iter_mut().map(|shard| shard.figures(0, 0, 0).disconnects.iter().sum::<u64>()).sum()
        };
        let mut before = 0;
        for tick in 1..40 {
            world.tick += 1;
            world.settle();
            let now = closed(&mut world);
            let most = 100 + u64::from(shards);
            assert!(now - before <= most, "{} in one tick on {shards} shards", now - before);
            before = now;
            if now == 2000 {
                assert!(tick >= 19, "{tick} ticks");
                break;
            }
        }
        assert_eq!(before, 2000);
    }
}

/// A shard that is empty first is still the home of what others are about to leave.
#[test]
fn a_drained_shard_stays_until_all_are() {
    let mut world = World::new(1, 3, settings());
    let socket = world.dial(2);
    world.pipe(2, socket).send(UPGRADE.as_bytes());
    world.settle();
    let mut out = Vec::new();
    frames::frame(&mut out, &mut world.rng, TEXT, true, br#"{"id":1,"connect":{}}"#);
    world.pipe(2, socket).send(&out);
    world.settle();
    for shard in 0..3 {
        world.tell(shard, Mail::Drain { window_ticks: 300 });
    }
    world.settle();
    for _ in 0..3 {
        let drained: Vec<bool> = world.shards.iter_mut().map(|shard| shard.is_drained()).collect();
        assert_eq!(drained, [false; 3], "a client on the third shard has yet to close");
        world.turn();
    }
    world.pipe(2, socket).finish();
    world.turn();
    world.turn();
    assert!((0..6).map(|at| world.shards[at % 3].is_drained()).skip(3).all(|drained| drained));
}
