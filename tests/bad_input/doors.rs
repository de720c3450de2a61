//! The HTTP doors: the server API, health and metrics at the internal address, and what the client port passes on.
//! (A21, X08, and ideas of our own.)

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::peer::{Peer, assert_status, request};
use crate::server::{API_KEY, Server};
use crate::table::Row;
use crate::table::Run::{Elsewhere, NotHere, Now};

pub(crate) const ROWS: &[Row] = &[
    Row { id: "A21", what: "server API without the key, metrics on the public port", run: Now(without_key) },
    Row {
        id: "A21b",
        what: "mTLS, DNS rebinding",
        run: NotHere("the key is asked for in every request, which no page has"),
    },
    Row { id: "X08", what: "bodies beyond the limit", run: Now(huge_bodies) },
    Row { id: "+D1", what: "wrong methods", run: Now(methods) },
    Row { id: "+D2", what: "unknown methods of the API, odd paths", run: Now(unknown) },
    Row { id: "+D3", what: "bodies that are not JSON, or not of this method", run: Now(bad_bodies) },
    Row { id: "+D4", what: "chunked bodies, good and bad", run: Now(chunked) },
    Row { id: "+D5", what: "contradictory lengths", run: Now(lengths) },
    Row { id: "+D6", what: "bodies in pieces, cut off", run: Now(in_pieces) },
    Row { id: "+D7", what: "keep-alive and pipelining", run: Now(keep_alive) },
    Row { id: "+D8", what: "application errors", run: Now(application_errors) },
    Row { id: "+D9", what: "HEAD", run: Now(head) },
    Row { id: "+D10", what: "places held by bodies that never come", run: Now(held_places) },
    Row {
        id: "+D11",
        what: "heads beyond the limits, not HTTP at the internal address",
        run: Now(bad_heads),
    },
    Row { id: "+D12", what: "bodies that take 30 s, answers not read", run: Elsewhere("control_doors.rs") },
];

/// Both ways in.
fn doors(server: &Server) -> [SocketAddr; 2] {
    [server.address, server.internal]
}

fn call(method: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let length = format!("Content-Length: {}", body.len());
    let mut all = vec!["Host: localhost", "Connection: close", &length];
    all.extend(headers);
    let mut bytes = request(&format!("POST /api/{method} HTTP/1.1"), &all);
    bytes.extend(body);
    bytes
}

fn key() -> String {
    format!("X-API-Key: {API_KEY}")
}

fn post(method: &str, body: &str) -> Vec<u8> {
    call(method, &[&key()], body.as_bytes())
}

fn get(path: &str) -> Vec<u8> {
    request(&format!("GET {path} HTTP/1.1"), &["Host: localhost", "Connection: close"])
}

fn answer(address: SocketAddr, bytes: &[u8]) -> String {
    String::from_utf8(Peer::sending(address, bytes).ending().bytes).unwrap()
}

fn body(answer: &str) -> Value {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn without_key(server: &Server) {
    let publish = br#"{"channel":"a21","data":1}"#;
    for door in doors(server) {
        for headers in [
            &[][..],
            &["X-API-Key: "],
            &["X-API-Key: wrong"],
            &["X-API-Key: test-api-ke"],
            &["X-API-Key: test-api-key2"],
            &["Authorization: Bearer test-api-key"],
            &["Authorization: test-api-key"],
            &["X-API-Key: wrong", "X-API-Key: test-api-key"],
        ] {
            assert_status(door, &call("publish", headers, publish), 401);
        }
        // The key comes before everything that would tell what there is.
        assert_status(door, &call("nothing", &[], b""), 401);
        assert_status(door, &call("publish", &[], b"{]"), 401);
    }
    assert_status(server.address, &get("/metrics"), 404);
    assert!(answer(server.internal, &get("/metrics")).contains("millpond_node_num_clients"));
}

fn huge_bodies(server: &Server) {
    for door in doors(server) {
        for length in ["16777217", "99999999999", "18446744073709551613"] {
            let head = [&*format!("Content-Length: {length}"), "Host: a", "Connection: close", &key()];
            assert_status(door, &request("POST /api/publish HTTP/1.1", &head), 413);
        }
        // Without an announced length it is refused when the limit is passed.
        let head = ["Transfer-Encoding: chunked", "Host: a", "Connection: close", &key()];
        let mut peer = Peer::sending(door, &request("POST /api/publish HTTP/1.1", &head));
        let chunk = [b"100000\r\n", &[b' '; 1 << 20][..], b"\r\n"].concat();
        (0..17).for_each(|_| peer.send(&chunk));
        let ending = peer.ending();
        assert!(ending.by_reset || ending.bytes.starts_with(b"HTTP/1.1 413 "), "{ending:?}");
    }
}

fn methods(server: &Server) {
    for door in doors(server) {
        for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
            let line = format!("{method} /api/publish HTTP/1.1");
            let bytes = request(&line, &["Host: a", "Connection: close", &key()]);
            assert_status(door, &bytes, 405);
            assert!(answer(door, &bytes).to_ascii_lowercase().contains("\r\nallow: post\r\n"));
        }
        let line = "POST /health HTTP/1.1";
        assert_status(door, &request(line, &["Host: a", "Connection: close", "Content-Length: 0"]), 405);
    }
}

