//! Close codes, reasons and frames (RFC 6455 sections 5.5.1 and 7.4).

use crate::wire::frame::{self, Opcode};
use crate::wire::message::Violation;

/// Longest reason in bytes: a control frame holds 125, the code takes 2.
pub const MAX_REASON: usize = 123;

/// True for codes that may stand in a close frame: the RFC's own, those registered with IANA since (1012 to 1014), and
/// those of libraries and applications (3000 to 4999).
#[must_use]
pub fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Parses the payload of a close frame; `None` where the peer gave no code.
///
/// # Errors
/// [`Violation::BadClose`] for one byte or a code that must not be sent, [`Violation::InvalidUtf8`] for the reason.
pub fn parse(payload: &[u8]) -> Result<Option<(u16, &str)>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(Violation::BadClose) };
    };
    let code = u16::from_be_bytes(*code);
    if !may_be_sent(code) {
        return Err(Violation::BadClose);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::InvalidUtf8)?;
    Ok(Some((code, reason)))
}

/// Appends a close frame. A code that must not be sent becomes a frame without code and reason; a reason longer than
/// [`MAX_REASON`] is cut at a character.
pub fn write_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    if !may_be_sent(code) {
        frame::write_frame(out, Opcode::Close, &[]);
        return;
    }
    let reason = reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default();
    let length = reason.len().saturating_add(2);
    frame::write_header(out, Opcode::Close, length);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Appends a pong that answers a ping of this payload, cut at the 125 bytes a control frame may hold.
pub fn write_pong(out: &mut Vec<u8>, payload: &[u8]) {
    frame::write_frame(out, Opcode::Pong, payload.get(..frame::MAX_CONTROL_PAYLOAD).unwrap_or(payload));
}

/// Appends a ping with this payload, cut at the 125 bytes a control frame may hold.
pub fn write_ping(out: &mut Vec<u8>, payload: &[u8]) {
    frame::write_frame(out, Opcode::Ping, payload.get(..frame::MAX_CONTROL_PAYLOAD).unwrap_or(payload));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_the_registry() {
        let allowed: Vec<u16> = (0..=u16::MAX).filter(|code| may_be_sent(*code)).collect();
        let expected: Vec<u16> =
            [1000, 1001, 1002, 1003].into_iter().chain(1007..=1014).chain(3000..=4999).collect();
        assert_eq!(allowed, expected);
    }

    #[test]
    fn payloads_are_read_as_sent() {
        assert_eq!(parse(b""), Ok(None));
        assert_eq!(parse(b"\x03\xE8"), Ok(Some((1000, ""))));
        assert_eq!(parse(b"\x0D\xACbye"), Ok(Some((3500, "bye"))));
        assert_eq!(parse(b"\x03"), Err(Violation::BadClose));
        assert_eq!(parse(b"\x03\xED"), Err(Violation::BadClose));
        assert_eq!(parse(b"\x03\xE8\xFF"), Err(Violation::InvalidUtf8));
    }

    #[test]
    fn a_written_close_is_short_enough_and_whole_characters() {
        let mut out = Vec::new();
        write_close(&mut out, 3500, &"é".repeat(100));
        assert_eq!(out[..2], [0x88, 124]);
        assert_eq!(parse(&out[2..]), Ok(Some((3500, "é".repeat(61).as_str()))));
        out.clear();
        write_close(&mut out, 1006, "never on the wire");
        assert_eq!(out, [0x88, 0]);
    }

    #[test]
    fn control_payloads_are_cut_at_125() {
        let mut out = Vec::new();
        write_pong(&mut out, &[7; 200]);
        assert_eq!((out[0], out[1], out.len()), (0x8A, 125, 127));
        out.clear();
        write_ping(&mut out, b"x");
        assert_eq!(out, [0x89, 1, b'x']);
    }
}
