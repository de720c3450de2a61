//! Section D: the end of the process. Each case has a server of its own.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::peer::{Peer, upgrade};
use crate::server::Server;
use crate::table::Row;
use crate::table::Run::{Elsewhere, NotHere, Slow};

pub(crate) const ROWS: &[Row] = &[
    Row {
        id: "D01",
        what: "SIGTERM, idle and with clients: 3001, as the page's preface has it",
        run: Elsewhere("process.rs"),
    },
    Row { id: "D02", what: "second SIGTERM; third", run: Slow(signalled_again) },
    Row { id: "D02b", what: "SIGINT", run: Slow(interrupted) },
    Row { id: "D03", what: "clients that ignore the close", run: Slow(ignored_close) },
    Row { id: "D04", what: "in the accept queue, in mid-handshake", run: Slow(in_mid_handshake) },
    Row { id: "D08", what: "a new process beside the old", run: NotHere("one process at a time") },
    Row { id: "D11", what: "reload of the configuration", run: NotHere("it is read at start") },
];

fn patient() -> Value {
    json!({ "client": { "insecure": true }, "shutdown": { "timeout": "600s" } })
}

/// More clients than may leave in one tick take as long as the window says; signals shorten it.
fn signalled_again(_: &Server) {
    let mut server = Server::start(patient(), &["--shards", "1"]);
    let mut peers: Vec<_> = (0..1500).map(|_| Peer::silent(server.address)).collect();
    Peer::connected(server.address);
    for _ in 0..3 {
        server.signal(Signal::TERM);
        std::thread::sleep(Duration::from_millis(100));
    }
    let start = Instant::now();
    assert_eq!(server.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    for peer in &mut peers {
        let answer = peer.ending().bytes;
        assert!(answer.starts_with(b"HTTP/1.1 503 "), "{}", answer.escape_ascii());
    }
}

fn interrupted(_: &Server) {
    let mut server = Server::start(patient(), &["--shards", "2"]);
    let mut peer = Peer::connected(server.address);
    server.signal(Signal::INT);
    assert_eq!(peer.closed(), 3001);
    assert_eq!(server.wait().code(), Some(0));
}

fn ignored_close(_: &Server) {
    let mut server = Server::start(patient(), &["--shards", "1"]);
    let mut peers: Vec<_> = (0..20).map(|_| Peer::connected(server.address)).collect();
    server.signal(Signal::TERM);
    let start = Instant::now();
    assert_eq!(server.wait().code(), Some(0));
    let elapsed = start.elapsed();
    assert!(elapsed > Duration::from_millis(800) && elapsed < Duration::from_secs(10), "{elapsed:?}");
    for peer in &mut peers {
        assert_eq!(peer.frame().0, crate::peer::CLOSE);
    }
}

/// Served or 503, never a reset.
fn in_mid_handshake(_: &Server) {
    let mut server = Server::start(patient(), &["--shards", "2"]);
    let request = upgrade();
    let mut peers: Vec<_> =
        (0..40).map(|number| Peer::sending(server.address, &request[..number * 3])).collect();
    Peer::connected(server.address);
    server.signal(Signal::TERM);
    // Some of these come into the accept queue while the listeners are open, the others find nobody.
    for _ in 0..200 {
        if let Ok(stream) = std::net::TcpStream::connect(server.address) {
            stream.set_read_timeout(Some(crate::server::PATIENCE)).unwrap();
            let mut peer = Peer { stream };
            peer.send(&request);
            peers.push(peer);
        }
    }
    for peer in &mut peers {
        let ending = peer.ending();
        let head = String::from_utf8_lossy(&ending.bytes).into_owned();
        let told = head.starts_with("HTTP/1.1 503 ") || head.starts_with("HTTP/1.1 101 ");
        assert!(told && !ending.by_reset, "{ending:?}");
    }
    assert_eq!(server.wait().code(), Some(0));
}
