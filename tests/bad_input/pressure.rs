//! Section R: exhaustion.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::peer::{Peer, TEXT, text, upgrade};
use crate::server::{PATIENCE, Server, until};
use crate::table::Row;
use crate::table::Run::{Elsewhere, NotHere, Now, Slow};

pub(crate) const ROWS: &[Row] = &[
    Row { id: "R02", what: "connections that say nothing", run: Slow(silent_connections) },
    Row { id: "R03", what: "slow headers, slow frames", run: Elsewhere("H19, process.rs") },
    Row {
        id: "R04",
        what: "one publication larger than the queue, to a reader that stands still",
        run: Now(larger_than_the_queue),
    },
    Row {
        id: "R04b",
        what: "publications to a reader that stands still: 3008",
        run: Elsewhere("process.rs"),
    },
    Row { id: "R05", what: "out of descriptors", run: Elsewhere("process.rs") },
    Row { id: "R06", what: "descriptors free again", run: Elsewhere("process.rs") },
    Row { id: "R07", what: "no room", run: Elsewhere("process.rs") },
    Row { id: "R12", what: "one subscriber in ten stuck", run: Now(one_in_ten_stuck) },
    Row {
        id: "R15",
        what: "more commands than allowed: error 111, then 3013, as client-protocol.md has it",
        run: Slow(hot_user),
    },
    Row {
        id: "R15b",
        what: "a burst in one frame: every command is answered",
        run: Slow(burst_in_one_frame),
    },
    Row {
        id: "R21",
        what: "log sink blocked",
        run: NotHere("as a row: src/app/logging.rs drops lines beyond its buffer, untried here"),
    },
    Row {
        id: "R19",
        what: "disk full, disk stalls",
        run: NotHere("no connection waits for the disk; the log's own tests"),
    },
    Row { id: "+R1", what: "reconnect storm, ended in every way", run: Now(reconnect_storm) },
    Row { id: "+R2", what: "a client that disconnects in the middle of its commands", run: Now(vanishing) },
];

fn silent_connections(server: &Server) {
    let start = Instant::now();
    let mut peers: Vec<_> = (0..500).map(|_| Peer::silent(server.address)).collect();
    for peer in &mut peers {
        assert_eq!(peer.ending().bytes, b"");
    }
    let elapsed = start.elapsed();
    assert!(elapsed > Duration::from_millis(4500) && elapsed < Duration::from_secs(15), "{elapsed:?}");
}

