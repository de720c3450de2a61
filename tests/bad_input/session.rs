//! Section P: the client protocol and the life of a connection.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::peer::{BINARY, CLOSE, FIN, PING, PONG, Peer, TEXT, assert_close, frame, masked, text, upgrade};
use crate::server::{PATIENCE, Server, until};
use crate::table::Row;
use crate::table::Run::{Elsewhere, NotHere, Now, Slow};
use crate::tokens::token;

const GOODBYE: [u8; 2] = 1000_u16.to_be_bytes();

pub(crate) const ROWS: &[Row] = &[
    Row { id: "P01", what: "data after our or their close", run: Now(data_after_close) },
    Row { id: "P02", what: "two closes; close then FIN; FIN without close", run: Now(closes_and_fins) },
    Row { id: "P03", what: "peer never answers our close", run: Slow(close_without_answer) },
    Row { id: "P04", what: "no pong: 3012", run: Slow(no_pong) },
    Row { id: "P05", what: "unsolicited pong of WebSocket: ignored", run: Now(unasked_pong) },
    Row {
        id: "P05b",
        what: "unsolicited pong of the client protocol: 3501, as client-protocol.md has it",
        run: Now(|server| bad_request(server, &["{}"])),
    },
    Row { id: "P06", what: "ping flood", run: Now(ping_flood) },
    Row { id: "P06b", what: "ping flood that never reads, 25 MB", run: Now(ping_flood_unread) },
    Row { id: "P07", what: "half-close by the peer", run: Now(half_close) },
    Row {
        id: "P07b",
        what: "half-close with output that the kernel does not take",
        run: Now(half_close_unread),
    },
    Row { id: "P07c", what: "a publication and a close, then RST", run: Now(reset_behind_words) },
    Row { id: "P08", what: "empty messages", run: Now(empty_messages) },
    Row {
        id: "P08b",
        what: "binary where text is expected: read all the same, as client-protocol.md has it",
        run: Now(binary_json),
    },
    Row { id: "P09", what: "JSON that nests, repeats, overflows", run: Now(strange_json) },
    Row {
        id: "P11",
        what: "unknown operation, no id, two operations: 3501 at once, as client-protocol.md has it",
        run: Now(unknown_operations),
    },
    Row { id: "P12", what: "100 000 subscriptions", run: Now(many_subscriptions) },
    Row { id: "P12b", what: "odd channels", run: Now(odd_channels) },
    Row { id: "P13", what: "publish and ask without permission", run: Now(without_permission) },
    Row { id: "P14", what: "positions nobody gave out", run: Now(foreign_positions) },
    Row { id: "P15", what: "the same publication again", run: Now(repeated_publication) },
    Row {
        id: "P17",
        what: "a user connects 50 times: 3504 for those beyond the limit, as client-protocol.md has it",
        run: Now(user_limit),
    },
    Row {
        id: "P18",
        what: "presence flapping",
        run: Elsewhere("user_presence.rs: states, not flaps, are told"),
    },
    Row { id: "P14b", what: "resume tokens", run: NotHere("the client protocol recovers by position (P14)") },
    Row { id: "+P1", what: "order of commands: none before connect, connect once", run: Now(order) },
    Row { id: "+P2", what: "Protobuf: lengths that lie, truncation, JSON", run: Now(strange_protobuf) },
    Row { id: "+P3", what: "10 000 commands in one go are answered in order", run: Now(pipelining) },
    Row { id: "+P4", what: "subscribe and unsubscribe in a row", run: Now(subscribe_loop) },
];

fn bad_request(server: &Server, messages: &[&str]) {
    for message in messages {
        assert_close(server.address, &text(message), 3501);
    }
}

fn history(server: &Server, channel: &str) -> serde_json::Value {
    let answer = server.api("history", &json!({ "channel": channel, "limit": -1 }).to_string());
    serde_json::from_str::<serde_json::Value>(&answer).unwrap()["result"]["publications"].clone()
}

