//! The protocol against others' bytes and against itself: recorded exchanges of the reference server, random messages, and the
//! same command in both encodings.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise, its helpers too"
)]

#[path = "protocol_golden/mirror.rs"]
mod mirror;
#[path = "protocol_golden/random.rs"]
mod random;

use millpond::protocol::client::{self, Command, Reply, replies};
use millpond::protocol::{
    self, Body, EmptyKind, Encoding, PublicationView, commands, encode_empty, encode_ping,
    encode_push_publication,
};
use proptest::prelude::*;

/// Lines of the recording: `>` of the client, `<` of the server; Protobuf frames in hexadecimal.
const LINES: &str = include_str!("protocol_golden/lines.txt");

/// The frames that went into one direction.
fn recorded(direction: &str) -> impl Iterator<Item = (Encoding, Vec<u8>)> {
    LINES.lines().filter_map(move |line| line.strip_prefix(direction)).map(|frame| {
        if frame.starts_with('{') {
            (Encoding::Json, frame.into())
        } else {
            (Encoding::Protobuf, bytes(frame))
        }
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// For messages of assertions.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_recorded_reply_is_encoded_to_the_same_bytes() {
    let mut count = 0;
    for (encoding, frame) in recorded("< ") {
        let replies = replies(encoding, &frame).unwrap();
        let encoded: Vec<u8> = replies.iter().flat_map(|reply| mirror::encode(encoding, reply)).collect();
        assert_eq!(shown(&encoded), shown(&frame));
        assert_eq!(encoded, frame);
        count += replies.len();
    }
    assert_eq!(count, 65, "the recording is complete");
}

#[test]
fn every_recorded_command_is_decoded_in_full() {
    let mut count = 0;
    for (encoding, frame) in recorded("> ") {
        for command in commands(encoding, &frame) {
            let decoded = mirror::decoded(&command.unwrap());
            let expected: Command = match encoding {
                Encoding::Json => serde_json::from_slice(&frame).unwrap(),
                Encoding::Protobuf => prost::Message::decode_length_delimited(&*frame).unwrap(),
            };
            assert_eq!(decoded, expected, "{}", shown(&frame));
            count += 1;
        }
    }
    assert_eq!(count, 48, "the recording is complete");
}

/// Shapes that the recording lacks, from the tables of client-protocol.md.
#[test]
fn replies_outside_the_recording_have_the_documented_bytes() {
    for (json, protobuf) in SHAPES {
        let reply = replies(Encoding::Json, json.as_bytes()).unwrap().remove(0);
        assert_eq!(shown(&mirror::encode(Encoding::Json, &reply)), json);
        assert_eq!(mirror::encode(Encoding::Protobuf, &reply), bytes(protobuf), "{json}");
    }
}

/// The same message in JSON and in Protobuf, the latter assembled by hand from the field numbers of section 2.
const SHAPES: [(&str, &str); 17] = [
    (
        r#"{"id":1,"error":{"code":100,"message":"internal server error","temporary":true}}"#,
        "1f0801121b08641215696e7465726e616c20736572766572206572726f721801",
    ),
    (
        r#"{"id":2,"presence":{"presence":{"c":{"user":"","client":"c","conn_info":{"a":1}}}}}"#,
        "1708024a130a110a0163120c1201631a077b2261223a317d",
    ),
    (r#"{"id":2,"presence":{"presence":{}}}"#, "0408024a00"),
    (r#"{"id":3,"presence_stats":{"num_clients":0,"num_users":0}}"#, "0408035200"),
    (r#"{"id":3,"presence_stats":{"num_clients":300,"num_users":1}}"#, "090803520508ac021001"),
    (r#"{"id":6,"history":{"publications":[],"epoch":"","offset":0}}"#, "0408065a00"),
    (
        r#"{"push":{"channel":"a","join":{"info":{"user":"u","client":"c","chan_info":1}}}}"#,
        "1222101201612a0b0a090a0175120163220131",
    ),
    (r#"{"push":{"channel":"a","leave":{"info":{"user":"","client":"c"}}}}"#, "0c220a12016132050a03120163"),
    (
        r#"{"push":{"channel":"a","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#,
        "1e221c1201613a1710c4131a12696e73756666696369656e74207374617465",
    ),
    (r#"{"push":{"message":{"data":[1]}}}"#, "09220742050a035b315d"),
    (
        r#"{"push":{"channel":"a","subscribe":{"recoverable":true,"epoch":"ep","offset":7,"positioned":true,"data":{}}}}"#,
        "1522131201614a0e080122026570280730013a027b7d",
    ),
    (r#"{"push":{"disconnect":{"code":3001,"reason":"shutdown"}}}"#, "11220f5a0d08b917120873687574646f776e"),
    (r#"{"push":{"refresh":{"expires":true,"ttl":300}}}"#, "0922076205080110ac02"),
    (
        r#"{"id":9,"refresh":{"client":"c","version":"v","expires":true,"ttl":60}}"#,
        "0e0809720a0a01631201761801203c",
    ),
    (r#"{"id":9,"sub_refresh":{"expires":true,"ttl":60}}"#, "0808097a040801103c"),
    (
        r#"{"push":{"channel":"a","pub":{"data":1,"offset":18446744073709551615,"tags":{"k":"v"},"delta":true,"time":-1}}}"#,
        "2a2228120161222322013130ffffffffffffffffff013a060a016b120176400148ffffffffffffffffff01",
    ),
    (
        r#"{"id":1,"connect":{"client":"c","version":"v","expires":true,"ttl":300,"data":{},"subs":{"s":{"expires":true,"ttl":5},"t":{}},"ping":25,"pong":true,"session":"x","node":"n","time":1700000000000}}"#,
        "3608012a320a0163120176180120ac022a027b7d32090a017312040801100532050a01741200381940014a017852016e5880d095ffbc31",
    ),
];

#[test]
fn newlines_in_data_do_not_reach_json() {
    let mut out = Vec::new();
    let publication = PublicationView { data: Some(b"{\n  \"a\": [\n1]\n}\n"), ..PublicationView::default() };
    encode_push_publication(&mut out, Encoding::Json, "a", &publication);
    assert_eq!(shown(&out), r#"{"push":{"channel":"a","pub":{"data":{  "a": [1]}}}}"#);

    out.clear();
    encode_push_publication(&mut out, Encoding::Protobuf, "a", &publication);
    let replies = replies(Encoding::Protobuf, &out).unwrap();
    let data = &replies[0].push.as_ref().unwrap().publication.as_ref().unwrap().data;
    assert_eq!(Some(&**data), publication.data, "Protobuf takes bytes as they are");
}

#[test]
fn encoders_append_behind_what_is_there() {
    for (encoding, ping) in [(Encoding::Json, "{}"), (Encoding::Protobuf, "\0")] {
        let mut out = b"before".to_vec();
        encode_ping(&mut out, encoding);
        assert_eq!(shown(&out), format!("before{ping}"));
        let reply = Reply { id: 7, publish: Some(client::Empty {}), ..Reply::default() };
        encode_empty(&mut out, encoding, 7, EmptyKind::Publish);
        assert_eq!(shown(&out), format!("before{ping}{}", shown(&mirror::encode(encoding, &reply))));
    }
}

#[test]
fn a_client_cannot_write_what_is_not_json_to_a_json_connection() {
    let command = Command::publish(1, "a", b"hello");
    let mut out = b"before".to_vec();
    assert_eq!(command.encode(Encoding::Json, &mut out), Err(client::NotJson));
    assert_eq!(out, b"before");
    command.encode(Encoding::Protobuf, &mut out).unwrap();
    assert_eq!(out, b"before\x0e\x08\x01\x3a\x0a\x0a\x01a\x12\x05hello");
}

#[test]
fn a_pong_is_the_empty_command() {
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let mut frame = Vec::new();
        client::encode_pong(encoding, &mut frame);
        let pong = protocol::Command { id: 0, body: Body::Pong };
        assert_eq!(commands(encoding, &frame).collect::<Vec<_>>(), [Ok(pong)]);
    }
}

proptest! {
    // Failing cases are shown, not kept in files: what they teach becomes a line of a table.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_command_means_the_same_in_both_encodings(command in random::command()) {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let mut frame = Vec::new();
            command.encode(encoding, &mut frame).unwrap();
            let decoded: Vec<_> = commands(encoding, &frame).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(decoded.len(), 1);
            prop_assert_eq!(mirror::decoded(&decoded[0]), command.clone());
        }
    }

    #[test]
    fn commands_of_one_frame_come_in_order(batch in prop::collection::vec(random::command(), 1..5)) {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let mut frame = Vec::new();
            for command in &batch {
                if encoding == Encoding::Json && !frame.is_empty() {
                    frame.push(b'\n');
                }
                command.encode(encoding, &mut frame).unwrap();
            }
            let decoded: Vec<_> =
                commands(encoding, &frame).map(|command| mirror::decoded(&command.unwrap())).collect();
            prop_assert_eq!(&decoded, &batch);
        }
    }

    #[test]
    fn a_reply_means_the_same_in_both_encodings(reply in random::reply()) {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let frame = mirror::encode(encoding, &reply);
            prop_assert!(encoding == Encoding::Protobuf || !frame.contains(&b'\n'));
            prop_assert_eq!(&replies(encoding, &frame).unwrap(), std::slice::from_ref(&reply));
        }
    }

    #[test]
    fn protobuf_replies_have_the_bytes_that_prost_writes(reply in random::reply()) {
        let mut expected = Vec::new();
        prost::Message::encode_length_delimited(&reply, &mut expected).unwrap();
        prop_assert_eq!(mirror::encode(Encoding::Protobuf, &reply), expected);
    }

    #[test]
    fn no_bytes_make_the_decoder_do_anything_but_end(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let decoded: Vec<_> = commands(encoding, &frame).collect();
            prop_assert!(decoded.len() <= frame.len().max(1));
            let faults = decoded.iter().position(Result::is_err);
            prop_assert!(faults.is_none_or(|at| at + 1 == decoded.len()), "a fault is the last item");
        }
    }

    #[test]
    fn a_damaged_frame_decodes_or_is_refused(
        command in random::command(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let mut frame = Vec::new();
            command.encode(encoding, &mut frame).unwrap();
            let at = at.index(frame.len());
            frame[at] = byte;
            for decoded in commands(encoding, &frame).filter_map(Result::ok) {
                // What was decoded is well-formed: it can be encoded again, in either encoding.
                let mirrored = mirror::decoded(&decoded);
                prop_assert!(mirrored.encode(encoding, &mut Vec::new()).is_ok());
            }
            let cut: Vec<_> = commands(encoding, &frame[..at]).collect();
            prop_assert!(!cut.is_empty());
        }
    }
}
