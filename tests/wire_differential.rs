//! The wire layer against tungstenite, an implementation that many servers trust. Both read the same bytes; where they do
//! not agree, the difference must be one of those listed here.
//!
//! Frames. What we accept, tungstenite accepts with the same result, without exception. What we refuse:
//!
//! | ours | tungstenite | row |
//! |---|---|---|
//! | 1002, length not minimal (of a control frame: too long) | accepts it | F03, F04 |
//! | 1002, length with its top bit set | too big | F05 |
//! | 1002, close code that must not be sent | delivers a close of 1002 | F15 |
//! | the violation, before the frame is whole | waits for the rest of the frame | F08, F17 |
//! | the first of several faults of one frame | another of its faults | |
//!
//! Heads. What we accept, tungstenite accepts with the same accept key, but for:
//!
//! | ours | tungstenite | row |
//! |---|---|---|
//! | several `Connection` lines | looks at the first only | H09 |
//! | a `Connection` with obs-text beside `Upgrade` | does not look into it | |
//! | a target of any visible ASCII | must be a URI | |
//!
//! and we refuse, where it does not: HTTP without (one, good) Host (H07), repeated key or version (H15), padding bits and
//! bodies (H14, H23 to H25), other line ends than CRLF and empty lines before the request (H26), `Connection` tokens
//! separated by spaces alone, several `Upgrade` lines (H10), targets that are no path or not ASCII (H12, H32), and heads over
//! the caps (H16 to H20).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod wire_support;

use std::io::{self, Cursor, Read, Write};

use millpond::wire::frame;
use millpond::wire::http::HeadLimits;
use millpond::wire::message::{DecoderLimits, Violation};
use millpond::wire::reject::Reject;
use proptest::prelude::*;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};
use wire_support::script::{Fault, LIMIT, script};
use wire_support::{End, LengthForm, Owned, Verdict, decode_chunks, frame_as, handshake_chunks};

const LIMITS: DecoderLimits = DecoderLimits { message: LIMIT };

/// How tungstenite ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerEnd {
    /// It waits for more, or for nothing in particular.
    Open,
    Closed,
    /// With the close code that its error stands for.
    Broken(u16),
}

/// Bytes to read, then "would block"; what is written is forgotten.
struct Script<'a>(&'a [u8]);

impl Read for Script<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(into) }
    }
}

