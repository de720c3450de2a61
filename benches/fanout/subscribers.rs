//! The receiving side: a thread with its own descriptor table that reads every socket, counts and sums up what comes.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use millpond::net::tables::take_private;

/// A reader that has not got everything by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// The subscribers as the sending side sees them.
pub(crate) struct Subscribers {
    count: usize,
    total: Arc<AtomicU64>,
    expected_total: u64,
    expected: Sum,
    orders: Sender<Order>,
}

/// Bytes of one stream so far: their number and their CRC-32C, which also proves their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    bytes: u64,
    crc: u32,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
    }
}

/// What the reading thread is told.
enum Order {
    /// Forget what came: from here on it counts.
    Reset(Sender<usize>),
    /// How many subscribers have got something else than this?
    Compare(Sum, Sender<usize>),
}

impl Subscribers {
    /// Connects `count` clients to `address`, where somebody must accept them.
    pub(crate) fn connect(address: SocketAddr, count: usize) -> Self {
        let total = Arc::new(AtomicU64::new(0));
        let (orders, inbox) = channel();
        let (private, is_private) = channel();
        let shared = Arc::clone(&total);
        thread::spawn(move || {
            take_private().expect("a private descriptor table");
            private.send(()).expect("the bench waits");
            Reader::connect(address, count, shared).run(&inbox);
        });
        // The bench opens nothing before this: otherwise the reader would hold a copy of it.
        is_private.recv().expect("the reader starts");
        Self { count, total, expected_total: 0, expected: Sum::default(), orders }
    }

    /// Number of subscribers.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// What came so far (`bytes` over all) was the way in; from here on every byte is checked.
    pub(crate) fn begin(&mut self, bytes: u64) {
        self.expected_total = bytes;
        self.wait();
        self.ask(Order::Reset);
    }

    /// Waits until every subscriber has these frames, and checks that it has nothing else.
    pub(crate) fn expect<'a>(&mut self, frames: impl Iterator<Item = &'a Bytes>) {
        for frame in frames {
            self.expected.add(frame);
            self.expected_total += (frame.len() * self.count) as u64;
        }
        self.wait();
        let expected = self.expected;
        let wrong = self.ask(|answer| Order::Compare(expected, answer));
        assert_eq!(wrong, 0, "subscribers did not get what was sent to them");
    }

    fn wait(&self) {
        let start = Instant::now();
        while self.total.load(Ordering::Acquire) < self.expected_total {
            assert!(start.elapsed() < PATIENCE, "{} of {} bytes", self.total.load(Ordering::Acquire), {
                self.expected_total
            });
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn ask(&self, order: impl FnOnce(Sender<usize>) -> Order) -> usize {
        let (answer, answered) = channel();
        self.orders.send(order(answer)).expect("the reader runs");
        answered.recv().expect("the reader answers")
    }
}

struct Reader {
    sockets: Vec<TcpStream>,
    sums: Vec<Sum>,
    total: Arc<AtomicU64>,
    poll: Poll,
}

impl Reader {
    fn connect(address: SocketAddr, count: usize, total: Arc<AtomicU64>) -> Self {
        let poll = Poll::new().expect("an epoll instance");
        let sockets: Vec<TcpStream> = (0..count)
            .map(|index| {
                let socket = TcpStream::connect(address).expect("a connection");
                socket.set_nonblocking(true).expect("a socket option");
                let source = socket.as_raw_fd();
                let registry = poll.registry();
                registry
                    .register(&mut SourceFd(&source), Token(index), Interest::READABLE)
                    .expect("room in the poller");
                socket
            })
            .collect();
        Self { sums: vec![Sum::default(); count], sockets, total, poll }
    }

    fn run(mut self, inbox: &Receiver<Order>) {
        let mut events = Events::with_capacity(4096);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            self.poll.poll(&mut events, Some(Duration::from_millis(2))).expect("the poller works");
            let read: u64 = events.iter().map(|event| self.read(event.token().0, &mut buffer)).sum();
            self.total.fetch_add(read, Ordering::Release);
            match inbox.try_recv() {
                Ok(order) => self.obey(order),
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
            }
        }
    }

    fn read(&mut self, index: usize, buffer: &mut [u8]) -> u64 {
        let before = self.sums[index].bytes;
        // A short read has emptied the socket: the poller announces what comes after.
        while let Ok(count) = self.sockets[index].read(buffer) {
            self.sums[index].add(&buffer[..count]);
            // Nothing at all is the end of the bench.
            if count < buffer.len() {
                break;
            }
        }
        self.sums[index].bytes - before
    }

    fn obey(&mut self, order: Order) {
        let (answer, wrong) = match order {
            Order::Reset(answer) => {
                self.sums.fill(Sum::default());
                (answer, 0)
            }
            Order::Compare(expected, answer) => {
                (answer, self.sums.iter().filter(|sum| **sum != expected).count())
            }
        };
        answer.send(wrong).expect("the bench waits");
    }
}
