//! WebSocket framing of the client's side (RFC 6455): masked frames out, unmasked frames in.
//!
//! A server frame that breaks a rule is a fault of the server and ends the connection, so that it is counted.

use std::io::Cursor;

use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// The most that a server frame may announce; beyond it the stream is taken for broken.
const FRAME_LIMIT: u64 = 64 << 20;

/// One frame of the server, its payload still in the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub opcode: OpCode,
    /// Whether the message ends with it.
    pub last: bool,
    /// The payload.
    pub payload: &'a [u8],
}

/// A server broke RFC 6455.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum FrameFault {
    /// Section 5.1: a server must not mask.
    #[error("masked server frame")]
    Masked,
    /// Section 5.2: nothing was negotiated that gives the reserved bits a meaning.
    #[error("reserved bit set")]
    Reserved,
    /// An unknown opcode, or a header that cannot be read.
    #[error("bad frame header")]
    Header,
    /// Section 5.5: a control frame is whole and at most 125 bytes long.
    #[error("bad control frame")]
    Control,
    /// A frame longer than this generator takes.
    #[error("frame too long")]
    TooLong,
    /// Section 5.4: a continuation of nothing, or a message begun within another.
    #[error("bad fragmentation")]
    Fragmentation,
}

/// Takes the first frame of `bytes`: the frame and its whole length, or `None` while it is incomplete.
///
/// # Errors
/// [`FrameFault`] where the server broke a rule.
pub fn next_frame(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, FrameFault> {
    let mut cursor = Cursor::new(bytes);
    let parsed = FrameHeader::parse(&mut cursor).map_err(|_| FrameFault::Header)?;
    let Some((header, length)) = parsed else { return Ok(None) };
    let start = usize::try_from(cursor.position()).map_err(|_| FrameFault::TooLong)?;
    check_header(&header, length)?;
    let length = usize::try_from(length).map_err(|_| FrameFault::TooLong)?;
    let Some(payload) = bytes.get(start..start + length) else { return Ok(None) };
    Ok(Some((Frame { opcode: header.opcode, last: header.is_final, payload }, start + length)))
}

fn check_header(header: &FrameHeader, length: u64) -> Result<(), FrameFault> {
    if header.mask.is_some() {
        return Err(FrameFault::Masked);
    }
    if header.rsv1 || header.rsv2 || header.rsv3 {
        return Err(FrameFault::Reserved);
    }
    if matches!(header.opcode, OpCode::Control(_)) && (!header.is_final || length > 125) {
        return Err(FrameFault::Control);
    }
    if length > FRAME_LIMIT { Err(FrameFault::TooLong) } else { Ok(()) }
}

/// The code of a close frame; 1005 stands for none (RFC 6455 section 7.1.5).
#[must_use]
pub fn close_code(payload: &[u8]) -> u16 {
    match payload {
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => 1005,
    }
}

/// Appends one masked frame.
pub fn write_frame(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8], mask: [u8; 4]) {
    let header = FrameHeader { opcode, mask: Some(mask), ..FrameHeader::default() };
    // Writing to a Vec cannot fail.
    let _ = header.format(payload.len() as u64, out);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Takes the first frame of a client, for the peer: its text, unmasked in place, and its whole length. The inner `None`
/// is an incomplete frame, the outer one the end: a goodbye, or a frame that no well-behaved client sends.
pub(crate) fn client_frame(bytes: &mut [u8]) -> Option<Option<(&[u8], usize)>> {
    let mut cursor = Cursor::new(&*bytes);
    let Some((header, length)) = FrameHeader::parse(&mut cursor).ok()? else { return Some(None) };
    let (start, length) = (usize::try_from(cursor.position()).ok()?, usize::try_from(length).ok()?);
    let mask = header.mask?;
    if header.opcode == CLOSE || !header.is_final {
        return None;
    }
    let Some(payload) = bytes.get_mut(start..start.checked_add(length)?) else { return Some(None) };
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    Some(Some((payload, start + length)))
}

/// A text frame's opcode.
pub const TEXT: OpCode = OpCode::Data(Data::Text);
/// A binary frame's opcode.
pub const BINARY: OpCode = OpCode::Data(Data::Binary);
/// The opcode of the answer to a ping.
pub const PONG: OpCode = OpCode::Control(Control::Pong);
/// The opcode of a goodbye.
pub const CLOSE: OpCode = OpCode::Control(Control::Close);

/// The upgrade request of one worker. Its key is drawn once per worker: a server cannot tell, and a million keys prove
/// no more than one.
pub struct Upgrade {
    /// The bytes to send.
    pub request: Vec<u8>,
    accept: String,
    subprotocol: Option<String>,
}

/// What an answer to the upgrade request came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Upgraded {
    /// The head is incomplete.
    Partial,
    /// 101, and the head was this long.
    Done(usize),
    /// Another status.
    Status(u16),
    /// Not HTTP, or the wrong key or subprotocol.
    Bad,
}

