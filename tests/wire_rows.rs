//! Every row of bad-input.md section H that the wire layer decides, unsplit, byte by byte and at random splits.
//! Section F stands in wire_frame_rows.rs.
//!
//! Decided elsewhere: H19 (deadline from accept), H35 and H36 (sockets).

mod wire_support;

use millpond::wire::http::{HeadLimits, HeadScan, parse_head};
use millpond::wire::message::{DecoderLimits, Violation};
use millpond::wire::reject::Reject;
use wire_support::{End, Owned, Verdict, decode, frame, handshake, handshake_chunks};

/// The example of RFC 6455 section 1.3, header by header.
const GOOD: [&str; 5] = [
    "Host: example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];
const LIMITS: DecoderLimits = DecoderLimits { message: 65_536 };

fn request_of(line: &str, headers: &[&str]) -> Vec<u8> {
    let mut text = format!("{line}\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// The good request with the header of this name replaced (by several, or none).
fn request_with(name: &str, replacement: &[&str]) -> Vec<u8> {
    let mut headers: Vec<&str> = GOOD.into_iter().filter(|header| !header.starts_with(name)).collect();
    headers.extend_from_slice(replacement);
    request_of("GET /connection/websocket HTTP/1.1", &headers)
}

fn request_line(line: &str) -> Vec<u8> {
    request_of(line, &GOOD)
}

fn is_switched(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Switched(..))
}

fn assert_refused(row: &str, cases: &[(Vec<u8>, Reject)]) {
    for (bytes, expected) in cases {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        assert_eq!(handshake(bytes), Verdict::Refused(*expected), "{row}: {text}");
    }
}

#[test]
fn h01_a_good_request_is_answered_with_the_rfcs_accept_key() {
    let bytes = request_line("GET /connection/websocket HTTP/1.1");
    let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(handshake(&bytes), Verdict::Switched(expected.into(), bytes.len()));
}

#[test]
fn h02_no_byte_is_examined_twice_before_the_head_is_whole() {
    let bytes = request_line("GET /connection/websocket HTTP/1.1");
    let mut scan = HeadScan::default();
    for end in 1..bytes.len() {
        // What an earlier call saw is wiped out: a second look at it would refuse the request.
        let mut seen = vec![0; end - 1];
        seen.push(bytes[end - 1]);
        assert!(parse_head(&seen, &mut scan, &HeadLimits::default()).unwrap().is_none(), "{end}");
    }
    assert!(parse_head(&bytes, &mut scan, &HeadLimits::default()).unwrap().is_some());
}

#[test]
fn h03_h04_h06_h34_other_versions_and_other_protocols() {
    let line = |line: &str| request_line(line);
    assert_refused("H03", &[(line("GET / HTTP/1.0"), Reject::HttpVersion)]);
    assert_refused(
        "H04",
        &[
            (line("GET / HTTP/2.0"), Reject::HttpVersion),
            (line("GET / HTTP/1.2"), Reject::HttpVersion),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Reject::HttpVersion),
        ],
    );
    assert_refused(
        "H06, H34",
        &[
            (line("get / HTTP/1.1"), Reject::Malformed),
            (line("Get / HTTP/1.1"), Reject::Malformed),
            (line("GET / http/1.1"), Reject::Malformed),
            (line("GET / HTTP/1,1"), Reject::Malformed),
            (line("GET / HTTP/1.1 "), Reject::Malformed),
            (line("GET /"), Reject::Malformed),
            (line("GET  / HTTP/1.1"), Reject::Malformed),
            (line(" GET / HTTP/1.1"), Reject::Malformed),
            (line(""), Reject::Malformed),
            (b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), Reject::Malformed),
            (b"EHLO example.com\r\n".to_vec(), Reject::Malformed),
            (b"\x00\x01\x02\x03".to_vec(), Reject::Malformed),
            (b"\xDE\xAD\xBE\xEF".to_vec(), Reject::Malformed),
        ],
    );
}

#[test]
fn h05_other_methods_are_told_which_one_is_allowed() {
    for line in
        ["POST / HTTP/1.1", "PUT / HTTP/1.1", "CONNECT example.com:443 HTTP/1.1", "CONNECT / HTTP/1.1"]
    {
        assert_refused("H05", &[(request_line(line), Reject::MethodNotAllowed)]);
    }
    let mut out = Vec::new();
    Reject::MethodNotAllowed.write(&mut out);
    assert!(String::from_utf8(out).unwrap().contains("\r\nAllow: GET\r\n"));
}

