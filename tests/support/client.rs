//! A WebSocket client that is somebody else's (tungstenite), reading the client protocol's messages one by one.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tungstenite::client::ClientRequestBuilder;
use tungstenite::protocol::WebSocket;
use tungstenite::{Error, Message};

use crate::server::PATIENCE;

/// One thing that the server sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// One message of the client protocol, without its separator or length.
    Message(Vec<u8>),
    /// A close frame.
    Close(u16, String),
    /// The connection ended without a close frame.
    End,
}

/// A connected client.
pub(crate) struct Client {
    socket: WebSocket<TcpStream>,
    waiting: VecDeque<Vec<u8>>,
    /// What the server echoed as subprotocol.
    pub(crate) subprotocol: Option<String>,
}

impl Client {
    /// Upgrades a new connection; `query` starts with `?` or is empty.
    pub(crate) fn open(address: SocketAddr, query: &str, subprotocol: Option<&str>) -> Result<Self, Error> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Self::upgrade(stream, address, query, subprotocol)
    }

    /// Upgrades a connection; a read timeout of the stream is one of the upgrade as well.
    pub(crate) fn upgrade(
        stream: TcpStream,
        address: SocketAddr,
        query: &str,
        subprotocol: Option<&str>,
    ) -> Result<Self, Error> {
        let uri = format!("ws://{address}/connection/websocket{query}");
        let mut request = ClientRequestBuilder::new(uri.parse().unwrap());
        if let Some(name) = subprotocol {
            request = request.with_sub_protocol(name);
        }
        let (socket, response) = tungstenite::client(request, stream).map_err(|error| match error {
            tungstenite::HandshakeError::Failure(error) => error,
            tungstenite::HandshakeError::Interrupted(_) => Error::Io(ErrorKind::TimedOut.into()),
        })?;
        let echoed =
            response.headers().get("Sec-WebSocket-Protocol").map(|value| value.to_str().unwrap().to_owned());
        Ok(Self { socket, waiting: VecDeque::new(), subprotocol: echoed })
    }

    /// A JSON client that has connected, and its id.
    pub(crate) fn connected(address: SocketAddr) -> (Self, String) {
        let mut client = Self::open(address, "", None).unwrap();
        client.send_text(r#"{"id":1,"connect":{}}"#);
        let reply = client.json();
        let id = reply["connect"]["client"]
            .as_str()
            .unwrap_or_else(|| panic!("not connected: {reply}"))
            .to_owned();
        (client, id)
    }

    /// Sends one text frame.
    pub(crate) fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// Sends one text frame to a server that may be gone.
    pub(crate) fn try_send_text(&mut self, text: &str) -> Result<(), Error> {
        self.socket.send(Message::text(text))
    }

    /// Sends one binary frame.
    pub(crate) fn send_binary(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).unwrap();
    }

    /// The connection underneath.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.socket.get_mut()
    }

    /// The next message as JSON; anything else fails the test.
    pub(crate) fn json(&mut self) -> serde_json::Value {
        match self.next() {
            Received::Message(message) => serde_json::from_slice(&message).unwrap(),
            other => panic!("expected a message, there came {other:?}"),
        }
    }

    /// The next thing that arrives.
    pub(crate) fn next(&mut self) -> Received {
        self.next_within(PATIENCE).expect("nothing arrived")
    }

    /// The next thing that arrives, or `None` if nothing does within `wait`.
    pub(crate) fn next_within(&mut self, wait: Duration) -> Option<Received> {
        self.socket.get_ref().set_read_timeout(Some(wait)).unwrap();
        while self.waiting.is_empty() {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    let lines = text.trim_end_matches('\n').split('\n');
                    self.waiting.extend(lines.map(|line| line.as_bytes().to_vec()));
                }
                Ok(Message::Binary(bytes)) => self.waiting.extend(split_delimited(&bytes)),
                Ok(Message::Close(Some(frame))) => {
                    return Some(Received::Close(frame.code.into(), frame.reason.to_string()));
                }
                Ok(Message::Close(None)) => return Some(Received::Close(1005, String::new())),
                Ok(_) => {}
                Err(Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return None;
                }
                Err(_) => return Some(Received::End),
            }
        }
        self.waiting.pop_front().map(Received::Message)
    }

    /// Reads on until the connection ends; answers the close frame if there was one.
    pub(crate) fn read_to_the_end(&mut self) -> Option<(u16, String)> {
        let mut close = None;
        loop {
            match self.next() {
                Received::Message(_) => {}
                Received::Close(code, reason) => close = Some((code, reason)),
                Received::End => return close,
            }
        }
    }
}

/// Splits Protobuf messages that each follow their length as a varint.
fn split_delimited(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = read_varint(bytes);
        let (message, rest) = rest.split_at(usize::try_from(length).unwrap());
        messages.push(message.to_vec());
        bytes = rest;
    }
    messages
}

/// Reads an unsigned varint; answers it and the bytes after it.
pub(crate) fn read_varint(bytes: &[u8]) -> (u64, &[u8]) {
    let last = bytes.iter().position(|byte| byte & 0x80 == 0).expect("a varint ends");
    let value = bytes[..=last].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7F));
    (value, &bytes[last + 1..])
}

mod checker {
    use super::*;

    #[test]
    fn delimited_messages_are_split() {
        assert_eq!(split_delimited(&[2, 7, 8, 0, 1, 9]), [vec![7, 8], vec![], vec![9]]);
        assert_eq!(read_varint(&[0x96, 0x01, 5]), (150, [5].as_slice()));
    }
}
