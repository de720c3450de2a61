//! One thread of the generator: its own descriptor table, its own poller, its share of the clients.
//!
//! Orders come through a channel and a waker; figures go out through counters and, once a second, a message. Nothing
//! else is shared. A worker never blocks but in its poller.

mod books;
mod connect;
mod incoming;
mod ramp;
mod read;
mod returns;
mod slow;
mod talk;
mod write;

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use crate::behaviour::{Chat, Churn, Departure, Slowness};
use crate::client::{Client, SpillPool};
use crate::clock::Clock;
use crate::counters::Counters;
use crate::dialect::{Dialect, Position};
use crate::flow::Flow;
use crate::kernel;
use crate::plan::Plan;
use crate::proof::{self, Findings};
use crate::token::Minter;
use crate::wheel::Wheel;
use crate::ws::Upgrade;
use books::Books;
pub use ramp::Gate;
use ramp::Ramp;
use returns::Returns;
use talk::Talk;

/// The token of the waker; clients have their index.
pub const WAKER: Token = Token(usize::MAX);
/// Events taken from the kernel in one turn.
const EVENTS_PER_TURN: usize = 512;
/// The read buffer that all clients of a worker share.
const READ_BUFFER: usize = 128 * 1024;

/// What a worker is told.
#[derive(Debug, Clone)]
pub enum Order {
    /// Bring the worker's clients up to this many.
    Ramp {
        /// Clients of this worker.
        clients: u32,
        /// Connections a second of this worker, while it is at it; 0 for as fast as it goes.
        rate: f64,
        /// When it may be at it.
        gate: Arc<Gate>,
    },
    /// Forget how many pings came.
    ResetPings,
    /// Say how the clients fare.
    Census,
    /// Keep books over this flow from now on; clients that are ready now count.
    Begin(Arc<Flow>),
    /// Close the books.
    Finish,
    /// Some clients leave and come back.
    Depart(Departure),
    /// Clients talk, or fall silent.
    Chat(Option<Chat>),
    /// Clients join and leave, or stay.
    Churn(Option<Churn>),
    /// Ask for the presence of channels and compare it with what it must be.
    AskPresence,
    /// Let those join again that churn has left outside.
    Rejoin,
    /// Some clients are slow, or all prompt again.
    Slow(Slowness),
    /// Close all connections and end.
    Stop,
}

/// What a worker says.
#[derive(Debug)]
pub enum News {
    /// The answer to [`Order::Census`].
    Census(Census),
    /// The worker could not begin.
    Broken(io::Error),
    /// Thread id, once the worker runs.
    Running(i32),
    /// The books of [`Order::Begin`] are open.
    Begun,
    /// Latencies of the last second or so, in microseconds.
    Latency(Histogram<u64>),
    /// The answer to [`Order::Finish`].
    Finished(Box<Finished>),
}

/// What a worker's books came to.
#[derive(Debug)]
pub struct Finished {
    /// What was lost, doubled and reordered.
    pub findings: Findings,
    /// How long messages lay in the generator before they were looked at, at most, in microseconds.
    pub lag: Histogram<u64>,
    /// How long clients took to come back, in microseconds.
    pub returns: Histogram<u64>,
    /// How long commands took to be answered, in microseconds.
    pub commands: Histogram<u64>,
    /// Presence counts that were right, and that were not.
    pub presence: (u64, u64),
    /// Commands that were not answered.
    pub unanswered: u64,
}

impl Default for Finished {
    fn default() -> Self {
        let [lag, returns, commands] = std::array::from_fn(|_| proof::histogram());
        Self { findings: Findings::default(), lag, returns, commands, presence: (0, 0), unanswered: 0 }
    }
}

impl Finished {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        self.findings.add(&other.findings);
        self.presence.0 += other.presence.0;
        self.presence.1 += other.presence.1;
        self.unanswered += other.unanswered;
        let histograms = [&mut self.lag, &mut self.returns, &mut self.commands];
        for (all, one) in histograms.into_iter().zip([&other.lag, &other.returns, &other.commands]) {
            // They grow as needed, so that adding cannot fail.
            let _ = all.add(one);
        }
    }
}

