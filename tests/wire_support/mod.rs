//! What the tests of the wire layer share: client frames, chunkings, and drivers that return what came out.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may stop at the first surprise, as tests do"
)]

pub(crate) mod script;

use millpond::wire::http::{HeadLimits, HeadScan, parse_head};
use millpond::wire::mask::unmask;
use millpond::wire::message::{Assembly, DecoderLimits, Item, Violation, next_item};
use millpond::wire::reject::Reject;
use millpond::wire::upgrade::check_upgrade;

/// A mask key without a repeated byte, so that a wrong phase shows.
pub(crate) const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// How a frame writes its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LengthForm {
    Minimal,
    Sixteen,
    SixtyFour,
}

/// The head of a client frame that announces `length` bytes.
pub(crate) fn header(first: u8, length: u64, form: LengthForm, key: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if key.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match form {
        LengthForm::Minimal if length < 126 => bytes.push(masked | length as u8),
        LengthForm::Minimal | LengthForm::Sixteen if length < 0x1_0000 => {
            bytes.push(masked | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    bytes.extend_from_slice(&key.unwrap_or_default()[..key.map_or(0, |key| key.len())]);
    bytes
}

/// A whole client frame with the given first byte (FIN, reserved bits, opcode).
pub(crate) fn frame_as(first: u8, payload: &[u8], form: LengthForm, key: Option<[u8; 4]>) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64, form, key);
    let start = bytes.len();
    bytes.extend_from_slice(payload);
    unmask(&mut bytes[start..], key.unwrap_or_default());
    bytes
}

/// A whole client frame as it should be.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    frame_as(first, payload, LengthForm::Minimal, Some(KEY))
}

/// An item that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owned {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Item<'_>> for Owned {
    fn from(item: Item<'_>) -> Self {
        match item {
            Item::Text(text) => Self::Text(text.to_vec()),
            Item::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Item::Ping(bytes) => Self::Ping(bytes.to_vec()),
            Item::Pong(bytes) => Self::Pong(bytes.to_vec()),
            Item::Close(close) => Self::Close(close.map(|(code, reason)| (code, reason.to_owned()))),
        }
    }
}

/// How a stream of frames ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing is pending.
    Quiet,
    /// Something is.
    Pending,
    /// A close frame came.
    Closed,
    /// The peer broke a rule.
    Broken(Violation),
}

/// Feeds the chunks one after the other, as reads of a socket would bring them.
pub(crate) fn decode_chunks<'c>(
    chunks: impl IntoIterator<Item = &'c [u8]>,
    limits: &DecoderLimits,
    assembly: &mut Option<Box<Assembly>>,
) -> (Vec<Owned>, End) {
    let mut items = Vec::new();
    for chunk in chunks {
        let mut bytes = chunk.to_vec();
        let mut input = bytes.as_mut_slice();
        loop {
            match next_item(assembly, &mut input, limits) {
                Ok(None) => break,
                Ok(Some(item)) => {
                    let is_close = matches!(item, Item::Close(_));
                    items.push(item.into());
                    if is_close {
                        return (items, End::Closed);
                    }
                }
                Err(violation) => return (items, End::Broken(violation)),
            }
        }
        assert!(input.is_empty(), "None means that the input is used up");
        assert_eq!(assembly.is_some(), assembly.as_ref().is_some_and(|assembly| assembly.is_pending()));
    }
    let end = if assembly.is_some() { End::Pending } else { End::Quiet };
    (items, end)
}

/// Unsplit, byte by byte, and three splits at places drawn from `seed`.
pub(crate) fn chunkings(bytes: &[u8], seed: u64) -> Vec<Vec<&[u8]>> {
    let mut all = vec![vec![bytes], bytes.chunks(1).collect()];
    let mut state = seed | 1;
    for _ in 0..3 {
        let mut rest = bytes;
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let size = 1 + (state >> 33) as usize % rest.len().min(64);
            let (chunk, behind) = rest.split_at(size);
            chunks.push(chunk);
            rest = behind;
        }
        all.push(chunks);
    }
    all
}

/// Decodes under each chunking, which must not change what comes out.
pub(crate) fn decode(bytes: &[u8], limits: &DecoderLimits) -> (Vec<Owned>, End) {
    let mut results = chunkings(bytes, bytes.len() as u64)
        .into_iter()
        .map(|chunks| decode_chunks(chunks, limits, &mut None));
    let unsplit = results.next().unwrap();
    for split in results {
        assert_eq!(split, unsplit, "chunking changed the verdict on {:02x?}", &bytes[..bytes.len().min(40)]);
    }
    unsplit
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// More bytes are needed.
    Partial,
    /// Granted, with this response; the head took so many bytes.
    Switched(String, usize),
    /// Refused.
    Refused(Reject),
}

/// Feeds the chunks into a growing buffer, as a handshake does; also how many bytes had arrived at the verdict.
pub(crate) fn handshake_chunks(chunks: &[&[u8]], limits: &HeadLimits) -> (Verdict, usize) {
    let mut scan = HeadScan::default();
    let mut buffer = Vec::new();
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        match parse_head(&buffer, &mut scan, limits) {
            Ok(None) => {}
            Err(reject) => return (Verdict::Refused(reject), buffer.len()),
            Ok(Some(head)) => {
                let verdict = match check_upgrade(&head) {
                    Ok(upgrade) => {
                        let mut out = Vec::new();
                        upgrade.write_response(&mut out);
                        Verdict::Switched(String::from_utf8(out).unwrap(), head.length())
                    }
                    Err(reject) => Verdict::Refused(reject),
                };
                return (verdict, buffer.len());
            }
        }
    }
    (Verdict::Partial, buffer.len())
}

/// The handshake under each chunking, which must not change the verdict.
pub(crate) fn handshake(bytes: &[u8]) -> Verdict {
    let limits = HeadLimits::default();
    let mut verdicts =
        chunkings(bytes, bytes.len() as u64).into_iter().map(|chunks| handshake_chunks(&chunks, &limits).0);
    let unsplit = verdicts.next().unwrap();
    for split in verdicts {
        assert_eq!(split, unsplit, "{}", String::from_utf8_lossy(bytes));
    }
    unsplit
}
