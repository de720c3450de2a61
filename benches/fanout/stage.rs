//! The sending side: one shard with its sockets, driven turn by turn as `net::reactor` drives it.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mio::{Events, Poll, Token};

use millpond::base::hash::NameHash;
use millpond::base::ids::{Descriptor, ShardId};
use millpond::config::{Layers, load};
use millpond::hub::admission::Admission;
use millpond::hub::api::ApiPublish;
use millpond::hub::auth::Verifier;
use millpond::hub::mail::{HomeAsk, HomeOp, Mail, Origin, PublishAsk};
use millpond::hub::shard::{Common, Shard};
use millpond::hub::sockets::{Sockets, Written};
use millpond::net::clock::Clock;
use millpond::net::listener::listen;
use millpond::net::socket::{SocketTable, descriptor_of};
use millpond::net::tables::descriptors_per_table;
use millpond::protocol::{Encoding, PublicationView, encode_push_publication};
use millpond::wire::frame::{Opcode, write_frame};

use crate::subscribers::Subscribers;

const CHANNEL: &str = "bench";
const SECRET: [u8; 16] = [7; 16];
const UPGRADE: &[u8] = b"GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const COMMANDS: &[u8] = b"{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"bench\"}}";

/// Numbered publications and the frames that subscribers must get for them.
pub(crate) struct Frames {
    width: usize,
    next: u64,
}

impl Frames {
    /// Publications whose message is `message_bytes` long.
    pub(crate) fn new(message_bytes: usize) -> Self {
        let empty = frame_of(b"\"\"").len() - 2;
        Self { width: message_bytes - empty, next: 0 }
    }

    /// The next `count` publications: data and frame of each.
    pub(crate) fn batch(&mut self, count: u64) -> Vec<(Bytes, Bytes)> {
        let numbers = self.next..self.next + count;
        self.next += count;
        let width = self.width;
        numbers
            .map(|number| {
                let data = format!("\"{number:0>width$}\"");
                (Bytes::from(data.clone()), frame_of(data.as_bytes()))
            })
            .collect()
    }
}

fn frame_of(data: &[u8]) -> Bytes {
    let mut message = Vec::new();
    let view = PublicationView { data: Some(data), ..PublicationView::default() };
    encode_push_publication(&mut message, Encoding::Json, CHANNEL, &view);
    let mut frame = Vec::new();
    write_frame(&mut frame, Opcode::Text, &message);
    frame.into()
}

/// The shard, its sockets and its poller.
pub(crate) struct Stage {
    shard: Shard,
    sockets: Counted,
    descriptors: Vec<Descriptor>,
    poll: Poll,
    events: Events,
    clock: Clock,
    hash: u64,
}

/// Real sockets, and the number of bytes they took.
struct Counted {
    table: SocketTable,
    bytes: u64,
}

impl Sockets for Counted {
    fn write(&mut self, socket: Descriptor, bytes: &[u8]) -> Written {
        let written = self.table.write(socket, bytes);
        if let Written::Bytes(count) = written {
            self.bytes += count as u64;
        }
        written
    }

    fn close(&mut self, socket: Descriptor, reset: bool) {
        self.table.close(socket, reset);
    }

    fn shutdown_write(&mut self, socket: Descriptor) {
        self.table.shutdown_write(socket);
    }

    fn hand_over(&mut self, socket: Descriptor, already_read: &[u8]) {
        self.table.hand_over(socket, already_read);
    }
}

/// Sockets that one descriptor table can hold beside what else is open.
pub(crate) fn sockets_at_most() -> usize {
    usize::try_from(descriptors_per_table().saturating_sub(64)).unwrap_or(usize::MAX)
}

/// Connects and subscribes `count` clients.
pub(crate) fn open(count: usize) -> (Stage, Subscribers) {
    // The server's own listener: a backlog that is full would cost a second for every SYN that is sent again.
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = listen(any, None).expect("a free port");
    listener.set_nonblocking(false).expect("a file flag");
    let address = listener.local_addr().expect("a bound listener has an address");
    let mut subscribers = Subscribers::connect(address, count);
    let mut stage = Stage::new();
    for _ in 0..count {
        let (socket, _) = listener.accept().expect("a client connects");
        stage.subscribe(socket);
    }
    stage.run();
    subscribers.begin(stage.bytes_written());
    (stage, subscribers)
}

impl Stage {
    fn new() -> Self {
        let poll = Poll::new().expect("an epoll instance");
        let registry = poll.registry().try_clone().expect("a descriptor");
        Self {
            shard: Shard::new(ShardId(0), Arc::new(common()), 1),
            sockets: Counted { table: SocketTable::new(registry, None), bytes: 0 },
            descriptors: Vec::new(),
            poll,
            events: Events::with_capacity(1024),
            clock: Clock::start(),
            hash: NameHash::new(SECRET).of(CHANNEL.as_bytes()),
        }
    }

    fn subscribe(&mut self, socket: TcpStream) {
        socket.set_nonblocking(true).expect("a socket option");
        socket.set_nodelay(true).expect("a socket option");
        let descriptor = descriptor_of(&socket);
        self.shard.begin(self.clock.now());
        let (slot, generation) = self.shard.accept(descriptor, 0);
        let token = Token(generation as usize * (1 << 32) + slot as usize);
        self.sockets.table.add(socket, token).expect("room in the poller");
        self.descriptors.push(descriptor);
        self.shard.input(slot, &mut UPGRADE.to_vec());
        // A mask of zeros is a mask: RFC 6455 section 5.3 asks that there is one.
        let mut frame = vec![0x81, 0x80 | COMMANDS.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(COMMANDS);
        self.shard.input(slot, &mut frame);
        self.shard.finish(&mut self.sockets);
    }

    /// Subscribers.
    pub(crate) fn count(&self) -> usize {
        self.descriptors.len()
    }

    /// Bytes that the kernel took from the shard and from [`Self::write_to_all`].
    pub(crate) fn bytes_written(&self) -> u64 {
        self.sockets.bytes
    }

    /// The floor: one write for every socket, nothing else.
    pub(crate) fn write_to_all(&mut self, frame: &[u8]) {
        for socket in &self.descriptors {
            let written = self.sockets.write(*socket, frame);
            assert_eq!(written, Written::Bytes(frame.len()), "the reader keeps up with the raw loop");
        }
    }

    /// Publishes as another shard or the server API would.
    pub(crate) fn publish(&mut self, data: Bytes) {
        self.shard.begin(self.clock.now());
        let publish = ApiPublish { channel: CHANNEL.to_owned(), data, ..ApiPublish::default() };
        self.shard.receive(Mail::Home(Box::new(HomeAsk {
            channel: CHANNEL.into(),
            hash: self.hash,
            namespace: 0,
            origin: Origin::Nobody,
            op: HomeOp::Publish(Box::new(PublishAsk { publish, info: None })),
        })));
    }

    /// One turn of the loop, the poll included. True while there is more to do.
    pub(crate) fn turn(&mut self) -> bool {
        self.poll.poll(&mut self.events, Some(Duration::ZERO)).expect("the poller works");
        self.shard.begin(self.clock.now());
        for event in &self.events {
            let (slot, generation) = (event.token().0 as u32, (event.token().0 >> 32) as u32);
            if event.is_writable() && self.shard.is_current(slot, generation) {
                self.shard.writable(slot);
            }
        }
        // The reactor would read these; here nobody sends anything.
        (0..self.shard.resumable()).for_each(|_| _ = self.shard.resume_one());
        self.shard.finish(&mut self.sockets).busy
    }

    /// Turns until nothing is left to do.
    pub(crate) fn run(&mut self) {
        while self.turn() {}
    }
}

fn common() -> Common {
    let variable = |name: &str, value: &str| (format!("MILLPOND_{name}"), value.to_owned());
    let environment = vec![variable("CLIENT_INSECURE", "true"), variable("CLIENT_PING_INTERVAL", "0s")];
    let config = load(&Layers { environment, ..Layers::default() }).expect("a valid configuration");
    let verifier = || Verifier::new(&config.settings.client.token).expect("no key is a valid set of keys");
    Common {
        shards: 1,
        secret: SECRET,
        admission: Admission::default(),
        connection_tokens: verifier(),
        subscription_tokens: verifier(),
        settings: config.settings,
    }
}
