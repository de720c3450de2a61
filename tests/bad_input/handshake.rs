//! Section H: request heads.

use std::time::{Duration, Instant};

use crate::peer::{GOOD, LINE, Peer, SWITCHED, assert_status, request, text, upgrade, upgrade_with};
use crate::server::Server;
use crate::table::Row;
use crate::table::Run::{Elsewhere, NotHere, Now, Slow};

pub(crate) const ROWS: &[Row] = &[
    Row { id: "H01", what: "good request in one segment", run: Now(|server| switched(server, &[upgrade()])) },
    Row { id: "H02", what: "one byte per segment", run: Now(one_byte_at_a_time) },
    Row {
        id: "H03",
        what: "HTTP/1.0",
        run: Now(|server| lines(server, &["GET /connection/websocket HTTP/1.0"], 505)),
    },
    Row { id: "H04", what: "HTTP/2.0 and the preface of HTTP/2", run: Now(http_2) },
    Row { id: "H05", what: "POST, PUT, CONNECT", run: Now(methods) },
    Row {
        id: "H06",
        what: "lower-case get",
        run: Now(|server| lines(server, &["get /connection/websocket HTTP/1.1"], 400)),
    },
    Row {
        id: "H07",
        what: "no Host, two, an empty one",
        run: Now(|server| headers(server, "Host", &[&[], &["Host: a", "Host: a"], &["Host:"]], 400)),
    },
    Row { id: "H08", what: "no Upgrade, no Connection: Upgrade", run: Now(no_upgrade) },
    Row { id: "H09", what: "lists, odd case, several Connection lines", run: Now(connection_lists) },
    Row {
        id: "H10",
        what: "Upgrade: websocket, foo",
        run: Now(|server| headers(server, "Upgrade", &[&["Upgrade: websocket, foo"]], 400)),
    },
    Row { id: "H11", what: "other versions", run: Now(versions) },
    Row { id: "H12", what: "control bytes in the target", run: Now(control_bytes_in_target) },
    Row {
        id: "H13",
        what: "NUL, bare CR, bare LF in a value",
        run: Now(|server| headers(server, "X", &[&["X: a\0b"], &["X: a\rb"], &["X: a\nb: c"]], 400)),
    },
    Row { id: "H14", what: "bad keys", run: Now(keys) },
    Row { id: "H15", what: "key or version twice", run: Now(twice) },
    Row { id: "H16", what: "head of more than 8 KiB", run: Now(head_too_large) },
    Row { id: "H17", what: "more than 64 headers", run: Now(too_many_headers) },
    Row { id: "H18", what: "one header of 1 MiB", run: Now(endless_header) },
    Row { id: "H19", what: "one byte every 50 ms", run: Slow(dawdling) },
    Row {
        id: "H20",
        what: "target of 64 KiB",
        run: Now(|server| lines(server, &[&format!("GET /{} HTTP/1.1", "a".repeat(65_536))], 414)),
    },
    Row {
        id: "H23",
        what: "Content-Length on the upgrade",
        run: Now(|server| headers(server, "Content", &[&["Content-Length: 5"]], 400)),
    },
    Row {
        id: "H24",
        what: "Transfer-Encoding on the upgrade",
        run: Now(|server| headers(server, "Transfer", &[&["Transfer-Encoding: chunked"]], 400)),
    },
    Row { id: "H25", what: "contradictory lengths", run: Now(lengths) },
    Row { id: "H26", what: "LF-only line ends", run: Now(line_feeds) },
    Row {
        id: "H27",
        what: "space before colon, folding, empty name, no colon",
        run: Now(|server| headers(server, "X", &[&["X : a"], &["X: a", " b"], &[": a"], &["X"]], 400)),
    },
    Row { id: "H29", what: "frames glued behind the request", run: Now(glued_frames) },
    Row { id: "H30", what: "a second request glued behind", run: Now(smuggled) },
    Row { id: "H32", what: "odd and unknown paths", run: Now(paths) },
    Row { id: "H33", what: "TLS on the plain port", run: Now(tls) },
    Row { id: "H34", what: "random bytes, SSH, SMTP", run: Now(not_http) },
    Row { id: "H35", what: "FIN behind the request", run: Now(half_closed) },
    Row { id: "H36", what: "RST between accept and first read", run: Now(reset_at_once) },
    Row { id: "H37", what: "PROXY protocol from nobody we trust", run: Now(proxy_protocol) },
    Row { id: "+H1", what: "upgrade of 64 headers and 8 KiB", run: Now(just_within) },
    Row { id: "+H2", what: "subprotocols: none, empty, unknown, twice", run: Now(subprotocols) },
    Row { id: "+H3", what: "extension offers of all kinds (X01, X05)", run: Now(extensions) },
    Row { id: "H33b", what: "plain HTTP on the TLS port", run: NotHere("there is no TLS port") },
    Row { id: "H37b", what: "PROXY protocol from a trusted peer", run: NotHere("it cannot be configured") },
    Row { id: "H19b", what: "at one byte a second, and silent", run: Elsewhere("process.rs") },
];

