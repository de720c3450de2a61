//! Section F: frames of RFC 6455, where Autobahn's test suite would look, too.
#![allow(clippy::semicolon_if_nothing_returned, reason = "a row is one expression")]

use std::time::Duration;

use crate::peer::{
    BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Peer, TEXT, assert_close, fragment, frame, masked, text,
};
use crate::server::Server;
use crate::table::Row;
use crate::table::Run::{Elsewhere, NotHere, Now};

/// The default of `websocket.message_size_limit`.
const MESSAGE_LIMIT: usize = 65_536;
/// A command whose reply is easily known.
const ASK: &str = r#"{"id":7,"unsubscribe":{"channel":"äöü€𝄞"}}"#;
const ANSWER: &str = r#"{"id":7,"unsubscribe":{}}"#;

pub(crate) const ROWS: &[Row] = &[
    Row {
        id: "F01",
        what: "unmasked frames",
        run: Now(|server| closes(server, &[(b"\x81\x02{}", 1002), (b"\x89\x00", 1002), (b"\x88\x00", 1002)])),
    },
    Row { id: "F02", what: "every key, alignment and length", run: Now(echoes) },
    Row {
        id: "F03",
        what: "16-bit length for 5 bytes",
        run: Now(|server| {
            closes(server, &[(b"\x81\xfe\x00\x05\0\0\0\0hello", 1002), (b"\x81\xfe\x00\x7d\0\0\0\0", 1002)])
        }),
    },
    Row {
        id: "F04",
        what: "64-bit length for few bytes",
        run: Now(|server| {
            closes(
                server,
                &[
                    (b"\x81\xff\0\0\0\0\0\0\0\x05\0\0\0\0hello", 1002),
                    (b"\x81\xff\0\0\0\0\0\0\xff\xff\0\0\0\0", 1002),
                ],
            )
        }),
    },
    Row {
        id: "F05",
        what: "64-bit length with the top bit",
        run: Now(|server| closes(server, &[(b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0", 1002)])),
    },
    Row {
        id: "F06",
        what: "2^63-1, 2^32, 2^32-1 bytes announced",
        run: Now(|server| {
            closes(
                server,
                &[
                    (b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1009),
                    (b"\x82\xff\0\0\0\x01\0\0\0\0\0\0\0\0", 1009),
                    (b"\x82\xff\0\0\0\0\xff\xff\xff\xff\0\0\0\0", 1009),
                ],
            )
        }),
    },
    Row {
        id: "F08",
        what: "60 MiB announced, 10 bytes sent",
        run: Now(|server| closes(server, &[(b"\x82\xff\0\0\0\0\x03\xc0\0\0\0\0\0\x000123456789", 1009)])),
    },
    Row { id: "F09", what: "header split at each place", run: Now(split_headers) },
    Row {
        id: "F10",
        what: "reserved bits",
        run: Now(|server| first_bytes(server, &[0xC1, 0xA1, 0x91, 0xF1, 0xC9, 0xC0], 1002)),
    },
    Row {
        id: "F11",
        what: "reserved opcodes",
        run: Now(|server| {
            first_bytes(server, &[0x83, 0x84, 0x85, 0x86, 0x87, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F], 1002)
        }),
    },
    Row {
        id: "F12",
        what: "control frames of 126 bytes",
        run: Now(|server| {
            [CLOSE, PING, PONG]
                .map(|opcode| assert_close(server.address, &frame(opcode, &[b'a'; 126]), 1002))
                .into_iter()
                .collect()
        }),
    },
    Row {
        id: "F13",
        what: "fragmented control frames",
        run: Now(|server| first_bytes(server, &[CLOSE, PING, PONG], 1002)),
    },
    Row { id: "F14", what: "fragments out of order", run: Now(fragments_out_of_order) },
    Row { id: "F15", what: "close codes that may not be sent", run: Now(bad_close_codes) },
    Row { id: "F16", what: "close reasons", run: Now(close_reasons) },
    Row { id: "F17", what: "invalid UTF-8", run: Now(invalid_utf8) },
    Row { id: "F18", what: "code points cut by fragments", run: Now(cut_code_points) },
    Row { id: "F19", what: "endless continuation", run: Now(endless_continuation) },
    Row { id: "F20", what: "70 000 fragments of one byte", run: Now(tiny_fragments) },
    Row { id: "F22", what: "control frames between fragments", run: Now(control_between_fragments) },
    Row { id: "F23", what: "a message of the limit, and one byte more", run: Now(message_limit) },
    Row { id: "F25", what: "64 MiB of frames at once", run: Now(fairness) },
    Row { id: "+F1", what: "every close code that may be sent is echoed", run: Now(good_close_codes) },
    Row { id: "+F2", what: "empty fragments, empty pings, pings of 125 bytes", run: Now(empties) },
    Row { id: "F20b", what: "a message that takes 30 s", run: Elsewhere("process.rs") },
    Row {
        id: "F26",
        what: "events of a slot that is used anew",
        run: Elsewhere("process.rs, ten thousand random streams"),
    },
    Row {
        id: "X01",
        what: "compression, all rows",
        run: NotHere("it is not offered: see +H3, and F10 for RSV1"),
    },
];

fn closes(server: &Server, cases: &[(&[u8], u16)]) {
    for (bytes, code) in cases {
        assert_close(server.address, bytes, *code);
    }
}

fn first_bytes(server: &Server, firsts: &[u8], code: u16) {
    for first in firsts {
        assert_close(server.address, &masked(*first, [1, 2, 3, 4], b"{}"), code);
    }
}

/// The gateway has no echo; a publication that comes back to its publisher is one.
fn echoes(server: &Server) {
    let mut peer = Peer::connected(server.address);
    assert_eq!(peer.ask(r#"{"id":2,"subscribe":{"channel":"fleeting:f02"}}"#)["id"], 2);
    for length in 0..=70 {
        let data: String = ('a'..='z').cycle().take(length).collect();
        let command = format!(r#"{{"id":3,"publish":{{"channel":"fleeting:f02","data":"{data}"}}}}"#);
        for key in [[0; 4], [0xFF; 4], [0x80, 0, 0x7F, 1]] {
            // A command of another length in front moves the frame through all alignments.
            let before =
                format!(r#"{{"id":4,"unsubscribe":{{"channel":"a{}"}}}}"#, &"aaaaaaaa"[..length % 8]);
            let frames = [before, command.clone()].map(|text| masked(FIN | TEXT, key, text.as_bytes()));
            peer.send(&frames.concat());
            let lines = peer.lines(3);
            let is_echoed = |line: &String| line.contains(&format!(r#""data":"{data}","#));
            assert!(lines.iter().any(is_echoed), "{lines:?}");
        }
    }
}

fn split_headers(server: &Server) {
    for payload in
        [ASK.to_owned(), format!("{ASK}{}", " ".repeat(200)), format!("{ASK}{}", " ".repeat(65_400))]
    {
        let bytes = text(&payload);
        for cut in 1..=14.min(bytes.len() - 1) {
            let mut peer = Peer::connected(server.address);
            peer.send(&bytes[..cut]);
            std::thread::sleep(Duration::from_millis(2));
            peer.send(&bytes[cut..]);
            assert_eq!(peer.frame().1, ANSWER.as_bytes(), "cut at {cut}");
        }
    }
}

fn fragments_out_of_order(server: &Server) {
    let open = fragment(TEXT, b"{");
    for bytes in [
        frame(CONTINUATION, b"{}"),
        fragment(CONTINUATION, b"{}"),
        [open.clone(), text("{}")].concat(),
        [open.clone(), frame(BINARY, b"{}")].concat(),
        [open.clone(), open].concat(),
    ] {
        assert_close(server.address, &bytes, 1002);
    }
}

fn bad_close_codes(server: &Server) {
    assert_close(server.address, &frame(CLOSE, b"x"), 1002);
    for code in [0_u16, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        assert_close(server.address, &frame(CLOSE, &code.to_be_bytes()), 1002);
    }
}

fn good_close_codes(server: &Server) {
    for code in
        [1000_u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
    {
        let mut peer = Peer::connected(server.address);
        peer.send(&frame(CLOSE, &code.to_be_bytes()));
        assert_eq!(peer.frame(), (CLOSE, code.to_be_bytes().to_vec()));
        assert_eq!(peer.ending().bytes, b"");
    }
    let mut peer = Peer::connected(server.address);
    peer.send(&frame(CLOSE, b""));
    assert_eq!(peer.frame(), (CLOSE, Vec::new()));
}

fn close_reasons(server: &Server) {
    let close = |reason: &[u8]| frame(CLOSE, &[&1000_u16.to_be_bytes(), reason].concat());
    assert_close(server.address, &close(b"\xC0\xAF"), 1007);
    assert_close(server.address, &close(b"cut \xE2\x82"), 1007);
    assert_close(server.address, &close(&[b'a'; 124]), 1002);
    let mut peer = Peer::connected(server.address);
    peer.send(&close(&[b'a'; 123]));
    assert_eq!(peer.frame().0, CLOSE);
    assert_eq!(peer.ending().bytes, b"");
}

fn invalid_utf8(server: &Server) {
    for bad in [
        &b"\xC0\xAF"[..],
        b"\xED\xA0\x80",
        b"\xF5\x80\x80\x80",
        b"\xFE",
        b"\x80",
        b"\xE0\x80\x80",
        b"\xF4\x90\x80\x80",
        b"ok \xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xED\xA0\x80edited",
    ] {
        assert_close(server.address, &frame(TEXT, bad), 1007);
        // The message never ends, and is refused all the same.
        assert_close(server.address, &fragment(TEXT, bad), 1007);
        let pieces = bad
            .iter()
            .enumerate()
            .map(|(index, byte)| fragment(if index == 0 { TEXT } else { CONTINUATION }, &[*byte]));
        assert_close(server.address, &pieces.collect::<Vec<_>>().concat(), 1007);
        // In the middle of a frame of which most is missing.
        let begun = [&[FIN | TEXT, 0x80 | 126, 0x10, 0, 0, 0, 0, 0][..], bad].concat();
        assert_close(server.address, &begun, 1007);
    }
    assert_close(server.address, &frame(TEXT, b"cut \xF0\x9D\x84"), 1007);
}

fn cut_code_points(server: &Server) {
    let bytes = ASK.as_bytes();
    let mut peer = Peer::connected(server.address);
    for cut in 1..bytes.len() {
        peer.send(&[fragment(TEXT, &bytes[..cut]), frame(CONTINUATION, &bytes[cut..])].concat());
        assert_eq!(peer.frame().1, ANSWER.as_bytes(), "cut at {cut}");
    }
    for byte in 0..bytes.len() {
        peer.send(&fragment(if byte == 0 { TEXT } else { CONTINUATION }, &bytes[byte..=byte]));
    }
    peer.send(&frame(CONTINUATION, b""));
    assert_eq!(peer.frame().1, ANSWER.as_bytes());
}

fn endless_continuation(server: &Server) {
    let mut peer = Peer::connected(server.address);
    peer.send(&fragment(TEXT, &[b'a'; 1000]));
    for _ in 0..66 {
        peer.send(&fragment(CONTINUATION, &[b'a'; 1000]));
    }
    assert_eq!(peer.closed(), 1009);
}

fn tiny_fragments(server: &Server) {
    let mut peer = Peer::connected(server.address);
    let one = fragment(CONTINUATION, b"a");
    peer.send(&[fragment(TEXT, b"a"), one.repeat(70_000)].concat());
    assert_eq!(peer.closed(), 1009);
}

fn control_between_fragments(server: &Server) {
    let (left, right) = ASK.as_bytes().split_at(20);
    let mut peer = Peer::connected(server.address);
    peer.send(&[fragment(TEXT, left), frame(PING, b"now")].concat());
    assert_eq!(peer.frame(), (PONG, b"now".to_vec()));
    peer.send(
        &[frame(PONG, b"unasked"), fragment(CONTINUATION, b""), frame(PING, b""), frame(CONTINUATION, right)]
            .concat(),
    );
    assert_eq!(peer.frame(), (PONG, Vec::new()));
    assert_eq!(peer.frame().1, ANSWER.as_bytes());
    // A close between fragments counts at once.
    peer.send(&[fragment(TEXT, left), frame(CLOSE, &1000_u16.to_be_bytes())].concat());
    assert_eq!(peer.frame(), (CLOSE, 1000_u16.to_be_bytes().to_vec()));
}

fn message_limit(server: &Server) {
    let padded = |length: usize| format!("{ASK}{}", " ".repeat(length - ASK.len()));
    let mut peer = Peer::connected(server.address);
    peer.send(&text(&padded(MESSAGE_LIMIT)));
    assert_eq!(peer.frame().1, ANSWER.as_bytes());
    let (left, right) = (padded(MESSAGE_LIMIT), "");
    peer.send(&[fragment(TEXT, left.as_bytes()), frame(CONTINUATION, right.as_bytes())].concat());
    assert_eq!(peer.frame().1, ANSWER.as_bytes());
    for bytes in [
        text(&padded(MESSAGE_LIMIT + 1)),
        [fragment(TEXT, left.as_bytes()), frame(CONTINUATION, b" ")].concat(),
    ] {
        let mut peer = Peer::connected(server.address);
        peer.send(&bytes);
        assert_eq!(peer.closed(), 1009);
    }
}

/// One connection that never stops sending keeps nobody waiting.
fn fairness(server: &Server) {
    let mut greedy = Peer::connected(server.address);
    let mut modest: Vec<Peer> = (0..4).map(|_| Peer::connected(server.address)).collect();
    let mut out = greedy.stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let many = text(ASK).repeat(1024);
        (0..1024).all(|_| std::io::Write::write_all(&mut out, &many).is_ok())
    });
    let mut waste = greedy.stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut waste, &mut std::io::sink()));
    for _ in 0..20 {
        for peer in &mut modest {
            assert_eq!(peer.ask(r#"{"id":2,"unsubscribe":{"channel":"x"}}"#)["id"], 2);
        }
    }
    assert!(sender.join().unwrap(), "the greedy one was cut off");
    greedy.send(&frame(CLOSE, &1000_u16.to_be_bytes()));
    reader.join().unwrap().unwrap();
}

fn empties(server: &Server) {
    let mut peer = Peer::connected(server.address);
    let pings = [frame(PING, b""), frame(PING, &[b'x'; 125]), frame(PING, b"\xFF\x00\xFE")];
    peer.send(&pings.concat());
    for payload in [&b""[..], &[b'x'; 125], b"\xFF\x00\xFE"] {
        assert_eq!(peer.frame(), (PONG, payload.to_vec()));
    }
    let fragments = [fragment(TEXT, b""), fragment(CONTINUATION, b""), frame(CONTINUATION, ASK.as_bytes())];
    peer.send(&fragments.concat());
    assert_eq!(peer.frame().1, ANSWER.as_bytes());
}