impl Write for Script<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tungstenite_decodes(bytes: &[u8]) -> (Vec<Owned>, PeerEnd) {
    let config = WebSocketConfig::default().max_message_size(Some(LIMIT)).max_frame_size(Some(LIMIT));
    let mut socket = WebSocket::from_raw_socket(Script(bytes), Role::Server, Some(config));
    let mut items = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => items.push(Owned::Text(text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => items.push(Owned::Binary(bytes.to_vec())),
            Ok(Message::Ping(bytes)) => items.push(Owned::Ping(bytes.to_vec())),
            Ok(Message::Pong(bytes)) => items.push(Owned::Pong(bytes.to_vec())),
            Ok(Message::Close(close)) => {
                items.push(Owned::Close(close.map(|close| (close.code.into(), close.reason.to_string()))));
                return (items, PeerEnd::Closed);
            }
            Ok(Message::Frame(_)) => unreachable!("reading yields no raw frames"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return (items, PeerEnd::Open);
            }
            Err(Error::Capacity(_)) => return (items, PeerEnd::Broken(1009)),
            Err(Error::Utf8(_)) => return (items, PeerEnd::Broken(1007)),
            Err(Error::Protocol(_)) => return (items, PeerEnd::Broken(1002)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The rows of the table above, for a stream whose last frame is whole and has one fault at most.
fn single_fault_agrees(ours: &(Vec<Owned>, End), theirs: &(Vec<Owned>, PeerEnd), fault: &Fault) -> bool {
    let end = match (ours.1, fault) {
        (End::Quiet | End::Pending, _) => PeerEnd::Open,
        (End::Closed, _) => PeerEnd::Closed,
        (End::Broken(_), Fault::TopBit) => PeerEnd::Broken(1009),
        (End::Broken(_), Fault::NotMinimal(_)) => {
            return theirs.1 == PeerEnd::Open
                && theirs.0.split_last().is_some_and(|(_, before)| before == ours.0);
        }
        (End::Broken(_), Fault::CloseCode(_)) => {
            let refusal = Owned::Close(Some((1002, "Protocol violation".into())));
            return theirs.0.split_last() == Some((&refusal, &ours.0));
        }
        (End::Broken(violation), _) => PeerEnd::Broken(violation.code()),
    };
    theirs.0 == ours.0 && theirs.1 == end
}

/// The rows of the table above, for any bytes: we never accept what it refuses, and never see other items.
fn arbitrary_agrees(ours: &(Vec<Owned>, End), theirs: &(Vec<Owned>, PeerEnd)) -> bool {
    match ours.1 {
        End::Quiet | End::Pending => {
            theirs.0 == ours.0 && (theirs.1 == PeerEnd::Open || ours.1 == End::Pending)
        }
        End::Closed => theirs.0 == ours.0 && theirs.1 == PeerEnd::Closed,
        End::Broken(Violation::BadLength | Violation::LongControl | Violation::BadClose) => {
            theirs.0.starts_with(&ours.0)
        }
        End::Broken(_) => theirs.0 == ours.0 && theirs.1 != PeerEnd::Closed,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn streams_with_one_fault_end_alike(script in script()) {
        let bytes = script.bytes();
        let ours = decode_chunks([bytes.as_slice()], &LIMITS, &mut None);
        let theirs = tungstenite_decodes(&bytes);
        prop_assert!(single_fault_agrees(&ours, &theirs, &script.fault), "{:?}\n{:?}", ours, theirs);
    }

    #[test]
    fn random_frames_never_come_out_differently(frames in prop::collection::vec(any_frame(), 0..6), cut: prop::sample::Index) {
        let mut bytes = frames.concat();
        bytes.truncate(cut.index(2 * bytes.len() + 1));
        let ours = decode_chunks([bytes.as_slice()], &LIMITS, &mut None);
        let theirs = tungstenite_decodes(&bytes);
        prop_assert!(arbitrary_agrees(&ours, &theirs), "{:?}\n{:?}", ours, theirs);
    }

    #[test]
    fn headers_are_read_alike(first: [u8; 2], rest: [u8; 12], key: bool) {
        // Most random headers are refused at their first two bytes: mend them.
        let [opcode, length] = [first[0] & 0x8F, first[1] | if key { 0x80 } else { 0 }];
        let bytes = [[opcode, length].as_slice(), &rest].concat();
        let theirs = FrameHeader::parse(&mut Cursor::new(&bytes));
        match (frame::decode(&bytes), theirs) {
            (Ok(Some(ours)), Ok(Some((theirs, payload)))) => {
                prop_assert_eq!((ours.is_final, Some(ours.key), ours.payload), (theirs.is_final, theirs.mask, payload));
                prop_assert_eq!(ours.opcode as u8, u8::from(theirs.opcode));
                prop_assert_eq!(ours.length, theirs.len(payload));
            }
            (Ok(None), theirs) => prop_assert!(matches!(theirs, Ok(None))),
            (Ok(Some(_)), theirs) => prop_assert!(false, "{:?}", theirs),
            (Err(_), _) => {}
        }
    }

    #[test]
    fn heads_are_granted_alike(bytes in edited_head()) {
        let (verdict, _) = handshake_chunks(&[&bytes], &HeadLimits::default());
        let theirs = tungstenite_grants(&bytes);
        let text = String::from_utf8_lossy(&bytes);
        match (&verdict, theirs) {
            (Verdict::Switched(response, length), Ok(Some((their_length, accept)))) => {
                prop_assert_eq!(*length, their_length);
                let line = format!("Sec-WebSocket-Accept: {accept}\r\n");
                prop_assert!(response.contains(&line));
            }
            (Verdict::Switched(..), Err(error)) => prop_assert!(only_we_grant(&error, &bytes), "{} {}", error, text),
            (Verdict::Switched(..), Ok(None)) => prop_assert!(false, "it waits: {}", text),
            (Verdict::Refused(reject), Ok(Some(_))) => {
                prop_assert!(only_we_refuse(*reject, &bytes), "{:?} {}", reject, text);
            }
            (Verdict::Refused(_), _) | (Verdict::Partial, Ok(None) | Err(_)) => {}
            (Verdict::Partial, Ok(Some(_))) => prop_assert!(has_other_line_ends(&bytes), "we wait: {}", text),
        }
    }
}

/// Length of the head and the accept key.
fn tungstenite_grants(bytes: &[u8]) -> Result<Option<(usize, String)>, Error> {
    let Some((length, request)) = Request::try_parse(bytes)? else { return Ok(None) };
    let response = create_response(&request)?;
    Ok(Some((length, response.headers()["Sec-WebSocket-Accept"].to_str().unwrap().to_owned())))
}

fn only_we_grant(error: &Error, bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    match error {
        Error::Protocol(ProtocolError::MissingConnectionUpgradeHeader) => {
            text.matches("\r\nconnection:").count() > 1 || !bytes.is_ascii()
        }
        Error::HttpFormat(_) => {
            text.split(' ').nth(1).is_some_and(|target| target.parse::<tungstenite::http::Uri>().is_err())
        }
        _ => false,
    }
}

fn only_we_refuse(reject: Reject, bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let count = |name: &str| text.matches(&format!("\n{name}:")).count();
    match reject {
        Reject::BadHost => true,
        Reject::BadUpgrade => {
            ["sec-websocket-key", "sec-websocket-version", "upgrade"].iter().any(|name| count(name) > 1)
        }
        Reject::BadBody => count("content-length") + count("transfer-encoding") > 0,
        Reject::BadKey => true,
        Reject::UpgradeRequired => true,
        Reject::WebSocketVersion => false,
        Reject::HeadTooLarge | Reject::TargetTooLong => true,
        Reject::Malformed => {
            has_other_line_ends(bytes) || text.split(' ').nth(1).is_some_and(|path| !is_path(path))
        }
        _ => false,
    }
}

fn is_path(target: &str) -> bool {
    target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic())
}

fn has_other_line_ends(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\r")
        || bytes.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || bytes[at - 1] != b'\r'))
}

/// A frame of which anything may be wrong.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        6 => prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x02, 0x00, 0x00, 0x80, 0x80, 0x89, 0x8A, 0x88]),
        1 => any::<u8>(),
    ];
    let form = prop_oneof![
        12 => Just(LengthForm::Minimal),
        1 => Just(LengthForm::Sixteen),
        1 => Just(LengthForm::SixtyFour),
    ];
    let payload = prop_oneof![
        4 => "[ -~]{0,130}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<char>(), 0..40).prop_map(|text| text.into_iter().collect::<String>().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..LIMIT + 20),
        1 => Just(b"\x03\xE8bye".to_vec()),
    ];
    let key = prop_oneof![15 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)];
    (first, payload, form, key).prop_map(|(first, payload, form, key)| frame_as(first, &payload, form, key))
}

