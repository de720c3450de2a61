//! The other end of a connection, on a plain socket: it sends whatever it likes and looks at what comes back, byte for
//! byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::server::PATIENCE;

/// A good upgrade, header by header.
pub(crate) const GOOD: [&str; 5] = [
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];
/// The answer to it (RFC 6455 section 1.3 has the same key).
pub(crate) const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// The request line of it.
pub(crate) const LINE: &str = "GET /connection/websocket HTTP/1.1";

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
/// The bit that makes a frame the last of its message.
pub(crate) const FIN: u8 = 0x80;

/// A request of these lines.
pub(crate) fn request(line: &str, headers: &[&str]) -> Vec<u8> {
    let lines = std::iter::once(line).chain(headers.iter().copied());
    let mut text: String = lines.flat_map(|line| [line, "\r\n"]).collect();
    text.push_str("\r\n");
    text.into_bytes()
}

/// The good upgrade with the header of this name replaced, by several or by none.
pub(crate) fn upgrade_with(name: &str, replacement: &[&str]) -> Vec<u8> {
    let kept = GOOD.into_iter().filter(|header| !header.starts_with(name));
    let headers: Vec<&str> = kept.chain(replacement.iter().copied()).collect();
    request(LINE, &headers)
}

/// The good upgrade.
pub(crate) fn upgrade() -> Vec<u8> {
    request(LINE, &GOOD)
}

/// A masked frame with this first byte and this key.
pub(crate) fn masked(first: u8, key: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        medium @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// A whole message or control frame.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    masked(FIN | opcode, [0xA1, 0x00, 0x37, 0xFF], payload)
}

/// A whole text message.
pub(crate) fn text(payload: &str) -> Vec<u8> {
    frame(TEXT, payload.as_bytes())
}

/// A fragment that is not the last.
pub(crate) fn fragment(opcode: u8, payload: &[u8]) -> Vec<u8> {
    masked(opcode, [0x01, 0x02, 0x03, 0x04], payload)
}

/// How a connection ended, and what had come until then.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) bytes: Vec<u8>,
    pub(crate) by_reset: bool,
}

/// One end of a connection.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
}

impl Peer {
    /// Connects and says nothing.
    pub(crate) fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    /// Connected, but able to take little that it does not read.
    pub(crate) fn with_small_window(address: SocketAddr) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    /// Connects and sends; the server may end the connection meanwhile.
    pub(crate) fn sending(address: SocketAddr, bytes: &[u8]) -> Self {
        let mut peer = Self::silent(address);
        peer.send(bytes);
        peer
    }

    /// Upgraded, without a command.
    pub(crate) fn upgraded(address: SocketAddr) -> Self {
        let mut peer = Self::sending(address, &upgrade());
        let mut head = vec![0; SWITCHED.len()];
        peer.stream.read_exact(&mut head).unwrap();
        assert_eq!(String::from_utf8_lossy(&head), SWITCHED);
        peer
    }