impl Upgrade {
    /// A request for `target` on `host`. `extra` headers are whole lines without line ends.
    #[must_use]
    pub fn new(host: &str, target: &str, subprotocol: Option<&str>, extra: &[String]) -> Self {
        let key = tungstenite::handshake::client::generate_key();
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        );
        if let Some(name) = subprotocol {
            request.push_str(&format!("Sec-WebSocket-Protocol: {name}\r\n"));
        }
        for line in extra {
            request.push_str(line);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        Self {
            request: request.into_bytes(),
            accept: derive_accept_key(key.as_bytes()),
            subprotocol: subprotocol.map(ToOwned::to_owned),
        }
    }

    /// Reads the server's answer.
    #[must_use]
    pub fn check(&self, answer: &[u8]) -> Upgraded {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(answer) {
            Ok(httparse::Status::Partial) => Upgraded::Partial,
            Ok(httparse::Status::Complete(length)) => match response.code {
                Some(101) if self.accepts(response.headers) => Upgraded::Done(length),
                Some(101) | None => Upgraded::Bad,
                Some(status) => Upgraded::Status(status),
            },
            Err(_) => Upgraded::Bad,
        }
    }

    fn accepts(&self, headers: &[httparse::Header<'_>]) -> bool {
        let value = |name: &str| {
            headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
        };
        value("sec-websocket-accept") == Some(self.accept.as_bytes())
            && value("sec-websocket-protocol") == self.subprotocol.as_deref().map(str::as_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_frames_are_taken_one_by_one_and_only_whole() {
        let bytes = [0x81, 2, b'h', b'i', 0x89, 0, 0x82, 3, 1];
        let (frame, used) = next_frame(&bytes).unwrap().unwrap();
        assert_eq!((frame.payload, frame.opcode, used), (&b"hi"[..], TEXT, 4));
        let (frame, used) = next_frame(&bytes[4..]).unwrap().unwrap();
        assert_eq!((frame.opcode, used), (OpCode::Control(Control::Ping), 2));
        assert_eq!(next_frame(&bytes[6..]), Ok(None));
    }

    #[test]
    fn broken_server_frames_are_named() {
        assert_eq!(next_frame(&[0x81, 0x80, 0, 0, 0, 0]), Err(FrameFault::Masked));
        assert_eq!(next_frame(&[0xc1, 0]), Err(FrameFault::Reserved));
        assert_eq!(next_frame(&[0x09, 0]), Err(FrameFault::Control));
        assert_eq!(next_frame(&[0x83, 0]), Err(FrameFault::Header));
    }

    #[test]
    fn client_frames_are_masked() {
        let mut out = Vec::new();
        write_frame(&mut out, TEXT, b"abcde", [1, 2, 3, 4]);
        assert_eq!(out, [0x81, 0x85, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2, b'c' ^ 3, b'd' ^ 4, b'e' ^ 1]);
    }

    #[test]
    fn an_upgrade_answer_is_checked_against_the_key() {
        let upgrade = Upgrade::new("h", "/", None, &[]);
        let answer = |accept: &str, more: &str| {
            format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n{more}\r\n")
        };
        let good = answer(&upgrade.accept, "");
        assert_eq!(upgrade.check(good.as_bytes()), Upgraded::Done(good.len()));
        assert_eq!(upgrade.check(&good.as_bytes()[..20]), Upgraded::Partial);
        assert_eq!(upgrade.check(answer("x", "").as_bytes()), Upgraded::Bad);
        let unasked = answer(&upgrade.accept, "Sec-WebSocket-Protocol: chat\r\n");
        assert_eq!(upgrade.check(unasked.as_bytes()), Upgraded::Bad);
        assert_eq!(upgrade.check(b"HTTP/1.1 503 No\r\n\r\n"), Upgraded::Status(503));
    }
}
