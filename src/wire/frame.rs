//! Headers of single frames (RFC 6455 section 5.2): clients' frames in, our own frames out.
//!
//! Every rule that a single header can break is checked here, byte by byte in their order, so that a bad frame is refused
//! before its header is whole: a server that is lenient about these cannot be trusted behind proxies.
//!
//! tungstenite's header type reads the same fields, through a cursor and with log calls, at five times the cost (bench
//! `codec`, group `header`, both in one run: 2.7 ns against 17 ns), a quarter of what a small frame costs altogether. So
//! it is not on this path; tests/wire_differential.rs holds the two against each other.

use crate::wire::message::Violation;

/// Longest header of a client's frame in bytes: 2, an extended length of 8, a mask key of 4.
pub const MAX_CLIENT_HEADER: usize = 14;

/// Longest header of a server's frame in bytes.
pub const MAX_SERVER_HEADER: usize = 10;

/// Longest payload of a control frame in bytes (section 5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// Goes on with the fragmented message that is open.
    Continuation = 0,
    /// Text in UTF-8.
    Text = 1,
    /// Any bytes.
    Binary = 2,
    /// Begins or answers the closing handshake.
    Close = 8,
    /// Asks for a pong with the same payload.
    Ping = 9,
    /// Answers a ping, or comes unasked.
    Pong = 10,
}

impl Opcode {
    /// True for close, ping and pong.
    #[must_use]
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    /// The opcode in the low four bits of a frame's first byte; `None` where it is reserved.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0x0F {
            0 => Some(Self::Continuation),
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            8 => Some(Self::Close),
            9 => Some(Self::Ping),
            10 => Some(Self::Pong),
            _ => None,
        }
    }
}

/// Header of a client's frame that keeps every rule a single header can keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHeader {
    /// What the frame is.
    pub opcode: Opcode,
    /// Last frame of its message.
    pub is_final: bool,
    /// Mask key as sent.
    pub key: [u8; 4],
    /// Bytes of payload, at most 2^63 - 1.
    pub payload: u64,
    /// Bytes of this header, 6 to 14.
    pub length: usize,
}