    /// Connected with this `connect` member.
    pub(crate) fn connected_with(address: SocketAddr, connect: &str) -> Self {
        let mut peer = Self::upgraded(address);
        peer.send(&text(&format!(r#"{{"id":1,"connect":{connect}}}"#)));
        let reply = peer.json();
        assert!(reply["connect"]["client"].is_string(), "{reply}");
        peer
    }

    /// Connected, as nobody in particular.
    pub(crate) fn connected(address: SocketAddr) -> Self {
        Self::connected_with(address, "{}")
    }

    /// Sends; what the server does not take any more is not our concern.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends in pieces of so many bytes.
    pub(crate) fn send_in_pieces(&mut self, bytes: &[u8], length: usize, pause: Duration) {
        for piece in bytes.chunks(length) {
            if self.stream.write_all(piece).is_err() {
                return;
            }
            thread::sleep(pause);
        }
    }

    /// Says that nothing more will come.
    pub(crate) fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends with RST.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads until the server ends the connection.
    pub(crate) fn ending(&mut self) -> Ending {
        let mut bytes = Vec::new();
        let by_reset = match self.stream.read_to_end(&mut bytes) {
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
            Err(error) => panic!("the connection was not ended ({error}) after {}", bytes.escape_ascii()),
        };
        Ending { bytes, by_reset }
    }

    /// Opcode and payload of the next frame.
    pub(crate) fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut start = [0; 2];
        self.stream.read_exact(&mut start).unwrap();
        assert_eq!(start[0] & 0xF0, FIN, "server frames are whole and have no reserved bits");
        let length = match start[1] {
            126 => self.number(2),
            127 => self.number(8),
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload).unwrap();
        (start[0] & 0x0F, payload)
    }

    fn number(&mut self, length: usize) -> u64 {
        let mut bytes = [0; 8];
        self.stream.read_exact(&mut bytes[8 - length..]).unwrap();
        u64::from_be_bytes(bytes)
    }

    /// The next message, which must be alone in its frame.
    pub(crate) fn json(&mut self) -> Value {
        let (opcode, payload) = self.frame();
        assert_eq!(opcode, TEXT, "a close or a control frame came: {}", payload.escape_ascii());
        serde_json::from_slice(&payload).unwrap()
    }

    /// The next so many messages, however they are joined in frames.
    pub(crate) fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            let (opcode, payload) = self.frame();
            assert_eq!(opcode, TEXT, "after {lines:?} came {}", payload.escape_ascii());
            lines.extend(String::from_utf8(payload).unwrap().lines().map(str::to_owned));
        }
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }

    /// Sends one command and returns its reply.
    pub(crate) fn ask(&mut self, command: &str) -> Value {
        self.send(&text(command));
        self.json()
    }

    /// Reads past messages to the close frame, checks its form and that nothing follows but the end; its code.
    pub(crate) fn closed(&mut self) -> u16 {
        let payload = loop {
            if let (CLOSE, payload) = self.frame() {
                break payload;
            }
        };
        let (code, reason) = payload.split_first_chunk().expect("a close frame of ours has a code");
        let reason = std::str::from_utf8(reason).unwrap();
        assert!(!reason.is_empty() && reason.len() <= 123, "reason {reason:?}");
        assert!(serde_json::from_str::<Value>(reason).is_err(), "the reason {reason:?} is JSON");
        assert_eq!(self.ending().bytes, b"", "something came behind the close frame");
        u16::from_be_bytes(*code)
    }
}

/// Sends a request whole, in single bytes and in uneven pieces: each time this status, in the form of a refusal.
pub(crate) fn assert_status(address: SocketAddr, bytes: &[u8], status: u16) {
    for length in [bytes.len(), 1, 7] {
        let mut peer = Peer::silent(address);
        peer.send_in_pieces(bytes, length.max(1), Duration::ZERO);
        let answer = String::from_utf8(peer.ending().bytes).unwrap();
        let shown = bytes[..bytes.len().min(300)].escape_ascii();
        assert_eq!(answer.get(..13), Some(&*format!("HTTP/1.1 {status} ")), "pieces of {length}: {shown}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.to_ascii_lowercase().contains("\r\nconnection: close"), "{shown}: {head}");
        assert!((1..100).contains(&body.len()), "{shown}: the body is {body:?}");
    }
}

/// Sends frames on a live connection: each time they end it with this close code.
pub(crate) fn assert_close(address: SocketAddr, bytes: &[u8], code: u16) {
    for length in [bytes.len(), 1, 3] {
        let mut peer = Peer::connected(address);
        peer.send_in_pieces(bytes, length.max(1), Duration::ZERO);
        let shown = bytes[..bytes.len().min(100)].escape_ascii();
        assert_eq!(peer.closed(), code, "pieces of {length}: {shown}");
    }
}
