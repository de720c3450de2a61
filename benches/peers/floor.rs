//! The floor of a publication to very many sockets: a server that does nothing but accept them and write to each.
//!
//! One frame is built and written to every socket by a raw loop, one `write` each, in as many threads with descriptor
//! tables of their own as the limit of open files demands: what no server on this machine can avoid. Pings can be on, by
//! the same raw writes, so that a server with pings is compared with a floor that has them too.
//!
//! Text frames: `subscribe CHANNEL` is answered with `ok`; `publish CHANNEL PAYLOAD` writes PAYLOAD to all, whatever the
//! channel; anything else is the answer to a ping. A client that sends half a frame is closed: the load generator does not.
#![allow(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench reads clocks, and has nothing to go on with"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use millpond::host::shards;
use millpond::net::listener::listen;
use millpond::net::tables::{descriptors_per_table, take_private};
use millpond::wire::frame::{Opcode, write_frame};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tungstenite::handshake::derive_accept_key;

const WAKER: Token = Token(usize::MAX);
const LISTENER: Token = Token(usize::MAX - 1);

/// Connections accepted between two polls.
const ACCEPTS_PER_TURN: usize = 64;

/// Pings go out this often, to a share of the sockets each time.
const PING_TURN: Duration = Duration::from_millis(100);

#[derive(Parser)]
#[command(about = "Writes one frame to each of very many sockets: the floor of a fan-out")]
struct Options {
    /// Where to listen
    address: SocketAddr,
    /// Connections that it shall hold
    #[arg(long, default_value_t = 1_000_000)]
    connections: u64,
    /// Cores that its threads share
    #[arg(long, default_value_t = 2)]
    cores: u64,
    /// Seconds between two pings of a connection; 0: none
    #[arg(long, default_value_t = 25)]
    ping: u64,
    /// What the loop cost, after each publication
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What all threads know.
struct Shared {
    options: Options,
    doors: Vec<(Sender<Arc<[u8]>>, Waker)>,
    /// Writes of the loop and their CPU time.
    sum: Mutex<(u64, Duration)>,
}

/// One thread's part.
struct Part {
    shared: Arc<Shared>,
    poll: Poll,
    listener: TcpListener,
    sockets: Vec<Option<Socket>>,
    buffer: Vec<u8>,
    /// The socket whose ping is next, and when.
    next_ping: (usize, Instant),
}

struct Socket {
    stream: TcpStream,
    is_upgraded: bool,
}

fn main() {
    let options = Options::parse();
    let table = descriptors_per_table();
    let threads = shards::needed(options.connections, options.cores, table).expect("enough descriptors");
    // Pollers and wakers are made before any table is private.
    let mut polls = Vec::new();
    let mut doors = Vec::new();
    for _ in 0..threads {
        let poll = Poll::new().expect("a poller");
        let waker = Waker::new(poll.registry(), WAKER).expect("a waker");
        let (door, inbox) = channel();
        doors.push((door, waker));
        polls.push((poll, inbox));
    }
    let shared = Arc::new(Shared { options, doors, sum: Mutex::default() });
    let start = |(poll, inbox)| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || Part::new(shared, poll).serve(&inbox))
    };
    let threads: Vec<_> = polls.into_iter().map(start).collect();
    for thread in threads {
        thread.join().expect("a thread that serves for ever");
    }
}

impl Part {
    fn new(shared: Arc<Shared>, poll: Poll) -> Self {
        take_private().expect("a descriptor table of its own");
        let mut listener =
            TcpListener::from_std(listen(shared.options.address, None).expect("a free address"));
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).expect("room in the poller");
        let next_ping = (0, Instant::now() + PING_TURN);
        Self { shared, poll, listener, sockets: Vec::new(), buffer: vec![0; 65_536], next_ping }
    }

    fn serve(&mut self, inbox: &Receiver<Arc<[u8]>>) {
        let mut events = Events::with_capacity(1024);
        let mut is_more = true;
        loop {
            let patience = if is_more { Duration::ZERO } else { PING_TURN };
            match self.poll.poll(&mut events, Some(patience)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.expect("the poller works"),
            }
            for event in &events {
                match event.token() {
                    WAKER => {}
                    LISTENER => is_more = true,
                    Token(index) => self.read(index),
                }
            }
            if is_more {
                is_more = self.accept();
            }
            while let Ok(frame) = inbox.try_recv() {
                self.write_to_all(&frame);
            }
            self.ping();
        }
    }

    /// Accepts a few; whether more may wait.
    fn accept(&mut self) -> bool {
        for _ in 0..ACCEPTS_PER_TURN {
            let Ok((mut stream, _)) = self.listener.accept() else { return false };
            let token = Token(self.sockets.len());
            self.poll
                .registry()
                .register(&mut stream, token, Interest::READABLE)
                .expect("room in the poller");
            self.sockets.push(Some(Socket { stream, is_upgraded: false }));
        }
        true
    }

    /// Reads until there is nothing more, as the poller tells of changes only.
    fn read(&mut self, index: usize) {
        let mut is_open = true;
        while is_open {
            let Some(socket) = self.sockets[index].as_mut() else { return };
            match socket.stream.read(&mut self.buffer) {
                Ok(count) if count > 0 => is_open = socket.take(&mut self.buffer[..count], &self.shared),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                _ => is_open = false,
            }
        }
        self.sockets[index] = None;
    }

    /// The floor itself.
    fn write_to_all(&mut self, frame: &[u8]) {
        let start = cpu_of_thread();
        let mut written = 0;
        for socket in self.sockets.iter_mut().flatten() {
            written += u64::from(socket.stream.write(frame).is_ok_and(|count| count == frame.len()));
        }
        self.shared.add(written, cpu_of_thread().saturating_sub(start));
    }

    fn ping(&mut self) {
        let (first, due) = self.next_ping;
        let now = Instant::now();
        let turns = self.shared.options.ping * 1000 / PING_TURN.as_millis() as u64;
        if turns == 0 || now < due {
            return;
        }
        let count = self.sockets.len().div_ceil(turns as usize);
        let end = (first + count).min(self.sockets.len());
        for socket in
            self.sockets[first.min(end)..end].iter_mut().flatten().filter(|socket| socket.is_upgraded)
        {
            let _ = socket.stream.write(b"\x81\x04PING");
        }
        self.next_ping = (if end == self.sockets.len() { 0 } else { end }, due + PING_TURN);
    }
}