fn data_after_close(server: &Server) {
    let late = text(r#"{"id":2,"publish":{"channel":"p01","data":1}}"#);
    for end in [frame(CLOSE, &GOODBYE), text("no command"), b"\x83\x80\0\0\0\0".to_vec()] {
        let mut peer = Peer::connected(server.address);
        peer.send(&[end.clone(), late.clone()].concat());
        assert_eq!(peer.frame().0, CLOSE);
        peer.send(&late);
        assert_eq!(peer.ending().bytes, b"");
    }
    assert_eq!(history(server, "p01"), json!([]));
}

fn closes_and_fins(server: &Server) {
    let mut peer = Peer::connected(server.address);
    peer.send(&frame(CLOSE, &GOODBYE).repeat(2));
    assert_eq!(peer.frame(), (CLOSE, GOODBYE.to_vec()));
    assert_eq!(peer.ending().bytes, b"");
    let mut peer = Peer::connected(server.address);
    peer.send(&frame(CLOSE, &GOODBYE));
    peer.finish();
    assert_eq!(peer.ending().bytes, [0x88, 2, 0x03, 0xE8]);
    let mut peer = Peer::connected(server.address);
    peer.finish();
    assert_eq!(peer.ending().bytes, b"");
}

fn close_without_answer(server: &Server) {
    let mut peer = Peer::connected(server.address);
    peer.send(&text("no command"));
    assert_eq!(peer.frame().0, CLOSE);
    let start = Instant::now();
    while std::io::Write::write_all(&mut peer.stream, b"x").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
        assert!(start.elapsed() < PATIENCE, "the connection was never reset");
    }
    assert!(start.elapsed() > Duration::from_millis(800), "reset after {:?}", start.elapsed());
}