fn switched(server: &Server, requests: &[Vec<u8>]) {
    for request in requests {
        let mut peer = Peer::sending(server.address, request);
        peer.finish();
        let answer = peer.ending().bytes;
        assert_eq!(answer.escape_ascii().to_string(), SWITCHED.as_bytes().escape_ascii().to_string());
    }
}

fn lines(server: &Server, lines: &[&str], status: u16) {
    for line in lines {
        assert_status(server.address, &request(line, &GOOD), status);
    }
}

/// The good upgrade with the headers of this name replaced, in each of these ways.
fn headers(server: &Server, name: &str, replacements: &[&[&str]], status: u16) {
    for replacement in replacements {
        assert_status(server.address, &upgrade_with(name, replacement), status);
    }
}

fn answer_to(server: &Server, bytes: &[u8]) -> String {
    String::from_utf8(Peer::sending(server.address, bytes).ending().bytes).unwrap()
}

fn one_byte_at_a_time(server: &Server) {
    let mut peer = Peer::silent(server.address);
    peer.send_in_pieces(&upgrade(), 1, Duration::from_micros(100));
    peer.finish();
    assert_eq!(peer.ending().bytes, SWITCHED.as_bytes());
}

fn http_2(server: &Server) {
    lines(server, &["GET /connection/websocket HTTP/2.0", "GET / HTTP/3.0"], 505);
    assert_status(server.address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
}

fn methods(server: &Server) {
    for method in ["POST", "PUT", "HEAD", "OPTIONS", "DELETE", "CONNECT", "BREW"] {
        let line = format!("{method} /connection/websocket HTTP/1.1");
        let answer = answer_to(server, &request(&line, &GOOD));
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nAllow: GET\r\n"), "{answer}");
    }
    lines(server, &["CONNECT localhost:80 HTTP/1.1"], 405);
}

fn no_upgrade(server: &Server) {
    headers(server, "Upgrade", &[&[], &["Upgrade: h2c"]], 426);
    headers(server, "Connection", &[&[], &["Connection: keep-alive"]], 426);
    let answer = answer_to(server, &upgrade_with("Upgrade", &[]));
    assert!(answer.contains("\r\nUpgrade: websocket\r\n"), "{answer}");
}

fn connection_lists(server: &Server) {
    let replacements: [&[&str]; 4] = [
        &["Connection: keep-alive, Upgrade"],
        &["CONNECTION:uPGRADE"],
        &["Connection: keep-alive", "Connection: , upgrade ,"],
        &["connection: Upgrade\t", "Connection: x"],
    ];
    switched(server, &replacements.map(|lines| upgrade_with("Connection", lines)));
    switched(server, &[upgrade_with("Upgrade", &["uPGRADE: WebSocket"])]);
}

fn versions(server: &Server) {
    let name = "Sec-WebSocket-Version";
    let bad = ["12", "8", "13, 8", "013", "", "1 3"].map(|value| format!("{name}: {value}"));
    for header in bad.iter().map(|header| [header.as_str()]) {
        headers(server, name, &[&header], 426);
        let answer = answer_to(server, &upgrade_with(name, &header));
        assert!(answer.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{answer}");
    }
    headers(server, name, &[&[]], 426);
}

fn control_bytes_in_target(server: &Server) {
    for byte in ["\0", "\r", "\x01", "\x7f", "\t", "\n"] {
        lines(server, &[&format!("GET /connection/{byte}websocket HTTP/1.1")], 400);
    }
}

fn keys(server: &Server) {
    let bad = [
        "",
        "x",
        "dGhlIHNhbXBsZSBub25jZ===",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZXg=",
        "dGhlIHNhbXBsZSBub25jZR==",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25j*Q==",
    ];
    headers(server, "Sec-WebSocket-Key", &[&[]], 400);
    for key in bad {
        headers(server, "Sec-WebSocket-Key", &[&[&*format!("Sec-WebSocket-Key: {key}")]], 400);
    }
}

fn twice(server: &Server) {
    for header in [GOOD[1], GOOD[3], GOOD[4]] {
        headers(server, "nothing", &[&[header]], 400);
    }
}

fn head_too_large(server: &Server) {
    let filler = format!("X: {}", "a".repeat(8200));
    headers(server, "X", &[&[&filler]], 431);
    // Told as soon as the cap is passed: the head has not ended yet.
    let mut peer = Peer::sending(server.address, LINE.as_bytes());
    peer.send(b"\r\nX: ");
    peer.send(&[b'a'; 8192]);
    assert!(peer.ending().bytes.starts_with(b"HTTP/1.1 431 "));
}

fn too_many_headers(server: &Server) {
    for count in [60, 2500] {
        let many: Vec<String> = (0..count).map(|number| format!("X{number}: a")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        headers(server, "X", &[&many], 431);
    }
}

fn endless_header(server: &Server) {
    let mut peer = Peer::sending(server.address, format!("{LINE}\r\nHost: a\r\nX: ").as_bytes());
    let piece = [b'a'; 65_536];
    // The refusal comes early; the rest is thrown away or runs into a reset, in which the answer may be lost.
    (0..16).for_each(|_| peer.send(&piece));
    let ending = peer.ending();
    assert!(ending.by_reset || ending.bytes.starts_with(b"HTTP/1.1 431 "), "{ending:?}");
}

fn dawdling(server: &Server) {
    let start = Instant::now();
    let mut peer = Peer::sending(server.address, upgrade().trim_ascii_end());
    while start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
        if std::io::Write::write_all(&mut peer.stream, b"a").is_err() {
            break;
        }
    }
    let elapsed = start.elapsed();
    assert!(elapsed > Duration::from_millis(4500) && elapsed < Duration::from_secs(15), "{elapsed:?}");
}

fn lengths(server: &Server) {
    let bad: [&[&str]; 9] = [
        &["Content-Length: 5", "Transfer-Encoding: chunked"],
        &["Content-Length: 5", "Content-Length: 5"],
        &["Content-Length: +5"],
        &["Content-Length: 5,5"],
        &["Content-Length: 0x5"],
        &["Content-Length: -1"],
        &["Content-Length: 99999999999999999999"],
        &["Transfer-Encoding: gzip, chunked"],
        &["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
    ];
    headers(server, "X", &bad, 400);
    for lengths in bad {
        let all = ["Host: a"].iter().chain(lengths).copied().collect::<Vec<_>>();
        assert_status(server.address, &request("POST /api/publish HTTP/1.1", &all), 400);
    }
}

fn line_feeds(server: &Server) {
    let without = String::from_utf8(upgrade()).unwrap().replace("\r\n", "\n");
    assert_status(server.address, without.as_bytes(), 400);
}

fn glued_frames(server: &Server) {
    let commands = [
        text(r#"{"id":1,"connect":{}}"#),
        text(r#"{"id":2,"history":{"channel":"h29"}}"#),
        text(r#"{"id":3,"unsubscribe":{"channel":"h29"}}"#),
        crate::peer::frame(crate::peer::CLOSE, &1000_u16.to_be_bytes()),
    ];
    let answer = Peer::sending(server.address, &[upgrade(), commands.concat()].concat()).ending();
    let answer = String::from_utf8_lossy(&answer.bytes).into_owned();
    let places = [SWITCHED, r#"{"id":1,"#, r#"{"id":2,"#, r#"{"id":3,"#].map(|part| answer.find(part));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{answer}");
}

fn smuggled(server: &Server) {
    let second = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = Peer::sending(server.address, &[&upgrade(), &second[..]].concat()).ending();
    let frame = answer.bytes.strip_prefix(SWITCHED.as_bytes()).expect("101");
    assert_eq!(frame[2..4], 1002_u16.to_be_bytes());
    assert!(!frame.windows(4).any(|window| window == b"HTTP"));
}

fn paths(server: &Server) {
    for path in [
        "/nowhere",
        "/",
        "//connection/websocket",
        "/connection//websocket",
        "/connection/websocket/",
        "/connection/%77ebsocket",
        "/connection/x/%2e%2e/websocket",
        "/connection/x/../websocket",
        "/connection/websocket%00",
        "/%00",
        "/api",
        "/api/",
        "/metrics",
        "/debug/pprof",
    ] {
        lines(server, &[&format!("GET {path} HTTP/1.1")], 404);
    }
    assert_status(server.address, &request("GET connection/websocket HTTP/1.1", &GOOD), 400);
    assert_status(server.address, &request("GET http://localhost/connection/websocket HTTP/1.1", &GOOD), 400);
    assert_status(server.address, &request("GET * HTTP/1.1", &GOOD), 400);
}

fn tls(server: &Server) {
    let hello = [&[0x16, 3, 1, 0, 0xA5, 1, 0, 0, 0xA1, 3, 3][..], &[7; 100]].concat();
    assert_eq!(Peer::sending(server.address, &hello).ending().bytes, b"");
    assert_eq!(Peer::sending(server.address, &hello[..1]).ending().bytes, b"");
}

fn not_http(server: &Server) {
    let noise: Vec<u8> = (0..200_u8).map(|number| number.wrapping_mul(151).wrapping_add(3)).collect();
    for bytes in [
        &noise[..],
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"EHLO example.com\r\n",
        b"\r\n\r\n",
        b"{}",
        b"*1\r\n$4\r\nPING\r\n",
    ] {
        assert_status(server.address, bytes, 400);
    }
}

fn half_closed(server: &Server) {
    for end in [upgrade().len(), 1, 30] {
        let mut peer = Peer::sending(server.address, &upgrade()[..end]);
        peer.finish();
        let answer = peer.ending();
        assert!(
            !answer.by_reset && (answer.bytes.is_empty() || answer.bytes == SWITCHED.as_bytes()),
            "{answer:?}"
        );
    }
}

fn reset_at_once(server: &Server) {
    let log_before = server.log().len();
    for number in 0..200 {
        let request = upgrade();
        Peer::sending(server.address, &request[..number % request.len()]).reset();
    }
    Peer::connected(server.address);
    let lines = server.log()[log_before..].lines().count();
    assert!(lines < 50, "{lines} lines for 200 resets");
}

fn proxy_protocol(server: &Server) {
    let good = upgrade();
    for first in
        [&b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"[..], b"PROXY \r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"]
    {
        assert_status(server.address, &[first, &good].concat(), 400);
    }
    assert_eq!(answer_to(server, b"PROXY TCP4 1.2.3.4\r").get(..13), Some("HTTP/1.1 400 "));
}

fn just_within(server: &Server) {
    let many: Vec<String> = (0..59).map(|number| format!("X{number}: {}", "a".repeat(120))).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    switched(server, &[upgrade_with("X", &many)]);
}

fn subprotocols(server: &Server) {
    let name = "Sec-WebSocket-Protocol";
    let none: [&[&str]; 3] =
        [&["Sec-WebSocket-Protocol:"], &["Sec-WebSocket-Protocol: mqtt"], &["Sec-WebSocket-Protocol: ,,"]];
    switched(server, &none.map(|lines| upgrade_with(name, lines)));
    let both =
        ["Sec-WebSocket-Protocol: mqtt, centrifuge-json", "Sec-WebSocket-Protocol: centrifuge-protobuf"];
    let mut peer = Peer::sending(server.address, &upgrade_with(name, &both));
    peer.finish();
    let answer = String::from_utf8(peer.ending().bytes).unwrap();
    assert!(answer.contains("\r\nSec-WebSocket-Protocol: centrifuge-protobuf\r\n"), "{answer}");
}

/// Compression is not offered yet: every offer is declined, whatever it says.
fn extensions(server: &Server) {
    let name = "Sec-WebSocket-Extensions";
    for offer in [
        "permessage-deflate",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=abc; server_max_window_bits=8",
        ";;;,,,===\"",
        "x-webkit-deflate-frame",
    ] {
        switched(server, &[upgrade_with(name, &[&*format!("{name}: {offer}")])]);
    }
}