#[test]
fn h07_one_host_that_is_one() {
    let cases: [&[&str]; 5] =
        [&[], &["Host: a", "Host: a"], &["Host:"], &["Host: a b"], &["Host: user@example.com"]];
    for hosts in cases {
        assert_refused("H07", &[(request_with("Host", hosts), Reject::BadHost)]);
    }
    for host in ["Host: example.com:8000", "Host: [::1]:8000", "hOST:\t127.0.0.1"] {
        assert!(is_switched(&handshake(&request_with("Host", &[host]))), "{host}");
    }
}

#[test]
fn h08_h09_h10_the_upgrade_headers() {
    assert_refused(
        "H08",
        &[
            (request_with("Upgrade", &[]), Reject::UpgradeRequired),
            (request_with("Upgrade", &["Upgrade: h2c"]), Reject::UpgradeRequired),
            (request_with("Connection", &[]), Reject::UpgradeRequired),
            (request_with("Connection", &["Connection: keep-alive"]), Reject::UpgradeRequired),
            (request_with("Connection", &["Connection: Upgrades"]), Reject::UpgradeRequired),
        ],
    );
    let accepted: [(&str, &[&str]); 5] = [
        ("Connection", &["Connection: keep-alive, Upgrade"]),
        ("Connection", &["CONNECTION: , uPgRaDe ,"]),
        ("Connection", &["Connection: keep-alive", "Connection: upgrade"]),
        ("Upgrade", &["upgrade: WebSocket"]),
        ("Upgrade", &["Upgrade:  websocket\t"]),
    ];
    for (name, headers) in accepted {
        assert!(is_switched(&handshake(&request_with(name, headers))), "H09: {headers:?}");
    }
    assert_refused(
        "H10",
        &[
            (request_with("Upgrade", &["Upgrade: websocket, foo"]), Reject::BadUpgrade),
            (request_with("Upgrade", &["Upgrade: ,websocket"]), Reject::BadUpgrade),
            (request_with("Upgrade", &["Upgrade: websocket", "Upgrade: foo"]), Reject::BadUpgrade),
        ],
    );
}

#[test]
fn h11_h15_the_version_is_13_and_stands_there_once() {
    for version in ["12", "8", "013", "13, 8", "+13", "", "13.0"] {
        let bytes = request_with("Sec-WebSocket-Version", &[&format!("Sec-WebSocket-Version: {version}")]);
        assert_refused("H11", &[(bytes, Reject::WebSocketVersion)]);
    }
    assert_refused("H11", &[(request_with("Sec-WebSocket-Version", &[]), Reject::WebSocketVersion)]);
    let twice = ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"];
    assert_refused("H15", &[(request_with("Sec-WebSocket-Version", &twice), Reject::BadUpgrade)]);
}

#[test]
fn h14_h15_the_key_is_16_bytes_and_stands_there_once() {
    let bad = [
        "",
        "AAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAAA=",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZR==",
        "dGhlIHNhbXBsZSBub25j!Q==",
        "dGhlIHNhbXBsZSBub25j-_==",
        "dGhlIHNhbXBsZSBub25jZQ==AAAA",
        "not base64 at all, truly",
    ];
    for key in bad {
        let bytes = request_with("Sec-WebSocket-Key", &[&format!("Sec-WebSocket-Key: {key}")]);
        assert_refused("H14", &[(bytes, Reject::BadKey)]);
    }
    assert_refused("H14", &[(request_with("Sec-WebSocket-Key", &[]), Reject::BadKey)]);
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    assert_refused("H15", &[(request_with("Sec-WebSocket-Key", &[key, key]), Reject::BadUpgrade)]);
}

#[test]
fn h12_h13_h26_h27_bytes_that_may_not_stand_where_they_stand() {
    for byte in [0, b'\r', b'\n', b'\t', 0x1F, 0x7F, 0x80, 0xFF] {
        let mut bytes = b"GET /a".to_vec();
        bytes.push(byte);
        bytes.extend_from_slice(&request_line("b HTTP/1.1"));
        assert_refused("H12", &[(bytes, Reject::Malformed)]);
    }
    for byte in [0, b'\r', b'\n', 0x01, 0x7F] {
        let mut bytes = b"GET / HTTP/1.1\r\nX-Any: a".to_vec();
        bytes.push(byte);
        bytes.extend_from_slice(&request_line("b"));
        assert_refused("H13", &[(bytes, Reject::Malformed)]);
    }
    let line_feeds = String::from_utf8(request_line("GET / HTTP/1.1")).unwrap().replace("\r\n", "\n");
    assert_refused("H26", &[(line_feeds.into_bytes(), Reject::Malformed)]);
    for end in ["\n\n", "\r\n\n", "\n\r\n", "\r\r\n", "\r\n\r\r\n"] {
        let good = String::from_utf8(request_line("GET / HTTP/1.1")).unwrap();
        let bytes = [good.trim_end(), end, "frames"].concat().into_bytes();
        assert_refused("H26", &[(bytes, Reject::Malformed)]);
    }
    for bad in ["X-Any : a", " folded", "\tfolded", ": no name", "no colon", "X(Any): a", "X-Any\u{e9}: a"] {
        assert_refused("H27", &[(request_with("-", &["X-Before: a", bad]), Reject::Malformed)]);
    }
    let obs_text = request_with("-", &["X-Any: caf\u{e9}\tand tab"]);
    assert!(is_switched(&handshake(&obs_text)), "obs-text and tabs may stand in values");
}