/// On a server of its own, whose clients have two seconds.
fn no_pong(_: &Server) {
    let config = json!({ "client": { "insecure": true, "ping_interval": "2s", "pong_timeout": "1s" } });
    let server = Server::start(config, &["--shards", "1"]);
    let mut silent = Peer::connected(server.address);
    let mut alive = Peer::connected(server.address);
    let start = Instant::now();
    assert_eq!(silent.frame(), (TEXT, b"{}".to_vec()));
    assert_eq!(silent.closed(), 3012);
    assert!(start.elapsed() > Duration::from_millis(1900), "{:?}", start.elapsed());
    assert_eq!(alive.frame(), (TEXT, b"{}".to_vec()));
    drop(alive);
    let mut answering = Peer::connected(server.address);
    for _ in 0..2 {
        assert_eq!(answering.json(), json!({}));
        answering.send(&text("{}"));
    }
    assert_eq!(answering.ask(r#"{"id":2,"unsubscribe":{"channel":"x"}}"#)["id"], 2);
    drop((silent, answering));
    server.wait_until_empty();
}

/// The server sees words and RST at once, as a busy one does. The server is one of its own: it is stopped.
fn reset_behind_words(_: &Server) {
    let server = Server::start(json!({ "client": { "insecure": true } }), &["--shards", "1"]);
    let mut reader = Peer::connected(server.address);
    assert_eq!(reader.ask(r#"{"id":2,"subscribe":{"channel":"x"}}"#)["id"], 2);
    let mut peer = Peer::connected(server.address);
    server.signal(Signal::STOP);
    let publish = text(r#"{"id":2,"publish":{"channel":"x","data":{"last":"words"}}}"#);
    peer.send(&[publish, frame(CLOSE, &GOODBYE)].concat());
    peer.reset();
    std::thread::sleep(Duration::from_millis(100));
    server.signal(Signal::CONT);
    assert_eq!(reader.json()["push"]["pub"]["data"]["last"], "words");
}

fn unasked_pong(server: &Server) {
    let mut peer = Peer::connected(server.address);
    peer.send(&[frame(PONG, b""), frame(PONG, b"unasked")].concat());
    assert_eq!(peer.ask(r#"{"id":2,"unsubscribe":{"channel":"x"}}"#)["id"], 2);
}

fn ping_flood(server: &Server) {
    let mut peer = Peer::connected(server.address);
    peer.send(&frame(PING, b"x").repeat(500));
    let mut pongs = 0;
    let code = loop {
        match peer.frame() {
            (PONG, _) => pongs += 1,
            (CLOSE, payload) => break payload[..2].to_vec(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((code, pongs), (1008_u16.to_be_bytes().to_vec(), 20));
}

fn ping_flood_unread(server: &Server) {
    let mut peer = Peer::connected(server.address);
    let pings = frame(PING, &[b'x'; 125]).repeat(500);
    // 25 MB, unless the server ends it before.
    let sent = (0..400).take_while(|_| std::io::Write::write_all(&mut peer.stream, &pings).is_ok()).count();
    // What came behind the close frame was thrown away.
    let answer = peer.ending();
    assert!(
        answer.by_reset || answer.bytes.len() < 20 * 127 + 50,
        "{sent} pieces, {} bytes",
        answer.bytes.len()
    );
}

fn half_close(server: &Server) {
    let mut peer = Peer::connected(server.address);
    let publish = |id| text(&format!(r#"{{"id":{id},"publish":{{"channel":"p07","data":{id}}}}}"#));
    peer.send(&(2..32).map(publish).collect::<Vec<_>>().concat());
    peer.finish();
    let answer = String::from_utf8_lossy(&peer.ending().bytes).into_owned();
    assert_eq!(answer.matches(r#""publish":{}"#).count(), 30, "{answer}");
    assert_eq!(history(server, "p07").as_array().map(Vec::len), Some(10));
}

/// What waits for a slow reader is not cut off: it is there in whole frames, or the reader is told 3008.
fn half_close_unread(server: &Server) {
    const ASKED: usize = 6;
    let publication = json!({ "channel": "p07b", "data": "x".repeat(60_000) }).to_string();
    (0..10).for_each(|_| drop(server.api("publish", &publication)));
    let ask = text(r#"{"id":2,"history":{"channel":"p07b","limit":-1}}"#).repeat(ASKED);
    for end in [Vec::new(), frame(CLOSE, &GOODBYE)] {
        let mut peer = Peer::with_small_window(server.address);
        peer.send(&[upgrade(), text(r#"{"id":1,"connect":{}}"#), ask.clone(), end.clone()].concat());
        peer.finish();
        std::thread::sleep(Duration::from_millis(200));
        let bytes = peer.ending().bytes;
        let answers = bytes.windows(10).filter(|window| window == br#""history":"#).count();
        let is_slow = bytes.ends_with(b"slow");
        assert!(answers == ASKED || is_slow, "{answers} answers in {} bytes", bytes.len());
        assert!(is_slow || bytes.ends_with(if end.is_empty() { b"}}" } else { &GOODBYE }), "cut off");
    }
    server.api("history_remove", r#"{"channel":"p07b"}"#);
}

fn empty_messages(server: &Server) {
    bad_request(server, &["", "\n", " ", "{}\n\n", "\n{\"id\":2,\"unsubscribe\":{\"channel\":\"x\"}}"]);
    assert_close(server.address, &frame(BINARY, b""), 3501);
    let mut peer = Peer::connected(server.address);
    let ends_in_newline = "{\"id\":2,\"unsubscribe\":{\"channel\":\"x\"}}\n";
    assert_eq!(peer.ask(ends_in_newline)["id"], 2);
}

fn binary_json(server: &Server) {
    let mut peer = Peer::connected(server.address);
    peer.send(&frame(BINARY, br#"{"id":2,"unsubscribe":{"channel":"x"}}"#));
    assert_eq!(peer.json()["id"], 2);
    assert_close(server.address, &frame(BINARY, b"\x04\x08\x01\x22\x00"), 3501);
    assert_close(server.address, &frame(BINARY, b"\xFF\xFE"), 3501);
}

fn strange_json(server: &Server) {
    let nested = |depth: usize| {
        let data = "[".repeat(depth) + &"]".repeat(depth);
        format!(r#"{{"id":2,"publish":{{"channel":"p09","data":{data}}}}}"#)
    };
    bad_request(server, &[&nested(10_000), &nested(129), &"[".repeat(60_000), &"{\"a\":".repeat(10_000)]);
    bad_request(
        server,
        &[
            r#"{"id":2,"id":3,"unsubscribe":{"channel":"x"}}"#,
            r#"{"id":2,"unsubscribe":{"channel":"x","channel":"y"}}"#,
            r#"{"id":99999999999999999999,"unsubscribe":{"channel":"x"}}"#,
            r#"{"id":-1,"unsubscribe":{"channel":"x"}}"#,
            r#"{"id":1.5,"unsubscribe":{"channel":"x"}}"#,
            r#"{"id":"2","unsubscribe":{"channel":"x"}}"#,
            r#"{"id":2,"subscribe":{"channel":"\ud800"}}"#,
            r#"{"id":2,"subscribe":{"channel":["x"]}}"#,
            r#"{"id":2,"publish":{"channel":"x","data":"\udc00 alone"}}"#,
            r#"{"id":2,"publish":{"channel":"x","data":01}}"#,
            r#"{"id":2,"publish":{"channel":"x","data":NaN}}"#,
            r#"{"id":2,"unsubscribe":{"channel":"x"}"#,
            r#"{"id":2,"unsubscribe":{"channel":"x"}}x"#,
            r#"{'id':2}"#,
            "[]",
            "null",
            "1",
            "\"x\"",
            "\u{feff}{}",
        ],
    );
    assert_close(server.address, &text(&"[".repeat(1 << 20)), 1009);
    let mut peer = Peer::connected(server.address);
    assert_eq!(peer.ask(&nested(128))["id"], 2);
    let unknown = r#"{"id":3,"unsubscribe":{"channel":"x","new":{"a":[1e400]}},"newer":null}"#;
    assert_eq!(peer.ask(unknown)["id"], 3);
}

fn unknown_operations(server: &Server) {
    bad_request(
        server,
        &[
            r#"{"id":2,"frobnicate":{}}"#,
            r#"{"id":2}"#,
            r#"{"id":2,"ping":{}}"#,
            r#"{"unsubscribe":{"channel":"x"}}"#,
            r#"{"id":0,"unsubscribe":{"channel":"x"}}"#,
            r#"{"id":2,"subscribe":{}}"#,
            r#"{"id":2,"publish":{"data":1}}"#,
            r#"{"id":2,"presence":{}}"#,
            r#"{"id":2,"refresh":{}}"#,
            r#"{"id":2,"subscribe":{"channel":"x","delta":"lzma"}}"#,
        ],
    );
    assert_close(server.address, &text(r#"{"send":{"data":1}}"#), 3508);
    let mut peer = Peer::connected(server.address);
    assert_eq!(peer.ask(r#"{"id":2,"rpc":{"method":"x"}}"#)["error"]["code"], 108);
    assert_eq!(peer.ask(r#"{"id":3,"sub_refresh":{"channel":"x","token":"y"}}"#)["error"]["code"], 103);
}

fn many_subscriptions(server: &Server) {
    const COUNT: usize = 100_000;
    let mut peer = Peer::connected(server.address);
    let mut out = peer.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for number in 0..COUNT {
            let command = format!(r#"{{"id":{},"subscribe":{{"channel":"p12-{number}"}}}}"#, number + 2);
            std::io::Write::write_all(&mut out, &text(&command)).unwrap();
        }
    });
    let (mut granted, mut refused, mut seen) = (0, 0, 0);
    while seen < COUNT {
        let (opcode, payload) = peer.frame();
        assert_eq!(opcode, TEXT);
        for line in String::from_utf8(payload).unwrap().lines() {
            assert!(line.starts_with(&format!(r#"{{"id":{},"#, seen + 2)), "after {seen} replies: {line}");
            seen += 1;
            granted += usize::from(line.contains(r#""subscribe":"#));
            refused += usize::from(line.contains(r#""code":106,"#));
        }
    }
    sender.join().unwrap();
    assert_eq!((granted, refused), (128, COUNT - 128));
}

fn odd_channels(server: &Server) {
    let mut peer = Peer::connected(server.address);
    let long = "a".repeat(256);
    let huge = "a".repeat(60_000);
    for (channel, code) in [
        ("\\u0000", 107),
        ("a\\u0000b", 107),
        ("a b\\u0007", 107),
        ("ä", 107),
        (&*long, 107),
        (&*huge, 107),
        ("nowhere:x", 102),
        (":x", 102),
        ("$private", 103),
        ("closed:x", 103),
    ] {
        let reply = peer.ask(&format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#));
        assert_eq!(reply["error"]["code"], code, "{channel}: {reply}");
    }
    let twice = r#"{"id":2,"subscribe":{"channel":"twice"}}"#;
    assert_eq!(peer.ask(twice)["subscribe"], json!({}));
    assert_eq!(peer.ask(twice)["error"]["code"], 105);
}

fn without_permission(server: &Server) {
    let mut peer = Peer::connected(server.address);
    for command in [
        r#"{"id":2,"publish":{"channel":"closed:x","data":1}}"#,
        r#"{"id":2,"subscribe":{"channel":"$x"}}"#,
        r#"{"id":2,"publish":{"channel":"x","data":1,"type":1,"key":"k"}}"#,
    ] {
        assert_eq!(peer.ask(command)["error"]["code"], 103, "{command}");
    }
    for command in [
        r#"{"id":2,"presence":{"channel":"closed:x"}}"#,
        r#"{"id":2,"presence_stats":{"channel":"closed:x"}}"#,
        r#"{"id":2,"history":{"channel":"closed:x"}}"#,
    ] {
        assert_eq!(peer.ask(command)["error"]["code"], 108, "{command}");
    }
    assert_eq!(peer.ask(r#"{"id":2,"publish":{"channel":"x"}}"#)["error"]["code"], 107);
    let counted = || server.metric("millpond_client_num_reply_errors", r#"code="103""#) > 0.5;
    until("the errors are counted", counted);
}

fn foreign_positions(server: &Server) {
    let mut peer = Peer::connected(server.address);
    server.api("publish", r#"{"channel":"p14","data":1}"#);
    for (since, code) in [(r#"{"offset":1,"epoch":"_"}"#, 112), (r#"{"offset":1,"epoch":"zzzzzzzz"}"#, 112)] {
        let ask = format!(r#"{{"id":2,"history":{{"channel":"p14","limit":5,"since":{since}}}}}"#);
        assert_eq!(peer.ask(&ask)["error"]["code"], code, "{since}");
    }
    let far = r#"{"id":3,"history":{"channel":"p14","limit":5,"since":{"offset":18446744073709551615}}}"#;
    assert_eq!(peer.ask(far)["history"]["publications"], json!([]));
    let back = r#"{"id":4,"history":{"channel":"p14","limit":5,"since":{"offset":0},"reverse":true}}"#;
    assert_eq!(peer.ask(back)["error"]["code"], 107);
    for limit in ["-5", "2147483647", "-2147483648"] {
        let ask = format!(r#"{{"id":5,"history":{{"channel":"p14","limit":{limit}}}}}"#);
        assert_eq!(peer.ask(&ask)["id"], 5);
    }
    let subscribe = r#"{"id":6,"subscribe":{"channel":"p14","recover":true,"offset":99,"epoch":"_"}}"#;
    assert!(peer.ask(subscribe)["subscribe"]["recovered"].is_null());
}

fn repeated_publication(server: &Server) {
    let mut peer = Peer::connected(server.address);
    assert_eq!(peer.ask(r#"{"id":2,"subscribe":{"channel":"p15"}}"#)["id"], 2);
    let publication = r#"{"channel":"p15","data":"once","idempotency_key":"k"}"#;
    let first = server.api("publish", publication);
    assert_eq!(server.api("publish", publication), first);
    server.api("publish", r#"{"channel":"p15","data":"end"}"#);
    assert_eq!(peer.json()["push"]["pub"]["data"], "once");
    assert_eq!(peer.json()["push"]["pub"]["data"], "end");
}

fn user_limit(server: &Server) {
    let connect = json!({ "id": 1, "connect": { "token": token(&json!({ "sub": "p17" })) } }).to_string();
    let mut peers: Vec<_> = (0..50)
        .map(|_| {
            let mut peer = Peer::upgraded(server.address);
            peer.send(&text(&connect));
            peer
        })
        .collect();
    let told = peers
        .iter_mut()
        .map(Peer::frame)
        .filter(|(opcode, payload)| *opcode == CLOSE && payload.starts_with(&3504_u16.to_be_bytes()));
    assert_eq!(told.count(), 47);
}

fn order(server: &Server) {
    for first in [r#"{"id":1,"subscribe":{"channel":"x"}}"#, "{}", r#"{"id":1,"ping":{}}"#, ""] {
        let mut peer = Peer::upgraded(server.address);
        peer.send(&text(first));
        assert_eq!(peer.closed(), 3501, "{first}");
    }
    bad_request(server, &[r#"{"id":2,"connect":{}}"#]);
    let both = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"connect\":{}}";
    let mut peer = Peer::upgraded(server.address);
    peer.send(&text(both));
    assert_eq!(peer.closed(), 3501);
    // What stands behind the fault is not run.
    let mut peer = Peer::connected(server.address);
    peer.send(&text("{\"id\":2,\"ping\":{}}\n{\"id\":3,\"publish\":{\"channel\":\"order\",\"data\":1}}"));
    assert_eq!(peer.closed(), 3501);
    assert_eq!(history(server, "order"), json!([]));
}

fn strange_protobuf(server: &Server) {
    let offer = ["Sec-WebSocket-Protocol: centrifuge-protobuf"];
    let upgrade = crate::peer::upgrade_with("Sec-WebSocket-Protocol", &offer);
    for bytes in [
        &b""[..],
        b"\x05\x08",
        b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F",
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\x80",
        b"\x02\x08\x80",
        b"\x03\x0A\x7F\x00",
        b"\x04\x08\x01\x27\x00",
        b"\x02\x08\x02",
        b"\x00",
        br#"{"id":1,"connect":{}}"#,
    ] {
        let mut peer = Peer::sending(server.address, &[&upgrade[..], &frame(BINARY, bytes)].concat());
        let answer = peer.ending().bytes;
        let close = &answer[answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4..];
        assert_eq!(&close[2..4], 3501_u16.to_be_bytes(), "{}", bytes.escape_ascii());
    }
}

fn pipelining(server: &Server) {
    const COUNT: usize = 10_000;
    let mut peer = Peer::sending(server.address, &upgrade());
    let mut out = peer.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let mut bytes = text(r#"{"id":1,"connect":{}}"#);
        for id in 2..COUNT + 2 {
            let command = match id % 3 {
                0 => format!(r#"{{"id":{id},"history":{{"channel":"c{}"}}}}"#, id % 7),
                1 => format!(r#"{{"id":{id},"unsubscribe":{{"channel":"c"}}}}"#),
                _ => format!(r#"{{"id":{id},"publish":{{"channel":"fleeting:{}","data":{id}}}}}"#, id % 5),
            };
            bytes.extend(masked(FIN | TEXT, [id as u8; 4], command.as_bytes()));
        }
        std::io::Write::write_all(&mut out, &bytes).unwrap();
    });
    let mut head = vec![0; crate::peer::SWITCHED.len()];
    std::io::Read::read_exact(&mut peer.stream, &mut head).unwrap();
    let lines = peer.lines(COUNT + 1);
    for (index, line) in lines.iter().enumerate() {
        assert!(line.starts_with(&format!(r#"{{"id":{},"#, index + 1)), "{line}");
    }
    sender.join().unwrap();
}

fn subscribe_loop(server: &Server) {
    let mut peer = Peer::connected(server.address);
    let round =
        "{\"id\":2,\"subscribe\":{\"channel\":\"loop\"}}\n{\"id\":3,\"unsubscribe\":{\"channel\":\"loop\"}}";
    let rounds = [round; 100].join("\n");
    peer.send(&text(&rounds));
    let lines = peer.lines(200);
    assert!(lines.iter().all(|line| !line.contains("error")), "{lines:?}");
    let last = peer.ask(r#"{"id":4,"presence_stats":{"channel":"loop"}}"#);
    assert_eq!(last["presence_stats"]["num_clients"], 0);
}
