//! `client.heartbeat = "tcp"` over real sockets whose network is pulled: a namespace of its own, with one cable for
//! the clients that lose it and one for those that do not. Needs root and `ip`, so it runs only where asked for:
//!
//!   cargo test --test heartbeat_network -- --ignored --nocapture
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the bans keep clocks off the data plane; this is a client beside it"
)]

#[path = "support/client.rs"]
mod client;
#[path = "support/server.rs"]
mod server;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use client::{Client, Received};
use serde_json::Value;

const SPACE: &str = "millpond-heartbeat";
const CLIENTS: u64 = 20;
/// A connection is quiet for so long before it is probed, and the probes may take so long.
const QUIET: Duration = Duration::from_secs(4);
const ANSWER: Duration = Duration::from_secs(2);

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).status().is_ok_and(|status| status.success())
}

/// A namespace with a server and two cables to here: `.1.` is pulled, `.2.` is not. Undone with the value.
struct Space {
    server: Child,
    _folder: tempfile::TempDir,
}

impl Space {
    fn new() -> Self {
        let _ = ip(&format!("netns del {SPACE}"));
        assert!(ip(&format!("netns add {SPACE}")), "this test needs root and ip");
        for cable in [1, 2] {
            let set_up = [
                format!("link add mp-hbo{cable} type veth peer name mp-hbi{cable} netns {SPACE}"),
                format!("addr add 10.214.{cable}.1/24 dev mp-hbo{cable}"),
                format!("link set mp-hbo{cable} up"),
                format!("-n {SPACE} addr add 10.214.{cable}.2/24 dev mp-hbi{cable}"),
                format!("-n {SPACE} link set mp-hbi{cable} up"),
            ];
            assert!(set_up.iter().all(|step| ip(step)));
        }
        assert!(ip(&format!("-n {SPACE} link set lo up")));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("millpond.toml");
        let config = format!(
            "client.insecure = true\nclient.heartbeat = \"tcp\"\nclient.ping_interval = \"{}s\"\n\
             client.pong_timeout = \"{}s\"\nhttp_server.internal_address = \"0.0.0.0\"\n",
            QUIET.as_secs(),
            ANSWER.as_secs()
        );
        std::fs::write(&file, config).unwrap();
        let server = Command::new("ip")
            .args(["netns", "exec", SPACE, env!("CARGO_BIN_EXE_millpond"), "serve", "--config"])
            .arg(&file)
            .args(["--listen", "0.0.0.0:8000", "--shards", "2"])
            .spawn()
            .unwrap();
        Self { server, _folder: folder }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = ip(&format!("netns del {SPACE}"));
    }
}

/// A connected client, and the reply to its connect command.
fn connect(cable: u8) -> Option<(Client, Value)> {
    let mut client = Client::open(SocketAddr::from(([10, 214, cable, 2], 8000)), "", None).ok()?;
    client.send_text(r#"{"id":1,"connect":{}}"#);
    let reply = client.json();
    Some((client, reply))
}

/// Sockets that the server holds, as it says about once a second.
fn held() -> u64 {
    let mut stream = TcpStream::connect(SocketAddr::from(([10, 214, 2, 2], 8001))).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let lines = page.lines().filter(|line| line.starts_with("millpond_shard_connections{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
#[ignore = "needs root"]
fn the_kernel_finds_who_is_dead_and_keeps_who_is_quiet() {
    let _space = Space::new();
    let start = Instant::now();
    let mut quiet = Vec::new();
    while quiet.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "the server does not answer");
        quiet.extend(connect(2));
        std::thread::sleep(Duration::from_millis(100));
    }
    quiet.extend((1..CLIENTS).map(|_| connect(2).unwrap()));
    let dead: Vec<_> = (0..CLIENTS).map(|_| connect(1).unwrap()).collect();
    for (_, reply) in quiet.iter().chain(&dead) {
        let connect = &reply["connect"];
        assert!(connect["client"].is_string() && connect.get("ping").is_none(), "{reply}");
        assert!(connect.get("pong").is_none(), "{reply}");
    }
    std::thread::sleep(QUIET + ANSWER + Duration::from_secs(3));
    assert_eq!(held(), 2 * CLIENTS, "silence alone ends nobody");

    assert!(ip("link set mp-hbo1 down"));
    let pulled = Instant::now();
    // What was heard of them last is at most one round of probes old.
    while held() > CLIENTS {
        assert!(pulled.elapsed() < Duration::from_secs(60), "{} are left", held());
        std::thread::sleep(Duration::from_millis(200));
    }
    println!(
        "{CLIENTS} of {} were found dead {:?} after the cable was pulled",
        2 * CLIENTS,
        pulled.elapsed()
    );
    assert_eq!(held(), CLIENTS);
    std::thread::sleep(QUIET + ANSWER);
    for (client, _) in &mut quiet {
        assert_eq!(client.next_within(Duration::from_millis(1)), None, "no ping, no close");
        client.send_text(r#"{"id":2,"presence_stats":{"channel":"x"}}"#);
        assert!(matches!(client.next(), Received::Message(_)));
    }
    assert_eq!(held(), CLIENTS);
}
