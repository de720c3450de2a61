//! One connection that publishes: HTTP requests with keep-alive, or commands over a WebSocket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use mio::{Interest, Registry, Token};

use crate::clock::Clock;
use crate::dialect::{Command, Dialect, Incoming, Opening, ReplyBody};
use crate::ws::{self, Upgrade, Upgraded};

/// How long the handshake of a lane may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Why a lane does not publish.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The connection broke.
    #[error("the publisher's connection: {0}")]
    Io(#[from] io::Error),
    /// The server answered something else than HTTP.
    #[error("the publisher's request was answered with something else than HTTP")]
    NotHttp,
    /// The server answered with this status.
    #[error("the publisher's request was answered with status {0}: {1}")]
    Status(u16, String),
    /// The server closed a publisher's WebSocket with this code.
    #[error("the server closed the publisher's connection with code {0}")]
    Closed(u16),
    /// The WebSocket handshake of a publisher failed.
    #[error("a publisher could not connect: {0}")]
    Handshake(&'static str),
    /// The dialect gives no way to publish.
    #[error("plain servers need --publish-frame to publish")]
    NoFrame,
}

/// How a lane speaks.
pub(super) enum Way {
    Http { address: SocketAddr, host: String, path: String, key: Option<String> },
    Client { address: SocketAddr, upgrade: Upgrade, dialect: Dialect, token: String, user: String },
}

/// A lane's connection.
pub(super) struct Lane {
    way: Way,
    socket: mio::net::TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    next_id: u32,
    /// The server has said that it closes after this answer.
    closing: bool,
    /// Where the socket is registered, to register its successor there.
    home: Option<(Registry, Token)>,
    /// Publications that are not answered yet.
    pub(super) outstanding: u32,
    /// Answers that were errors.
    pub(super) errors: u64,
}

impl Lane {
    /// Connects, and does the handshake if there is one. Blocks: nothing is measured yet.
    pub(super) fn open(way: Way) -> Result<Self, LaneError> {
        let (Way::Http { address, .. } | Way::Client { address, .. }) = &way;
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(HANDSHAKE))?;
        if let Way::Client { upgrade, dialect, token, user, .. } = &way {
            handshake(&mut socket, upgrade, dialect, token, user)?;
        }
        socket.set_nonblocking(true)?;
        let socket = mio::net::TcpStream::from_std(socket);
        Ok(Self {
            way,
            socket,
            input: Vec::new(),
            output: Vec::new(),
            next_id: 10,
            closing: false,
            home: None,
            outstanding: 0,
            errors: 0,
        })
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.home = Some((registry.try_clone()?, token));
        registry.register(&mut self.socket, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Connects again, after a server that closes after every answer, or closed meanwhile.
    fn reopen(&mut self) -> Result<(), LaneError> {
        let Way::Http { address, .. } = &self.way else { return Ok(()) };
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        self.socket = mio::net::TcpStream::from_std(socket);
        self.input.clear();
        self.closing = false;
        if let Some((registry, token)) = &self.home {
            registry.register(&mut self.socket, *token, Interest::READABLE | Interest::WRITABLE)?;
        }
        Ok(())
    }

    /// Sends one publication; what the socket does not take goes out with the next event.
    pub(super) fn publish(&mut self, channel: &str, data: &[u8]) -> Result<(), LaneError> {
        match &self.way {
            Way::Http { host, path, key, .. } => {
                write_request(&mut self.output, host, path, key.as_deref(), channel, data);
            }
            Way::Client { dialect, .. } => {
                self.next_id = self.next_id.wrapping_add(1).max(10);
                let before = self.output.len();
                dialect.write_command(
                    self.next_id,
                    Command::Publish { channel, data },
                    [7; 4],
                    &mut self.output,
                );
                if self.output.len() == before {
                    return Err(LaneError::NoFrame);
                }
            }
        }
        self.outstanding += u32::from(self.is_answered());
        self.flush()
    }

    /// Whether publications are answered. A plain server answers as it likes.
    fn is_answered(&self) -> bool {
        !matches!(&self.way, Way::Client { dialect: Dialect::Plain(_), .. })
    }

    pub(super) fn flush(&mut self) -> Result<(), LaneError> {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads what there is; how many publications it answers.
    pub(super) fn read(&mut self) -> Result<u32, LaneError> {
        let ended = self.receive();
        // What came before the end says why it ended.
        let mut answered = match &self.way {
            Way::Http { .. } => self.take_responses()?,
            Way::Client { .. } => self.take_frames()?,
        };
        self.outstanding = self.outstanding.saturating_sub(answered);
        match &self.way {
            Way::Client { .. } => ended?,
            Way::Http { .. } if ended.is_err() || self.closing => {
                // A request without an answer has failed, and may or may not have been carried out.
                let unanswered = std::mem::take(&mut self.outstanding);
                self.errors += u64::from(unanswered);
                answered += unanswered;
                self.reopen()?;
            }
            Way::Http { .. } => {}
        }
        Ok(answered)
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.input.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn take_responses(&mut self) -> Result<u32, LaneError> {
        let mut answered = 0;
        while let Some(length) = self.take_response()? {
            self.input.drain(..length);
            answered += 1;
        }
        Ok(answered)
    }

    /// The length of the first whole response.
    fn take_response(&mut self) -> Result<Option<usize>, LaneError> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let Ok(parsed) = response.parse(&self.input) else { return Err(LaneError::NotHttp) };
        let httparse::Status::Complete(head) = parsed else { return Ok(None) };
        let value = |name: &str| {
            let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok().map(str::trim)
        };
        let length = value("content-length").and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
        self.closing = value("connection").is_some_and(|text| text.eq_ignore_ascii_case("close"));
        let Some(body) = self.input.get(head..head + length) else { return Ok(None) };
        match response.code {
            Some(200) => self.errors += u64::from(memchr::memmem::find(body, b"\"error\"").is_some()),
            Some(status) => {
                return Err(LaneError::Status(status, String::from_utf8_lossy(body).trim().to_owned()));
            }
            None => return Err(LaneError::NotHttp),
        }
        Ok(Some(head + length))
    }

    fn take_frames(&mut self) -> Result<u32, LaneError> {
        let Way::Client { dialect, .. } = &self.way else { return Ok(0) };
        let (mut used, mut answered, mut pings, mut errors) = (0, 0, 0, 0);
        while let Some((frame, length)) =
            ws::next_frame(&self.input[used..]).map_err(|_| LaneError::Handshake("broken frame"))?
        {
            used += length;
            if frame.opcode == ws::CLOSE {
                return Err(LaneError::Closed(ws::close_code(frame.payload)));
            }
            dialect.read(frame.opcode, frame.payload, false, &mut |incoming| match incoming {
                Incoming::Ping => pings += 1,
                Incoming::Reply(reply) => {
                    answered += 1;
                    errors += u64::from(matches!(reply.body, ReplyBody::Error(_)));
                }
                _ => {}
            });
        }
        for _ in 0..pings {
            dialect.write_pong([7; 4], &mut self.output);
        }
        self.errors += errors;
        self.input.drain(..used);
        self.flush()?;
        Ok(answered)
    }
}

fn write_request(out: &mut Vec<u8>, host: &str, path: &str, key: Option<&str>, channel: &str, data: &[u8]) {
    let channel = serde_json::Value::from(channel).to_string();
    let length = data.len() + channel.len() + "{\"channel\":,\"data\":}".len();
    let key = key.map(|key| format!("X-API-Key: {key}\r\n")).unwrap_or_default();
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\n{key}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n\
         {{\"channel\":{channel},\"data\":"
    );
    out.extend_from_slice(data);
    out.push(b'}');
}

/// Upgrades and opens a publisher's WebSocket.
fn handshake(
    socket: &mut TcpStream,
    upgrade: &Upgrade,
    dialect: &Dialect,
    token: &str,
    user: &str,
) -> Result<(), LaneError> {
    socket.write_all(&upgrade.request)?;
    let mut input = Vec::new();
    let head = loop {
        receive(socket, &mut input)?;
        match upgrade.check(&input) {
            Upgraded::Partial => {}
            Upgraded::Done(head) => break head,
            Upgraded::Status(status) => return Err(LaneError::Status(status, String::new())),
            Upgraded::Bad => return Err(LaneError::Handshake("upgrade answered wrongly")),
        }
    };
    input.drain(..head);
    let opening = Opening { number: 0, user, token, channels: &[], positions: &[], personal: None };
    let mut frames = Vec::new();
    dialect.write_opening(&opening, [7; 4], &mut frames);
    socket.write_all(&frames)?;
    // A plain server's sign of readiness may be the answer to a subscription, and a publisher has none.
    let mut awaited = if matches!(dialect, Dialect::Plain(_)) { 0 } else { dialect.replies_expected(0) };
    let started = Clock::start();
    while awaited > 0 {
        if started.elapsed() > HANDSHAKE {
            return Err(LaneError::Handshake("no answer to connect"));
        }
        while let Ok(Some((frame, length))) = ws::next_frame(&input) {
            if frame.opcode == ws::CLOSE {
                return Err(LaneError::Closed(ws::close_code(frame.payload)));
            }
            dialect.read(frame.opcode, frame.payload, false, &mut |incoming| {
                awaited = awaited.saturating_sub(u8::from(matches!(incoming, Incoming::Reply(_))));
            });
            input.drain(..length);
        }
        if awaited > 0 {
            receive(socket, &mut input)?;
        }
    }
    Ok(())
}

fn receive(socket: &mut TcpStream, input: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    match socket.read(&mut buffer)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        read => {
            input.extend_from_slice(&buffer[..read]);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers one request per connection, with or without saying that it closes.
    fn closing_server(answers: Vec<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut socket, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"}}") {
                    receive(&mut socket, &mut request).unwrap();
                }
                socket.write_all(answer.as_bytes()).unwrap();
            }
            // The last answer is followed by one more connection, for which nothing is left to say.
            let _ = listener.accept();
        });
        address
    }

    #[test]
    fn a_server_that_closes_after_every_answer_is_connected_to_again() {
        const SAYS: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
        const SILENT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        let address = closing_server(vec![SAYS, SAYS, SILENT, "", SAYS]);
        let way = Way::Http { address, host: "h".into(), path: "/".into(), key: None };
        let mut lane = Lane::open(way).unwrap();
        let mut poll = mio::Poll::new().unwrap();
        lane.register(poll.registry(), Token(0)).unwrap();
        let mut events = mio::Events::with_capacity(8);
        for _ in 0..5 {
            lane.publish("c", b"{}").unwrap();
            while lane.outstanding > 0 {
                poll.poll(&mut events, None).unwrap();
                lane.flush().unwrap();
                lane.read().unwrap();
            }
            // Lets the end of a connection that was not announced arrive.
            crate::clock::rest(Duration::from_millis(20));
            let _ = lane.read();
        }
        assert_eq!(lane.errors, 1, "the request that was closed on");
    }
}
