//! Properties of the wire layer over random input: what a model says comes out, however the bytes are cut, and nothing a
//! peer sends brings the parsers down. wire_differential.rs holds them against tungstenite.

mod wire_support;

use millpond::wire::frame::{Opcode, frame_header, header_length, write_frame};
use millpond::wire::mask::{rotated, unmask};
use millpond::wire::message::{DecoderLimits, Violation};
use millpond::wire::origin::matches;
use millpond::wire::utf8::check_prefix;
use proptest::prelude::*;
use wire_support::script::{Fault, Script, script};
use wire_support::{End, chunkings, decode_chunks, handshake_chunks};

const LIMITS: DecoderLimits = DecoderLimits { message: wire_support::script::LIMIT };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_stream_yields_what_was_sent_and_ends_as_its_fault_says(script in script(), seed: u64) {
        let bytes = script.bytes();
        let expected = script.outcome();
        for chunks in chunkings(&bytes, seed) {
            prop_assert_eq!(decode_chunks(chunks, &LIMITS, &mut None), expected.clone());
        }
    }

    #[test]
    fn a_cut_stream_yields_a_prefix(script in script(), cut: prop::sample::Index, seed: u64) {
        let bytes = script.bytes();
        let cut = cut.index(bytes.len() + 1);
        let (all, _) = script.outcome();
        for chunks in chunkings(&bytes[..cut], seed) {
            let (items, end) = decode_chunks(chunks, &LIMITS, &mut None);
            prop_assert!(all.starts_with(&items));
            let may_break = !matches!(script.fault, Fault::None | Fault::Close(..));
            prop_assert!(may_break || !matches!(end, End::Broken(_)), "{:?}", end);
        }
    }

    #[test]
    fn any_bytes_get_one_verdict_however_they_are_cut(
        bytes in prop::collection::vec(frame_like_byte(), 0..300),
        seed: u64,
    ) {
        let mut verdicts = chunkings(&bytes, seed).into_iter().map(|chunks| decode_chunks(chunks, &LIMITS, &mut None));
        let unsplit = verdicts.next().unwrap();
        for split in verdicts {
            prop_assert_eq!(&split, &unsplit);
        }
    }

    #[test]
    fn any_head_gets_one_verdict_however_it_is_cut(bytes in head_like(), seed: u64) {
        let limits = millpond::wire::http::HeadLimits { head: 400, headers: 12, target: 60 };
        let mut verdicts = chunkings(&bytes, seed).into_iter().map(|chunks| handshake_chunks(&chunks, &limits).0);
        let unsplit = verdicts.next().unwrap();
        for split in verdicts {
            prop_assert_eq!(&split, &unsplit);
        }
    }

    #[test]
    fn unmasking_twice_or_in_pieces_is_unmasking_once(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        key: [u8; 4],
        cut: prop::sample::Index,
    ) {
        let mut whole = payload.clone();
        unmask(&mut whole, key);
        for (index, (masked, plain)) in whole.iter().zip(&payload).enumerate() {
            prop_assert_eq!(masked ^ key[index % 4], *plain);
        }
        let mut pieces = payload.clone();
        let cut = cut.index(payload.len() + 1);
        unmask(&mut pieces[..cut], key);
        unmask(&mut pieces[cut..], rotated(key, cut));
        prop_assert_eq!(&pieces, &whole);
        unmask(&mut whole, key);
        prop_assert_eq!(whole, payload);
    }

    #[test]
    fn text_fails_exactly_where_no_continuation_could_save_it(
        pieces in prop::collection::vec(text_piece(), 0..12),
        seed: u64,
    ) {
        let text = pieces.concat();
        // std says up to where it is valid, and whether what follows is wrong or only unfinished.
        let first_bad = std::str::from_utf8(&text).err().filter(|error| error.error_len().is_some());
        for chunks in chunkings(&text, seed) {
            let (mut valid, mut end, mut failed_in) = (0, 0, None);
            for chunk in chunks {
                let start = end;
                end += chunk.len();
                match check_prefix(&text[..end], valid) {
                    Ok(now) => valid = now,
                    Err(_) => { failed_in = Some((start, end)); break }
                }
            }
            match (failed_in, first_bad) {
                (None, None) => prop_assert!(text.len() - valid < 4),
                (Some((start, end)), Some(error)) => {
                    let bad = error.valid_up_to() + error.error_len().unwrap();
                    // The byte that cannot stand there is the one behind the longest possible prefix, or its only one.
                    prop_assert!(error.valid_up_to() < end && start <= bad, "{}..{} {}", start, end, error);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn globs_are_the_regular_expressions_they_look_like(
        pattern in "https?://[ab*?.]{0,8}(:[0-9*]{1,3})?",
        origin in "https?://[aAbB.]{1,6}(:[0-9]{1,3})?",
    ) {
        let strip = |text: &str| {
            let port = if text.starts_with("https:") { ":443" } else { ":80" };
            text.strip_suffix(port).unwrap_or(text).to_owned()
        };
        let expression = regex::escape(&strip(&pattern)).replace(r"\*", ".*").replace(r"\?", ".");
        let expected = regex::Regex::new(&format!("(?i)^{expression}$")).unwrap().is_match(&strip(&origin));
        prop_assert_eq!(matches(&pattern, origin.as_bytes()), expected);
    }

    #[test]
    fn server_frames_name_their_own_length(length in 0usize..200_000) {
        let mut header = [0; 10];
        let written = frame_header(&mut header, Opcode::Binary, length);
        prop_assert_eq!(header_length(&header[..written]), written);
        let mut out = Vec::new();
        write_frame(&mut out, Opcode::Binary, &vec![1; length]);
        prop_assert_eq!(out.len(), written + length);
        prop_assert_eq!(&out[..written], &header[..written]);
    }
}

/// Bytes that are frames more often than chance would have it.
fn frame_like_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        3 => prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A]),
        3 => 0x80u8..=0x88,
        1 => prop::sample::select(vec![0xFE, 0xFF, 0x00, 0x7F]),
        2 => any::<u8>(),
    ]
}