/// How the clients of a worker fare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Clients that are ready.
    pub ready: u64,
    /// The fewest pings that a ready client has read.
    pub fewest_pings: u16,
    /// The most.
    pub most_pings: u16,
    /// Ready clients that have read none.
    pub without_ping: u64,
    /// Clients with unfinished bytes.
    pub spilled: u64,
    /// Bytes of memory per client, all tables together.
    pub bytes_per_client: u64,
}

/// What a worker is made of, before it has a thread.
pub struct Seed {
    /// Which worker.
    pub id: u32,
    /// The plan of the run.
    pub plan: Arc<Plan>,
    /// The clock of the process.
    pub clock: Clock,
    /// The poller, whose waker others hold.
    pub poll: Poll,
    /// Where figures go.
    pub counters: Arc<Counters>,
    /// Orders come in here.
    pub orders: Receiver<Order>,
    /// News go out here.
    pub news: Sender<News>,
}

/// What comes due for a client.
#[derive(Debug, Clone, Copy)]
enum Due {
    /// Come back.
    Return(u32),
    /// Say something, which was due at this millisecond.
    Say(u32, u32),
    /// One byte more.
    Drip(u32),
}

pub(crate) struct Worker {
    id: u32,
    plan: Arc<Plan>,
    /// A copy of the plan's dialect that can be held while the worker is borrowed.
    dialect: Rc<Dialect>,
    upgrade: Rc<Upgrade>,
    minter: Option<Minter>,
    clock: Clock,
    /// The time of this turn, in milliseconds.
    now_ms: u32,
    books: Books,
    poll: Poll,
    clients: Vec<Client>,
    /// One entry per client and channel, if positions are tracked.
    positions: Vec<Position>,
    spills: SpillPool,
    buffer: Box<[u8]>,
    /// Frames on their way to a socket.
    scratch: Vec<u8>,
    /// The answer to a ping, framed.
    pong: Vec<u8>,
    random: fastrand::Rng,
    ramp: Ramp,
    /// Handshakes in the order in which they began.
    handshakes: VecDeque<(u32, u32)>,
    wheel: Wheel<Due>,
    returns: Returns,
    talk: Talk,
    counters: Arc<Counters>,
    orders: Receiver<Order>,
    news: Sender<News>,
    stopping: bool,
}

/// The body of a worker's thread.
pub fn run(seed: Seed) {
    let news = seed.news.clone();
    if let Err(error) = kernel::unshare_descriptors() {
        let _ = news.send(News::Broken(error));
        return;
    }
    let _ = news.send(News::Running(kernel::thread_id()));
    if let Err(error) = Worker::new(seed).turn_until_stopped() {
        let _ = news.send(News::Broken(error));
    }
}

impl Worker {
    fn new(seed: Seed) -> Self {
        let Seed { id, plan, clock, poll, counters, orders, news } = seed;
        let mut pong = Vec::new();
        plan.dialect.write_pong([0x5a, 0xc3, 0x96, 0x0f], &mut pong);
        let upgrade = Upgrade::new(&plan.host, &plan.target, plan.dialect.subprotocol(), &plan.headers);
        Self {
            id,
            dialect: Rc::new(plan.dialect.clone()),
            upgrade: Rc::new(upgrade),
            minter: plan.token.as_ref().map(|token| Minter::new(&token.secret, token.lifetime_seconds)),
            clock,
            now_ms: 0,
            books: Books::default(),
            poll,
            clients: Vec::new(),
            positions: Vec::new(),
            spills: SpillPool::default(),
            buffer: vec![0; READ_BUFFER].into_boxed_slice(),
            scratch: Vec::new(),
            pong,
            random: fastrand::Rng::with_seed(u64::from(id)),
            ramp: Ramp::new(plan.outstanding),
            handshakes: VecDeque::new(),
            wheel: Wheel::new(0),
            returns: Returns::default(),
            talk: Talk::default(),
            counters,
            orders,
            news,
            stopping: false,
            plan,
        }
    }