/// A good request with a line added, removed or repeated, or bytes changed.
fn edited_head() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![
        "Connection: keep-alive",
        "Connection: keep-alive, Upgrade",
        "Connection: keep-alive Upgrade",
        "connection: UPGRADE",
        "Upgrade: websocket, foo",
        "Upgrade: WebSocket",
        "Host: b",
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Sec-WebSocket-Version: 12",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAB==",
        "Sec-WebSocket-Protocol:",
        "X-Any: caf\u{e9}",
    ]);
    let lines = prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(line)), 0..3);
    let bytes = prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(any::<u8>())), 0..2);
    (lines, bytes).prop_map(|(lines, edits)| {
        let mut all = vec![
            "GET /connection/websocket HTTP/1.1",
            "Host: a",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
        ];
        for (place, line) in lines {
            match line {
                Some(line) => all.insert(1 + place.index(all.len()), line),
                None if all.len() > 1 => drop(all.remove(1 + place.index(all.len() - 1))),
                None => {}
            }
        }
        let mut head = format!("{}\r\n\r\n", all.join("\r\n")).into_bytes();
        for (place, byte) in edits {
            let at = place.index(head.len());
            match byte {
                Some(byte) => head[at] = byte,
                None => drop(head.remove(at)),
            }
        }
        head
    })
}