/// A close frame behind a publication of which a part is sent once found the queue too long again, without end.
fn larger_than_the_queue(server: &Server) {
    let mut stuck: Vec<_> = (0..3).map(|_| Peer::connected(server.address)).collect();
    for peer in &mut stuck {
        assert_eq!(peer.ask(r#"{"id":2,"subscribe":{"channel":"fleeting:r04"}}"#)["id"], 2);
    }
    let large = json!({ "channel": "fleeting:r04", "data": "x".repeat(9 << 20) }).to_string();
    for _ in 0..3 {
        server.api("publish", &large);
    }
    let slow = || server.metric("millpond_client_num_server_disconnects", r#"code="3008""#);
    until("three slow readers are disconnected", || slow() > 2.5);
    Peer::connected(server.address);
}

fn one_in_ten_stuck(server: &Server) {
    const COUNT: usize = 30;
    let mut readers: Vec<_> = (0..10).map(|_| Peer::connected(server.address)).collect();
    for reader in &mut readers {
        assert_eq!(reader.ask(r#"{"id":2,"subscribe":{"channel":"fleeting:r12"}}"#)["id"], 2);
    }
    let stuck = readers.pop();
    let publication = json!({ "channel": "fleeting:r12", "data": "y".repeat(400_000) }).to_string();
    std::thread::scope(|scope| {
        let threads: Vec<_> = readers
            .iter_mut()
            .map(|reader| scope.spawn(|| (0..COUNT).filter(|_| reader.frame().0 == TEXT).count()))
            .collect();
        for _ in 0..COUNT {
            server.api("publish", &publication);
        }
        for thread in threads {
            assert_eq!(thread.join().unwrap(), COUNT);
        }
    });
    drop(stuck);
}

/// On a server of its own, which allows ten commands a second.
fn hot_user(_: &Server) {
    let config = json!({ "client": { "insecure": true, "command_rate_limit": 10 } });
    let server = Server::start(config, &["--shards", "1"]);
    let mut hot = Peer::connected(server.address);
    let mut calm = Peer::connected(server.address);
    let mut out = hot.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let many = text(r#"{"id":2,"unsubscribe":{"channel":"x"}}"#).repeat(1000);
        while std::io::Write::write_all(&mut out, &many).is_ok() {}
    });
    let start = Instant::now();
    let (mut done, mut refused) = (0, 0);
    let code = loop {
        let (opcode, payload) = hot.frame();
        if opcode != TEXT {
            break payload[..2].to_vec();
        }
        let payload = String::from_utf8(payload).unwrap();
        done += payload.matches(r#""unsubscribe":{}"#).count();
        refused += payload.matches(r#""code":111,"#).count();
        assert!(start.elapsed() < 2 * PATIENCE, "{done} done, {refused} refused, and no end");
    };
    assert_eq!(code, 3013_u16.to_be_bytes());
    let allowed = 10 * (usize::try_from(start.elapsed().as_secs()).unwrap() + 2);
    assert!(refused == 15 && done <= allowed, "{done} done, {refused} refused");
    assert_eq!(calm.ask(r#"{"id":2,"unsubscribe":{"channel":"x"}}"#)["id"], 2);
    drop((hot, calm));
    sender.join().unwrap();
    server.wait_until_empty();
}

/// Of 30 commands in one frame none is forgotten where reading pauses in the middle of them.
fn burst_in_one_frame(_: &Server) {
    let config = json!({ "client": { "insecure": true, "command_rate_limit": 10 } });
    let server = Server::start(config, &["--shards", "1"]);
    let mut peer = Peer::connected(server.address);
    let commands: Vec<_> =
        (2..32).map(|id| format!(r#"{{"id":{id},"unsubscribe":{{"channel":"x"}}}}"#)).collect();
    peer.send(&text(&commands.join("\n")));
    for (index, line) in peer.lines(30).iter().enumerate() {
        assert!(line.starts_with(&format!(r#"{{"id":{},"#, index + 2)), "{line}");
    }
    drop(peer);
    server.wait_until_empty();
}

fn reconnect_storm(server: &Server) {
    let commands = [text(r#"{"id":1,"connect":{}}"#), text(r#"{"id":2,"subscribe":{"channel":"storm"}}"#)];
    let bytes = [upgrade(), commands.concat()].concat();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let bytes = &bytes;
            scope.spawn(move || {
                for round in 0..300 {
                    let cut = if round % 2 == 0 { bytes.len() } else { (round * 7 + worker) % bytes.len() };
                    let mut peer = Peer::sending(server.address, &bytes[..cut]);
                    match round % 3 {
                        0 => peer.reset(),
                        1 => peer.finish(),
                        _ => drop(peer),
                    }
                }
            });
        }
    });
    let mut peer = Peer::connected(server.address);
    until("nobody is left in the channel", || {
        peer.ask(r#"{"id":2,"presence_stats":{"channel":"storm"}}"#)["presence_stats"]["num_clients"] == 0
    });
}

fn vanishing(server: &Server) {
    let mut bytes = [upgrade(), text(r#"{"id":1,"connect":{}}"#)].concat();
    for number in 0..60 {
        let channel = format!("vanish{number}");
        let commands = [
            format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#),
            format!(r#"{{"id":3,"presence":{{"channel":"{channel}"}}}}"#),
            format!(r#"{{"id":4,"publish":{{"channel":"{channel}","data":1}}}}"#),
        ];
        bytes.extend(text(&commands.join("\n")));
    }
    for round in 0..100 {
        let peer = Peer::sending(server.address, &bytes[..bytes.len() - round * 50]);
        if round % 2 == 0 { peer.reset() } else { drop(peer) }
    }
    let mut peer = Peer::connected(server.address);
    until("nobody is left in the channels", || {
        peer.ask(r#"{"id":2,"presence_stats":{"channel":"vanish0"}}"#)["presence_stats"]["num_clients"] == 0
    });
}