#[test]
fn h16_h18_a_head_is_refused_when_it_passes_the_cap() {
    for cap in [8192, 16_384] {
        let limits = HeadLimits { head: cap, ..HeadLimits::default() };
        let mut bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: ".to_vec();
        bytes.resize(1 << 20, b'x');
        let mut chunks: Vec<&[u8]> = bytes.chunks(1).take(2 * cap).collect();
        let (verdict, arrived) = handshake_chunks(&chunks, &limits);
        assert_eq!((verdict, arrived), (Verdict::Refused(Reject::HeadTooLarge), cap));
        chunks = vec![&bytes];
        assert_eq!(handshake_chunks(&chunks, &limits).0, Verdict::Refused(Reject::HeadTooLarge));
    }
}

#[test]
fn h16_a_head_of_exactly_the_cap_is_accepted() {
    let limits = HeadLimits::default();
    let mut bytes = request_with("-", &["X-Fill: "]);
    let fill = limits.head - bytes.len();
    bytes.splice(bytes.len() - 4..bytes.len() - 4, vec![b'x'; fill]);
    assert_eq!(bytes.len(), limits.head);
    assert!(is_switched(&handshake(&bytes)));
    bytes.insert(bytes.len() - 4, b'x');
    assert_refused("H16", &[(bytes, Reject::HeadTooLarge)]);
}

#[test]
fn h17_headers_are_counted() {
    for (extra, expected) in [(59, true), (60, false), (2_500, false)] {
        let bytes = request_with("-", &vec!["a:b"; extra]);
        assert_eq!(is_switched(&handshake(&bytes)), expected, "{extra}");
    }
    assert_refused("H17", &[(request_with("-", &vec!["a:b"; 2_500]), Reject::HeadTooLarge)]);
    let limits = HeadLimits { headers: 1_000, ..HeadLimits::default() };
    let many = request_with("-", &["a:b"; 100]);
    assert_eq!(handshake_chunks(&[&many], &limits).0, Verdict::Refused(Reject::HeadTooLarge));
}

#[test]
fn h20_a_long_target() {
    let target = |length: usize| format!("GET /{} HTTP/1.1", "a".repeat(length - 1));
    assert!(is_switched(&handshake(&request_line(&target(4096)))));
    assert_refused("H20", &[(request_line(&target(4097)), Reject::TargetTooLong)]);
    assert_refused("H20", &[(request_line(&target(65_536)), Reject::TargetTooLong)]);
    let wide = HeadLimits { target: 100_000, ..HeadLimits::default() };
    let bytes = request_line(&target(65_536));
    assert_eq!(handshake_chunks(&[&bytes], &wide).0, Verdict::Refused(Reject::TargetTooLong));
}

#[test]
fn h23_h24_h25_no_body_and_no_doubt_about_it() {
    let cases: [&[&str]; 11] = [
        &["Content-Length: 5"],
        &["Transfer-Encoding: chunked"],
        &["Content-Length: 5", "Transfer-Encoding: chunked"],
        &["Content-Length: 0", "Transfer-Encoding: chunked"],
        &["Content-Length: 0", "Content-Length: 0"],
        &["Content-Length: +5"],
        &["Content-Length: 5,5"],
        &["Content-Length: 0x5"],
        &["Content-Length:"],
        &["Content-Length: 99999999999999999999"],
        &["Transfer-Encoding: gzip, chunked"],
    ];
    for headers in cases {
        assert_refused("H23 to H25", &[(request_with("-", headers), Reject::BadBody)]);
    }
    assert!(is_switched(&handshake(&request_with("-", &["Content-Length: 0"]))));
}

