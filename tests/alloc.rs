//! What the data plane may cost, counted by an allocator and by simulated sockets: nothing is allocated per delivered
//! frame, one write leaves per connection and turn, and a connection at rest owns no heap.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use std::sync::Arc;

use allocation_counter::{AllocationInfo, measure};
use millpond::base::ids::{Descriptor, ShardId};
use millpond::base::tick::{Now, Tick};
use millpond::hub::admission::Admission;
use millpond::hub::api::{ApiCommand, ApiPublish};
use millpond::hub::auth::Verifier;
use millpond::hub::mail::{ApiAsk, Mail};
use millpond::hub::shard::{Common, Shard};
use millpond::hub::sockets::{Sockets, Written};

#[path = "support/hub.rs"]
mod hub;

/// Heap bytes that a connection at rest may cost: its slab slot of 64 bytes, and entries for its user and its channel,
/// here and at their homes, all spare room included.
const BYTES_AT_REST: i64 = 192;

/// Counts writes and takes everything.
#[derive(Default)]
struct Counting {
    writes: u64,
    bytes: u64,
    /// Writes of this turn by socket.
    turn: Vec<u8>,
}

impl Sockets for Counting {
    fn write(&mut self, socket: Descriptor, bytes: &[u8]) -> Written {
        self.writes += 1;
        self.bytes += bytes.len() as u64;
        self.turn[socket.0 as usize] += 1;
        Written::Bytes(bytes.len())
    }
    fn close(&mut self, _: Descriptor, _: bool) {}
    fn shutdown_write(&mut self, _: Descriptor) {}
    fn hand_over(&mut self, _: Descriptor, _: &[u8]) {}
}

/// One shard with connections that speak JSON.
struct Bench {
    shard: Shard,
    io: Counting,
    tick: u32,
    slots: Vec<u32>,
    calls: u64,
}

const UPGRADE: &[u8] = b"GET /connection/websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

impl Bench {
    fn new(connections: usize) -> Self {
        let settings = hub::settings();
        let verifier = || Verifier::new(&settings.client.token).unwrap();
        let common = Arc::new(Common {
            connection_tokens: verifier(),
            subscription_tokens: verifier(),
            settings: settings.clone(),
            shards: 1,
            secret: [7; 16],
            admission: Admission::default(),
        });
        let io = Counting { turn: vec![0; connections], ..Counting::default() };
        let shard = Shard::new(ShardId(0), common, 1);
        let mut bench = Self { shard, io, tick: 1, slots: Vec::new(), calls: 0 };
        // What a shard has once, it has before anything is measured.
        bench.turn(|_| {});
        bench
    }

    /// One turn; time stands still.
    fn turn(&mut self, act: impl FnOnce(&mut Shard)) {
        let unix_ms = 1_800_000_000_000 + u64::from(self.tick) * 100;
        self.shard.begin(Now { tick: Tick(self.tick), unix_ms });
        act(&mut self.shard);
        self.io.turn.fill(0);
        self.finish();
        self.shard.post().drain_answers(|_| Ok(()));
    }

    /// Ends the turn, and those that follow without waiting. There is never more to read.
    fn finish(&mut self) {
        while self.shard.finish(&mut self.io).busy {
            (0..self.shard.resumable()).for_each(|_| _ = self.shard.resume_one());
            self.shard.take_overdue(usize::MAX).for_each(drop);
        }
    }