    fn turn_until_stopped(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while !self.stopping {
            let polled_ns = self.clock.nanos();
            match self.poll.poll(&mut events, Some(self.patience())) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            self.begin_turn(polled_ns);
            for event in &events {
                if event.token() != WAKER {
                    let local = u32::try_from(event.token().0).unwrap_or(u32::MAX);
                    self.on_event(local, event);
                }
            }
            self.end_turn();
            self.take_orders();
            self.expire_handshakes();
            self.turn_wheel();
            self.churn_on();
            self.open_returning();
            self.ramp_up();
        }
        self.close_all();
        Ok(())
    }

    fn begin_turn(&mut self, polled_ns: u64) {
        let now_ns = self.clock.nanos();
        self.now_ms = u32::try_from(now_ns / 1_000_000).unwrap_or(u32::MAX);
        self.books.begin_turn(polled_ns, now_ns);
    }

    /// Tells the others what this turn brought.
    fn end_turn(&mut self) {
        if let Some(latency) = self.books.end_turn() {
            let _ = self.news.send(News::Latency(latency));
        }
    }

    fn patience(&self) -> Duration {
        const WATCHFUL_MS: u32 = 4;
        let wheel = self.wheel.patience_ms().unwrap_or(100).min(100);
        let churn = self.talk.is_churning().then_some(WATCHFUL_MS);
        let ramp = self.ramp.patience_ms(self.id);
        Duration::from_millis(u64::from([churn, ramp].into_iter().flatten().fold(wheel, u32::min)))
    }

    fn on_event(&mut self, local: u32, event: &mio::event::Event) {
        if event.is_writable() {
            self.writable(local);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.readable(local, event.is_read_closed() || event.is_error());
        }
    }

    fn take_orders(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Ramp { clients, rate, gate } => self.ramp.begin(clients, rate, gate),
                Order::ResetPings => self.clients.iter_mut().for_each(|client| client.pings = 0),
                Order::Census => {
                    let _ = self.news.send(News::Census(self.census()));
                }
                Order::Begin(flow) => self.begin_books(flow),
                Order::Finish => self.finish_books(),
                Order::Depart(departure) => self.depart(&departure),
                Order::Chat(chat) => self.set_chat(chat),
                Order::Churn(churn) => self.set_churn(churn),
                Order::AskPresence => self.ask_presence(),
                Order::Rejoin => self.all_rejoin(),
                Order::Slow(slowness) => self.set_slowness(&slowness),
                Order::Stop => self.stopping = true,
            }
        }
    }

    fn turn_wheel(&mut self) {
        let mut due = Vec::new();
        self.wheel.turn(self.now_ms, &mut due);
        for due in due {
            match due {
                Due::Return(local) => self.return_due(local),
                Due::Say(local, due_ms) => self.say(local, due_ms),
                Due::Drip(local) => self.drip(local),
            }
        }
    }

    fn census(&self) -> Census {
        let ready = || self.clients.iter().filter(|client| client.stage == crate::client::Stage::Ready);
        let tables = self.clients.capacity() * size_of::<Client>()
            + self.positions.capacity() * size_of::<Position>()
            + READ_BUFFER;
        Census {
            ready: ready().count() as u64,
            fewest_pings: ready().map(|client| client.pings).min().unwrap_or(0),
            most_pings: ready().map(|client| client.pings).max().unwrap_or(0),
            without_ping: ready().filter(|client| client.pings == 0).count() as u64,
            spilled: self.spills.len() as u64,
            bytes_per_client: (tables / self.clients.len().max(1)) as u64,
        }
    }

    fn number(&self, local: u32) -> u32 {
        self.plan.number(self.id, local)
    }
}