/// Reads the header at the start of `bytes`; `None` while it is incomplete and not yet wrong.
///
/// # Errors
/// The first rule that is broken, in the order of the bytes.
#[inline]
pub fn decode(bytes: &[u8]) -> Result<Option<ClientHeader>, Violation> {
    let [first, second, rest @ ..] = bytes else {
        return bytes.first().map_or(Ok(None), |first| check_first(*first).map(|_| None));
    };
    let opcode = check_first(*first)?;
    if second & MASKED == 0 {
        return Err(Violation::Unmasked);
    }
    let short = second & !MASKED;
    if opcode.is_control() && short >= LENGTH_16 {
        return Err(Violation::LongControl);
    }
    let Some((payload, rest)) = split_length(short, rest)? else { return Ok(None) };
    let Some((key, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let length = bytes.len().saturating_sub(rest.len());
    Ok(Some(ClientHeader { opcode, is_final: first & FIN != 0, key: *key, payload, length }))
}

/// Writes the header of an unfragmented, unmasked server frame to the start of `out`; returns its length: 2, 4 or 10.
#[must_use]
pub fn frame_header(out: &mut [u8; MAX_SERVER_HEADER], opcode: Opcode, payload: usize) -> usize {
    let first = FIN | opcode as u8;
    if let Some(short) = u8::try_from(payload).ok().filter(|short| *short < LENGTH_16) {
        out.copy_from_slice(&[first, short, 0, 0, 0, 0, 0, 0, 0, 0]);
        2
    } else if let Ok(medium) = u16::try_from(payload) {
        let [a, b] = medium.to_be_bytes();
        out.copy_from_slice(&[first, LENGTH_16, a, b, 0, 0, 0, 0, 0, 0]);
        4
    } else {
        let [a, b, c, d, e, f, g, h] = (payload as u64).to_be_bytes();
        out.copy_from_slice(&[first, LENGTH_64, a, b, c, d, e, f, g, h]);
        10
    }
}

/// Length of the header of a server frame that [`frame_header`] wrote: 2, 4 or 10. 2 for what is no frame at all.
#[must_use]
pub fn header_length(frame: &[u8]) -> usize {
    match frame.get(1) {
        Some(&LENGTH_16) => 4,
        Some(&LENGTH_64) => 10,
        _ => 2,
    }
}

/// Appends the header of an unfragmented server frame.
pub fn write_header(out: &mut Vec<u8>, opcode: Opcode, payload: usize) {
    let mut header = [0; MAX_SERVER_HEADER];
    let length = frame_header(&mut header, opcode, payload);
    out.extend_from_slice(header.get(..length).unwrap_or_default());
}

/// Appends a whole, unfragmented server frame.
pub fn write_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    write_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const MASKED: u8 = 0x80;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;
/// "The most significant bit MUST be 0" (section 5.2).
const MAX_PAYLOAD: u64 = u64::MAX >> 1;

/// The rules that the first byte can break.
#[inline]
fn check_first(first: u8) -> Result<Opcode, Violation> {
    if first & RESERVED_BITS != 0 {
        return Err(Violation::ReservedBits);
    }
    let opcode = Opcode::from_bits(first).ok_or(Violation::ReservedOpcode)?;
    if opcode.is_control() && first & FIN == 0 {
        return Err(Violation::FragmentedControl);
    }
    Ok(opcode)
}

/// The payload's length, which must take as few bytes as it can, and what stands behind it; `None` while it is incomplete.
#[inline]
fn split_length(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Violation> {
    let (payload, rest, shortest) = match short {
        LENGTH_16 => {
            let Some((bytes, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*bytes)), rest, u64::from(LENGTH_16))
        }
        LENGTH_64 => {
            let Some((bytes, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
            (u64::from_be_bytes(*bytes), rest, 0x1_0000)
        }
        _ => (u64::from(short), rest, 0),
    };
    if payload < shortest || payload > MAX_PAYLOAD {
        Err(Violation::BadLength)
    } else {
        Ok(Some((payload, rest)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tungstenite::protocol::frame::FrameHeader;

    use super::*;

    #[test]
    fn server_headers_are_minimal_and_their_length_is_found_again() {
        let cases = [(0, 2), (125, 2), (126, 4), (0xFFFF, 4), (0x1_0000, 10), (usize::MAX >> 1, 10)];
        for (payload, expected) in cases {
            let mut out = [0xEE; 10];
            let length = frame_header(&mut out, Opcode::Text, payload);
            assert_eq!(length, expected, "{payload}");
            assert_eq!(header_length(&out[..length]), expected, "{payload}");
            let (parsed, read) = FrameHeader::parse(&mut Cursor::new(&out[..length])).unwrap().unwrap();
            assert_eq!(read, payload as u64);
            assert!(parsed.is_final && parsed.mask.is_none() && !parsed.rsv1);
        }
    }

    #[test]
    fn client_headers_are_found_at_their_last_byte() {
        let frames: [&[u8]; 3] = [
            &[0x81, 0x85, 1, 2, 3, 4],
            &[0x82, 0xFE, 0, 126, 1, 2, 3, 4],
            &[0x02, 0xFF, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4],
        ];
        for (bytes, payload) in frames.into_iter().zip([5, 126, 0x1_0000]) {
            for end in 0..bytes.len() {
                assert_eq!(decode(&bytes[..end]), Ok(None), "{end} of {bytes:?}");
            }
            let header = decode(bytes).unwrap().unwrap();
            assert_eq!((header.payload, header.length, header.key), (payload, bytes.len(), [1, 2, 3, 4]));
        }
    }

    #[test]
    fn a_bad_first_byte_needs_no_second() {
        assert_eq!(decode(&[0xC1]), Err(Violation::ReservedBits));
        assert_eq!(decode(&[0x83]), Err(Violation::ReservedOpcode));
        assert_eq!(decode(&[0x09]), Err(Violation::FragmentedControl));
        assert_eq!(decode(&[0x81, 0x05]), Err(Violation::Unmasked));
        assert_eq!(decode(&[0x89, 0xFE]), Err(Violation::LongControl));
    }
}