    /// Connects with a token of its own, and subscribes to these channels, in one turn.
    fn connect(&mut self, claims: &str, channels: &[&str]) {
        let socket = Descriptor(self.slots.len() as i32);
        let mut bytes = UPGRADE.to_vec();
        let token = hub::token(claims);
        bytes.extend(masked(&format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#)));
        for (at, channel) in channels.iter().enumerate() {
            bytes.extend(masked(&format!(r#"{{"id":{},"subscribe":{{"channel":"{channel}"}}}}"#, at + 2)));
        }
        let mut slot = 0;
        self.turn(|shard| {
            slot = shard.accept(socket, 1).0;
            shard.input(slot, &mut bytes);
        });
        // Joins in a channel of many are announced behind everything else, in a write of their own.
        let most = 1 + u8::from(channels.contains(&"room"));
        let writes = self.io.turn[socket.0 as usize];
        assert!((1..=most).contains(&writes), "{writes} writes for the upgrade and all replies");
        self.slots.push(slot);
    }

    /// As much time as it takes for a ping to everybody, each answered at once.
    fn ping_all(&mut self) {
        let slots = self.slots.clone();
        for _ in 0..251 {
            self.tick += 1;
            self.turn(|_| {});
            let pinged: Vec<u32> = self
                .io
                .turn
                .iter()
                .zip(&slots)
                .filter(|(writes, _)| **writes > 0)
                .map(|(_, slot)| *slot)
                .collect();
            self.turn(|shard| pinged.into_iter().for_each(|slot| shard.input(slot, &mut masked("{}"))));
        }
    }

    fn publish(&mut self, channel: &str) {
        self.calls += 1;
        let data = br#"{"input":"hello"}"#.as_slice().into();
        let publish = ApiPublish { channel: channel.into(), data, ..ApiPublish::default() };
        let ask = ApiAsk { id: self.calls, command: ApiCommand::Publish(Box::new(publish)) };
        self.turn(|shard| shard.receive(Mail::Api(Box::new(ask))));
    }
}

/// A masked text frame; a mask of zeros keeps the text readable.
fn masked(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    if text.len() < 126 {
        frame.push(0x80 | text.len() as u8);
    } else {
        frame.extend([0x80 | 126, (text.len() >> 8) as u8, text.len() as u8]);
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}

/// Allocations and writes of `rounds` publications into each of `channels`, after a warm-up.
fn cost(bench: &mut Bench, channels: &[String], rounds: u64) -> (AllocationInfo, u64) {
    for channel in channels.iter().cycle().take(4 * channels.len()) {
        bench.publish(channel);
    }
    let before = bench.io.writes;
    let info = measure(|| {
        for _ in 0..rounds {
            for channel in channels {
                bench.publish(channel);
            }
        }
    });
    (info, bench.io.writes - before)
}

#[test]
fn a_fan_out_allocates_for_the_publication_only() {
    let mut few = Bench::new(10);
    let mut many = Bench::new(1000);
    for bench in [&mut few, &mut many] {
        for at in 0..bench.io.turn.len() {
            bench.connect(&format!(r#"{{"sub":"user{at}"}}"#), &["quiet:wide"]);
        }
    }
    let channel = ["quiet:wide".to_owned()];
    let (to_few, writes) = cost(&mut few, &channel, 50);
    assert_eq!(writes, 50 * 10);
    let (to_many, writes) = cost(&mut many, &channel, 50);
    assert_eq!(writes, 50 * 1000, "one write per subscriber and publication");
    assert!(many.io.turn.iter().all(|writes| *writes == 1), "one write per connection and turn");
    println!("per publication: {} allocations to 1,000 subscribers", to_many.count_total / 50);
    assert_eq!(to_many.count_total, to_few.count_total, "990 more subscribers cost no allocation");
    assert!(to_many.count_total <= 50 * 12, "{} allocations for 50 publications", to_many.count_total);
    assert_eq!(to_many.count_current, 0, "nothing stays");
}

#[test]
fn a_channel_of_one_subscriber_costs_no_more() {
    let mut bench = Bench::new(100);
    let channels: Vec<String> = (0..100).map(|at| format!("quiet:own{at}")).collect();
    for (at, channel) in channels.iter().enumerate() {
        bench.connect(&format!(r#"{{"sub":"user{at}"}}"#), &[channel]);
    }
    let (info, writes) = cost(&mut bench, &channels, 10);
    println!("per publication: {} allocations to one subscriber", info.count_total / 1000);
    assert_eq!(writes, 1000);
    assert!(info.count_total <= 1000 * 12, "{} allocations for 1,000 publications", info.count_total);
    assert_eq!(info.count_current, 0, "nothing stays");
}

/// A turn in which many frames come for one connection: one write takes them all.
#[test]
fn frames_of_one_turn_leave_in_one_write() {
    let mut bench = Bench::new(1);
    let channels: Vec<String> = (0..50).map(|at| format!("quiet:{at}")).collect();
    let names: Vec<&str> = channels.iter().map(String::as_str).collect();
    bench.connect(r#"{"sub":"user"}"#, &names);
    let before = bench.io.writes;
    bench.turn(|shard| {
        for (id, channel) in channels.iter().enumerate() {
            let data = br#"{"input":"hello"}"#.as_slice().into();
            let publish = ApiPublish { channel: channel.clone(), data, ..ApiPublish::default() };
            let command = ApiCommand::Publish(Box::new(publish));
            shard.receive(Mail::Api(Box::new(ApiAsk { id: id as u64, command })));
        }
    });
    assert_eq!(bench.io.writes - before, 1);
}

/// Joins, leaves and publications of one channel, for subscribers of which some hear of joins and some do not.
#[test]
fn a_subscriber_that_skips_joins_gets_the_rest_in_one_write() {
    let mut bench = Bench::new(40);
    for at in 0..20 {
        bench.connect(&format!(r#"{{"sub":"user{at}"}}"#), &["room"]);
    }
    let quiet = r#"{"subs":{"room":{"override":{"force_push_join_leave":{"value":false}}}}}"#;
    for _ in 20..39 {
        bench.connect(quiet, &[]);
    }
    let mut bytes = UPGRADE.to_vec();
    for (id, command) in ["\"connect\":{}", "\"subscribe\":{\"channel\":\"room\"}"].iter().enumerate() {
        bytes.extend(masked(&format!("{{\"id\":{},{command}}}", id + 1)));
    }
    bytes.extend(masked(r#"{"id":3,"publish":{"channel":"room","data":1}}"#));
    bytes.extend(masked(r#"{"id":4,"unsubscribe":{"channel":"room"}}"#));
    bytes.extend(masked(r#"{"id":5,"publish":{"channel":"room","data":2}}"#));
    bench.turn(|shard| {
        let slot = shard.accept(Descriptor(39), 1).0;
        shard.input(slot, &mut bytes);
    });
    for (socket, writes) in bench.io.turn.iter().enumerate() {
        assert!((1..=2).contains(writes), "{writes} writes to {socket}");
    }
}

#[test]
fn a_connection_at_rest_owns_no_heap() {
    // Slabs double, so their spare room depends on the number: just below a power of two there is little. It is no
    // memory either until it is touched, but the allocator counts it.
    const CONNECTIONS: usize = 16_000;
    let mut bench = Bench::new(CONNECTIONS);
    bench.slots.reserve(CONNECTIONS);
    let info = measure(|| {
        for at in 0..CONNECTIONS {
            bench.connect(&format!(r#"{{"sub":"user{at}"}}"#), &[&format!("#user{at}")]);
        }
    });
    let each = info.bytes_current / CONNECTIONS as i64;
    println!("{each} bytes and {} blocks for {CONNECTIONS} connections at rest", info.count_current);
    assert!(each <= BYTES_AT_REST, "{each} bytes a connection");
    assert!(
        info.count_current < CONNECTIONS as i64 / 10,
        "{} blocks: some connections own heap",
        info.count_current
    );
    // A ping and its pong leave nothing behind.
    let writes = bench.io.writes;
    let info = measure(|| bench.ping_all());
    assert_eq!(bench.io.writes - writes, CONNECTIONS as u64, "a ping each");
    assert_eq!(bench.shard.connections(), CONNECTIONS);
    println!("{} bytes more after a ping and a pong each", info.bytes_current);
    assert!(info.bytes_current / CONNECTIONS as i64 <= 8, "{} bytes stay", info.bytes_current);
}