impl Shared {
    fn publish(&self, payload: &[u8]) {
        let mut frame = Vec::new();
        write_frame(&mut frame, Opcode::Text, payload);
        let frame: Arc<[u8]> = frame.into();
        *self.sum() = Default::default();
        for (door, waker) in &self.doors {
            let _ = door.send(Arc::clone(&frame));
            waker.wake().expect("a bell of another thread");
        }
    }

    fn sum(&self) -> std::sync::MutexGuard<'_, (u64, Duration)> {
        self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread is done with a publication.
    fn add(&self, writes: u64, cpu: Duration) {
        let mut sum = self.sum();
        sum.0 += writes;
        sum.1 += cpu;
        let each = sum.1.as_nanos() as f64 / sum.0.max(1) as f64;
        if let Some(path) = &self.options.json {
            let figures = json!({ "writes": sum.0, "cpu_ns": each });
            std::fs::write(path, figures.to_string()).expect("a place for the figures");
        }
    }
}

impl Socket {
    /// Takes what was read; false ends the connection.
    fn take(&mut self, mut input: &mut [u8], shared: &Shared) -> bool {
        if !self.is_upgraded {
            return self.upgrade(input);
        }
        while !input.is_empty() {
            let Some(length) = unmask(input) else { return false };
            let (frame, rest) = input.split_at_mut(length);
            input = rest;
            // Opcode 8 is a goodbye.
            if frame[0] & 0x0f == 8 {
                return false;
            }
            let payload = &frame[header_length(frame)..];
            if payload.starts_with(b"subscribe ") && !self.answer(b"\x81\x02ok") {
                return false;
            }
            let publication = payload.strip_prefix(b"publish ");
            if let Some(at) = publication.and_then(|rest| memchr::memchr(b' ', rest)) {
                shared.publish(&payload[b"publish ".len() + at + 1..]);
            }
        }
        true
    }

    fn upgrade(&mut self, head: &[u8]) -> bool {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        if !request.parse(head).is_ok_and(|parsed| parsed.is_complete()) {
            return false;
        }
        let key = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("sec-websocket-key"));
        let Some(key) = key else { return false };
        let accept = derive_accept_key(key.value);
        self.is_upgraded = true;
        self.answer(
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            )
            .as_bytes(),
        )
    }

    fn answer(&mut self, bytes: &[u8]) -> bool {
        self.stream.write(bytes).is_ok_and(|count| count == bytes.len())
    }
}

/// Header of a client's frame (RFC 6455, 5.2), its mask included.
fn header_length(frame: &[u8]) -> usize {
    match frame[1] & 0x7f {
        126 => 8,
        127 => 14,
        _ => 6,
    }
}

/// Unmasks the first frame in place; its whole length, or nothing where it is not there as a whole.
fn unmask(input: &mut [u8]) -> Option<usize> {
    let header = input.get(1).map(|_| header_length(input))?;
    let length = match (header, input.get(..header)?) {
        (6, head) => usize::from(head[1] & 0x7f),
        (8, head) => usize::from(u16::from_be_bytes([head[2], head[3]])),
        _ => return None,
    };
    let (head, payload) = input.get_mut(..header + length)?.split_at_mut(header);
    let mask = &head[header - 4..];
    payload.iter_mut().enumerate().for_each(|(at, byte)| *byte ^= mask[at % 4]);
    Some(header + length)
}

fn cpu_of_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
