//! `kill -9` again and again under the real process (bad-input.md S01): publishers send through the API, clients
//! acknowledge by pong, by call, or not at all, and one comes only at the end. Every acknowledged send arrives, in order,
//! at least once; nothing arrives that was not sent; no message is taken for acknowledged that no client has seen.
//!
//! `MILLPOND_CRASH_ROUNDS=200` runs longer (`cargo xtask soak crash`), `SEED=n` repeats a run's choices.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the bans keep clocks off the data plane; these are clients and backends beside it"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

#[path = "support/client.rs"]
mod client;
#[path = "mailbox_crash/ledger.rs"]
mod ledger;
#[path = "mailbox_crash/publisher.rs"]
mod publisher;
#[path = "mailbox_crash/reader.rs"]
mod reader;
#[path = "support/server.rs"]
mod server;

use ledger::{Ledger, Totals};
use publisher::Caller;
use reader::Kind;
use server::Server;

/// What CI can afford: about half a minute.
const ROUNDS: u64 = 20;
const PUBLISHERS: u64 = 3;
/// One user of each kind for each publisher.
const KINDS: [Kind; 5] = [Kind::Pong, Kind::Call, Kind::Resume, Kind::Silent, Kind::Late];
/// Pings come from half a second on, so that some rounds see a pong and some do not.
const ROUND_MS: std::ops::Range<u64> = 100..1500;
/// From the last start to the last message.
const FINALE: Duration = Duration::from_secs(120);
const SECRET: &str = "the secret of the crash test, 32 bytes";

/// What all threads share.
struct World {
    /// Where clients and backends find the server; `None` while it is down.
    addresses: Mutex<Option<(SocketAddr, SocketAddr)>>,
    users: Vec<User>,
    /// Publishers stop.
    sent: AtomicBool,
    /// Those who were away all the time come.
    finale: AtomicBool,
    /// Readers stop.
    done: AtomicBool,
    sessions: AtomicU64,
}

struct User {
    name: String,
    kind: Kind,
    ledger: Mutex<Ledger>,
}

fn config(storage: &Path) -> Value {
    json!({
        "client": {
            "ping_interval": "1s",
            "pong_timeout": "500ms",
            "token": { "hmac_secret_key": SECRET },
            "subscribe_to_user_personal_channel": { "enabled": true },
        },
        // Small files, so that rounds end in all stages of their lives.
        "storage": { "path": storage, "segment_size": "256KiB", "maintenance_interval": "1s" },
        "mailbox": {
            "enabled": true, "max_messages": 1_000_000, "max_bytes": "1GiB", "max_deliveries": 0, "ack_wait": "2s",
            "replay_page": 100,
        },
        "shutdown": { "timeout": "1s" },
    })
}

#[test]
fn kill_9_loses_no_acknowledged_message_and_reorders_none() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds = number("MILLPOND_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("SEED").unwrap_or(20_261_124);
    println!("SEED={seed} MILLPOND_CRASH_ROUNDS={rounds}");
    // Beside the build, as directories for temporary files may be in memory, where the log refuses to be.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let world = Arc::new(World::new());
    let threads: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| spawn(&world, move |world| publisher::publish(world, publisher, seed)))
        .chain((0..world.users.len()).map(|index| spawn(&world, move |world| reader::read(world, index))))
        .collect();
    let mut random = Random(seed);
    let config = config(&folder.path().join("log"));
    for round in 0..rounds {
        let mut server = world.start(&config);
        thread::sleep(Duration::from_millis(ROUND_MS.start + random.below(ROUND_MS.end - ROUND_MS.start)));
        server.signal(Signal::KILL);
        // Only now, so that sends are under way when it happens.
        world.stop();
        server.wait();
        if (round + 1) % 20 == 0 {
            println!("after {} rounds: {}", round + 1, world.totals());
        }
    }
    let server = world.finish(&config);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    world.judge(&server);
    let sessions = world.sessions.load(Ordering::Relaxed);
    println!("{rounds} kills, {sessions} sessions: {}", world.totals());
    let totals = world.totals();
    assert!(totals.acknowledged > rounds * 10, "hardly anything was sent: {totals}");
    assert!(totals.again > 0, "nothing came twice, so nothing was replayed");
}

fn spawn(world: &Arc<World>, run: impl FnOnce(&World) + Send + 'static) -> thread::JoinHandle<()> {
    let world = Arc::clone(world);
    thread::spawn(move || run(&world))
}

impl World {
    fn new() -> Self {
        let user = |publisher: u64, kind: Kind| User {
            name: format!("{kind:?}-{publisher}").to_lowercase(),
            kind,
            ledger: Mutex::default(),
        };
        let users = (0..PUBLISHERS).flat_map(|publisher| KINDS.map(|kind| user(publisher, kind)));
        Self {
            addresses: Mutex::new(None),
            users: users.collect(),
            sent: AtomicBool::new(false),
            finale: AtomicBool::new(false),
            done: AtomicBool::new(false),
            sessions: AtomicU64::new(0),
        }
    }

    /// The users of one publisher, which alone sends to them.
    fn users_of(&self, publisher: u64) -> &[User] {
        let first = usize::try_from(publisher).unwrap() * KINDS.len();
        &self.users[first..first + KINDS.len()]
    }

    fn start(&self, config: &Value) -> Server {
        let server = Server::start(config.clone(), &["--shards", "2"]);
        *self.addresses.lock().unwrap() = Some((server.address, server.internal));
        server
    }

    fn stop(&self) {
        *self.addresses.lock().unwrap() = None;
    }

    /// The last start: no more sends, everybody reads until everything is there.
    fn finish(&self, config: &Value) -> Server {
        self.sent.store(true, Ordering::Release);
        self.finale.store(true, Ordering::Release);
        let server = self.start(config);
        let start = Instant::now();
        while start.elapsed() < FINALE
            && self.users.iter().any(|user| user.ledger.lock().unwrap().misses_some())
        {
            thread::sleep(Duration::from_millis(50));
        }
        self.done.store(true, Ordering::Release);
        server
    }

    fn judge(&self, server: &Server) {
        let mut caller = Caller::new();
        for user in &self.users {
            let ledger = user.ledger.lock().unwrap();
            let missing = ledger.missing();
            assert!(missing.is_empty(), "{}: acknowledged and never delivered: {missing:?}", user.name);
            let info = caller.call(server.internal, "mailbox_info", &json!({ "user": user.name })).unwrap();
            let cursor = info["result"]["cursor"].as_u64().unwrap_or_else(|| panic!("{info}"));
            assert!(
                cursor <= ledger.may_be_acknowledged(),
                "{}: the cursor is at {cursor}, the client acknowledged {} at most",
                user.name,
                ledger.may_be_acknowledged()
            );
            if user.kind != Kind::Silent && user.kind != Kind::Late {
                continue;
            }
            // Nobody acknowledged anything, so everything still waits.
            let waits = info["result"]["messages"].as_u64().unwrap();
            assert_eq!(waits, ledger.delivered(), "{}: {info}", user.name);
        }
    }

    fn totals(&self) -> Totals {
        self.users.iter().fold(Totals::default(), |sum, user| sum + user.ledger.lock().unwrap().totals())
    }
}

/// Small and repeatable.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}