#[test]
fn h29_h30_what_is_glued_behind_the_head_is_frames() {
    let head = request_line("GET / HTTP/1.1");
    for (glued, expected) in [
        (frame(0x81, b"hi"), (vec![Owned::Text(b"hi".to_vec())], End::Quiet)),
        (head.clone(), (vec![], End::Broken(Violation::ReservedBits))),
    ] {
        let bytes = [head.clone(), glued].concat();
        let Verdict::Switched(_, length) = handshake(&bytes) else { panic!("not switched") };
        assert_eq!(length, head.len());
        assert_eq!(decode(&bytes[length..], &LIMITS), expected);
    }
}

#[test]
fn h32_paths_are_left_as_they_were_sent() {
    for path in
        ["/%2e%2e/connection/websocket", "//connection/websocket", "/connection/websocket%00", "/a/../b"]
    {
        let bytes = request_line(&format!("GET {path}?x=1?y HTTP/1.1"));
        let head = parse_head(&bytes, &mut HeadScan::default(), &HeadLimits::default()).unwrap().unwrap();
        assert_eq!((head.path(), head.query()), (path, "x=1?y"));
    }
    for line in ["GET http://example.com/ HTTP/1.1", "OPTIONS * HTTP/1.1", "GET example HTTP/1.1"] {
        assert_refused("H32", &[(request_line(line), Reject::Malformed)]);
    }
}

#[test]
fn h33_h37_other_protocols_are_known_by_their_first_bytes() {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03";
    assert_eq!(handshake_chunks(&[hello], &HeadLimits::default()).0, Verdict::Refused(Reject::NotHttp));
    assert_eq!(handshake_chunks(&[&hello[..1]], &HeadLimits::default()).0, Verdict::Refused(Reject::NotHttp));
    assert_refused(
        "H37",
        &[
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\nGET / HTTP/1.1\r\n".to_vec(), Reject::Malformed),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0C".to_vec(), Reject::Malformed),
        ],
    );
}

#[test]
fn subprotocols_and_queries_choose_the_encoding() {
    let cases: [(&str, &[&str], bool, Option<&str>); 11] = [
        ("/", &[], false, None),
        ("/", &["Sec-WebSocket-Protocol:"], false, None),
        ("/", &["Sec-WebSocket-Protocol: ", "Sec-WebSocket-Protocol:"], false, None),
        ("/", &["Sec-WebSocket-Protocol: centrifuge-json"], false, Some("centrifuge-json")),
        ("/", &["Sec-WebSocket-Protocol: centrifuge-protobuf"], true, Some("centrifuge-protobuf")),
        (
            "/",
            &["Sec-WebSocket-Protocol: x, centrifuge-json ,centrifuge-protobuf"],
            true,
            Some("centrifuge-protobuf"),
        ),
        (
            "/",
            &["Sec-WebSocket-Protocol: x", "sec-websocket-protocol: centrifuge-json"],
            false,
            Some("centrifuge-json"),
        ),
        ("/", &["Sec-WebSocket-Protocol: Centrifuge-Protobuf"], false, None),
        ("/?format=protobuf", &[], true, None),
        ("/?a=b&cf_protocol=protobuf&cf_protocol_version=v2", &[], true, None),
        ("/?format=json&cf_protocol=json", &["Sec-WebSocket-Protocol: y"], false, None),
    ];
    for (target, headers, protobuf, echoed) in cases {
        let mut all = GOOD.to_vec();
        all.extend_from_slice(headers);
        let bytes = request_of(&format!("GET {target} HTTP/1.1"), &all);
        let head = parse_head(&bytes, &mut HeadScan::default(), &HeadLimits::default()).unwrap().unwrap();
        let upgrade = millpond::wire::upgrade::check_upgrade(&head).unwrap();
        assert_eq!((upgrade.protobuf, upgrade.subprotocol), (protobuf, echoed), "{target} {headers:?}");
        let Verdict::Switched(response, _) = handshake(&bytes) else { panic!("not switched") };
        let line = echoed.map(|name| format!("\r\nSec-WebSocket-Protocol: {name}\r\n"));
        assert_eq!(response.contains("Sec-WebSocket-Protocol"), line.is_some(), "{headers:?}");
        assert!(line.is_none_or(|line| response.contains(&line)), "{headers:?}");
    }
}

#[test]
fn native_pings_are_asked_for_in_the_query() {
    for (query, expected) in
        [("cf_ws_frame_ping_pong=true", true), ("cf_ws_frame_ping_pong=false", false), ("", false)]
    {
        let bytes = request_line(&format!("GET /?{query} HTTP/1.1"));
        let head = parse_head(&bytes, &mut HeadScan::default(), &HeadLimits::default()).unwrap().unwrap();
        assert_eq!(millpond::wire::upgrade::check_upgrade(&head).unwrap().native_ping, expected, "{query}");
    }
}