/// Requests with something changed.
fn head_like() -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), prop::collection::vec(head_byte(), 0..4), 0usize..4);
    prop::collection::vec(edit, 0..4).prop_map(|edits| {
        let mut bytes = b"GET /connection/websocket?format=protobuf HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            .to_vec();
        for (place, inserted, removed) in edits {
            let start = place.index(bytes.len() + 1);
            let end = (start + removed).min(bytes.len());
            bytes.splice(start..end, inserted);
        }
        bytes
    })
}

fn head_byte() -> impl Strategy<Value = u8> {
    prop_oneof![prop::sample::select(b"\r\n\t :,=\0\x7F/".to_vec()), b'!'..=b'~', any::<u8>()]
}

/// Pieces of text, most of them valid by themselves.
fn text_piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => any::<char>().prop_map(|scalar| scalar.to_string().into_bytes()),
        6 => "[a-z]{1,40}".prop_map(String::into_bytes),
        1 => prop::collection::vec(0x80u8.., 1..4),
    ]
}

#[test]
fn the_model_knows_every_class_of_fault() {
    // Guards the strategy: a fault that is never drawn would never be tested.
    let all: Vec<Violation> = Fault::samples().iter().filter_map(Fault::violation).collect();
    let codes: std::collections::HashSet<u16> = all.iter().map(|violation| violation.code()).collect();
    assert_eq!(codes, std::collections::HashSet::from([1002, 1007, 1009]));
    let distinct: std::collections::HashSet<Violation> = all.into_iter().collect();
    assert_eq!(distinct.len(), 11, "every violation but the one that is not the peer's");
    let script = Script { messages: vec![], fault: Fault::None, seed: 1 };
    assert_eq!(script.outcome(), (vec![], End::Quiet));
}