fn unknown(server: &Server) {
    for door in doors(server) {
        for method in ["nothing", "Publish", "publish/", "publish/x", "pub%6cish", "%2e%2e/health", ""] {
            assert_status(door, &post(method, r#"{"channel":"x","data":1}"#), 404);
        }
        for path in ["/", "/nowhere", "//health", "/health/", "/%68ealth", "/health%00", "/api"] {
            assert_status(door, &get(path), 404);
        }
        assert_eq!(body(&answer(door, &get("/health?a=%zz"))), json!({}));
    }
}

fn bad_bodies(server: &Server) {
    let deep = "[".repeat(100_000);
    for door in doors(server) {
        for bad in ["", "{]", "[]x", "nonsense", r#"{"channel":1}"#, r#"{"channel":"x"}}"#, "\u{0}", &deep] {
            assert_status(door, &post("publish", bad), 400);
        }
        assert_status(door, &call("publish", &[&key()], b"{\"channel\":\"\xFF\"}"), 400);
    }
}

fn chunked(server: &Server) {
    for door in doors(server) {
        let head = ["Host: a", "Connection: close", "Transfer-Encoding: chunked", &key()];
        let head = request("POST /api/publish HTTP/1.1", &head);
        let with = |body: &[u8]| [&head[..], body].concat();
        let good = with(b"a;x=y\r\n{\"channel\"\r\n0d\r\n:\"x\",\"data\":1\r\n1\r\n}\r\n0\r\nX: y\r\n\r\n");
        assert!(body(&answer(door, &good))["result"].is_object());
        for bad in [
            &b"zz\r\n{}\r\n0\r\n\r\n"[..],
            b"-2\r\n{}\r\n0\r\n\r\n",
            b"2\r\n{}xx0\r\n\r\n",
            b"fffffffffffffffff\r\n{}",
            b"\r\n\r\n",
        ] {
            assert_status(door, &with(bad), 400);
        }
    }
}

fn lengths(server: &Server) {
    for door in doors(server) {
        let bad: [&[&str]; 4] = [
            &["Content-Length: 2", "Content-Length: 3"],
            &["Content-Length: +2"],
            &["Content-Length: -2"],
            &["Content-Length: two"],
        ];
        for lengths in bad {
            let key = key();
            let headers = ["Host: a", "Connection: close", &key].into_iter().chain(lengths.iter().copied());
            let mut bytes = request("POST /api/publish HTTP/1.1", &headers.collect::<Vec<_>>());
            bytes.extend(b"{}");
            let answer = answer(door, &bytes);
            assert!(answer.starts_with("HTTP/1.1 400 "), "{lengths:?}: {answer}");
        }
    }
}

fn in_pieces(server: &Server) {
    let bytes = post("publish", r#"{"channel":"pieces","data":"in pieces"}"#);
    for door in doors(server) {
        for length in [1, 13] {
            let mut peer = Peer::silent(door);
            peer.send_in_pieces(&bytes, length, Duration::from_micros(200));
            let answer = String::from_utf8(peer.ending().bytes).unwrap();
            assert!(body(&answer)["result"].is_object());
        }
        let mut peer = Peer::sending(door, &bytes[..bytes.len() - 5]);
        peer.finish();
        assert!(peer.ending().bytes.starts_with(b"HTTP/1.1 400 "));
        for cut in [20, bytes.len() - 5] {
            Peer::sending(door, &bytes[..cut]).reset();
        }
    }
}

fn keep_alive(server: &Server) {
    let one = request("GET /health HTTP/1.1", &["Host: a"]);
    let many = [one.repeat(100), get("/health")].concat();
    assert_eq!(answer(server.internal, &many).matches("200 OK").count(), 101);
    // The client port serves one request and closes: the next one may be for a shard.
    assert_eq!(answer(server.address, &one.repeat(3)).matches("200 OK").count(), 1);
    // A refused request leaves the connection as it was, unless its body is unread.
    let refused = request("POST /api/publish HTTP/1.1", &["Host: a", "Content-Length: 2"]);
    let after = [&refused[..], b"{}", &get("/health")].concat();
    let answer = answer(server.internal, &after);
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

fn application_errors(server: &Server) {
    let deep = format!(r#"{{"channel":"x","data":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    let long = json!({ "channel": "a".repeat(1000), "data": 1 }).to_string();
    for (method, params, code) in [
        ("publish", "{}", 107),
        ("publish", r#"{"channel":"x"}"#, 107),
        ("publish", r#"{"channel":"nowhere:x","data":1}"#, 102),
        ("publish", r#"{"channel":"x","b64data":"*"}"#, 107),
        ("publish", &*deep, 107),
        ("publish", &*long, 107),
        ("broadcast", r#"{"data":1}"#, 107),
        ("history", r#"{"channel":"closed:x"}"#, 108),
        ("history", r#"{"channel":"x","limit":1,"since":{"offset":1,"epoch":"_"}}"#, 112),
        ("presence", r#"{"channel":"closed:x"}"#, 108),
        ("unsubscribe", r#"{"user":"x"}"#, 107),
        ("subscribe", r#"{"user":"x"}"#, 107),
        ("map_publish", "{}", 108),
    ] {
        let found = body(&answer(server.internal, &post(method, params)));
        assert_eq!(found["error"]["code"], code, "{method} {params:.60}: {found}");
    }
    assert_eq!(
        body(&answer(server.internal, &post("disconnect", r#"{"user":"nobody"}"#)))["result"],
        json!({})
    );
}

fn head(server: &Server) {
    for door in doors(server) {
        let bytes = request("HEAD /health HTTP/1.1", &["Host: a", "Connection: close"]);
        let answer = answer(door, &bytes);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    }
}

fn held_places(server: &Server) {
    let begun = &post("publish", r#"{"channel":"held","data":1}"#);
    let held: Vec<_> = (0..200).map(|_| Peer::sending(server.address, &begun[..begun.len() - 1])).collect();
    assert_eq!(body(&answer(server.address, &get("/health"))), json!({}));
    assert!(body(&answer(server.internal, &post("info", "{}")))["result"].is_object());
    drop(held);
}

fn bad_heads(server: &Server) {
    let long = format!("X: {}", "a".repeat(20_000));
    let many: Vec<String> = (0..100).map(|number| format!("X{number}: a")).collect();
    let many: Vec<&str> = std::iter::once("Host: a").chain(many.iter().map(String::as_str)).collect();
    for bytes in
        [request("GET /health HTTP/1.1", &["Host: a", &long]), request("GET /health HTTP/1.1", &many)]
    {
        let answer = answer(server.internal, &bytes);
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    for bytes in [
        &b"SSH-2.0-x\r\n"[..],
        b"\x16\x03\x01\x00\xa5\x01",
        b"GET /health\r\n\r\n",
        b"get /health HTTP/1.1\r\nX : y\r\n\r\n",
    ] {
        let answer = answer(server.internal, bytes);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    let before = server.log().len();
    assert!(!server.log()[..before].contains("panicked"), "{}", server.log());
}
