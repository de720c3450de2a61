//! The publisher: a thread that sends messages when they are due, over one or several lanes.
//!
//! In the open model a message that could not be sent in time keeps its intended time, so that a slow server cannot make
//! its own measurement look better (no coordinated omission).

mod lane;
mod schedule;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::{Events, Poll, Token, Waker};

use crate::clock::Clock;
use crate::flow::Flow;
use crate::kernel::Timer;
use crate::marker::Marker;
use crate::plan::Plan;
use crate::proof;
use crate::token::Minter;
use crate::ws::Upgrade;
pub use lane::LaneError;
use lane::{Lane, Way};
pub use schedule::Pace;
use schedule::{Schedule, Step};

const TIMER: Token = Token(usize::MAX - 1);
/// In the closed model, deliveries that take longer than this are given up on.
const STALL: Duration = Duration::from_secs(2);
/// How long answers to the last messages are waited for. Whoever hangs up before may take them with him.
const ANSWERS: Duration = Duration::from_secs(30);

/// The token under which workers wake the publisher.
const DOOR: Token = Token(usize::MAX);

/// The publisher's poller and the waker to it. They are made before any worker leaves the common descriptor table, and
/// serve one publisher after another.
#[derive(Clone)]
pub struct Door {
    poll: Arc<Mutex<Poll>>,
    /// Wakes the present publisher.
    pub waker: Arc<Waker>,
}

impl Door {
    /// Makes a door.
    ///
    /// # Errors
    /// What the kernel answers, such as a full descriptor table.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), DOOR)?);
        Ok(Self { poll: Arc::new(Mutex::new(poll)), waker })
    }
}

/// How to publish.
#[derive(Debug, Clone)]
pub struct Publishing {
    /// Over what.
    pub by: By,
    /// How messages are spaced.
    pub pace: Pace,
    /// For how long.
    pub duration: Duration,
    /// Bytes of data of a message.
    pub size: usize,
    /// Connections to publish over.
    pub lanes: u32,
    /// Channels to publish into, by number, in turn.
    pub channels: std::ops::Range<u32>,
}

/// Over what to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// The server's HTTP API.
    Http {
        /// Where it listens.
        address: SocketAddr,
        /// The `Host` header.
        host: String,
        /// The path of `publish`.
        path: String,
        /// The API key.
        key: Option<String>,
    },
    /// A client connection.
    Client,
}

/// What a publisher has to say in the end.
#[derive(Debug)]
pub struct Published {
    /// How late messages were sent although a lane was free, in microseconds.
    pub lateness: Histogram<u64>,
    /// From sending to the answer, in microseconds.
    pub answers: Histogram<u64>,
    /// Answers that were errors, or did not come.
    pub errors: u64,
    /// How often deliveries were given up on.
    pub stalls: u64,
    /// Why it ended before its time, after it had published for a while: the server's end is a result, not a mistake.
    pub failure: Option<LaneError>,
}

/// A running publisher.
pub struct Publisher {
    thread: JoinHandle<Result<Published, LaneError>>,
    over: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl Publisher {
    /// Opens the lanes and starts to publish.
    ///
    /// # Errors
    /// [`LaneError`] where a lane does not open.
    pub fn start(
        plan: &Arc<Plan>,
        clock: Clock,
        door: &Door,
        flow: Arc<Flow>,
        how: Publishing,
    ) -> Result<Self, LaneError> {
        let shared = Arc::clone(&door.poll);
        let poll = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lanes = (0..how.lanes)
            .map(|index| Lane::open(way(plan, &how.by, index)))
            .collect::<Result<Vec<_>, _>>()?;
        for (index, lane) in lanes.iter_mut().enumerate() {
            lane.register(poll.registry(), Token(index))?;
        }
        let timer = Timer::new(poll.registry(), TIMER)?;
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let mut state = State::new(Arc::clone(plan), clock, flow, how, lanes, timer);
        state.stop = Arc::clone(&stop);
        drop(poll);
        let told = Arc::clone(&over);
        let thread = std::thread::Builder::new().name("publisher".to_owned()).spawn(move || {
            let outcome = state.run(&mut shared.lock().unwrap_or_else(PoisonError::into_inner));
            told.store(true, Ordering::Release);
            outcome
        })?;
        Ok(Self { thread, over, stop, waker: Arc::clone(&door.waker) })
    }

    /// Asks it to send nothing more.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.waker.wake();
    }

    /// Whether it has sent its last message.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// [`LaneError`] where a lane broke.
    pub fn join(self) -> Result<Published, LaneError> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the publisher panicked").into()))
    }
}

/// How lane number `index` speaks. A publishing client has a user of its own, so that it is nobody's second session.
fn way(plan: &Plan, by: &By, index: u32) -> Way {
    match by {
        By::Http { address, host, path, key } => {
            Way::Http { address: *address, host: host.clone(), path: path.clone(), key: key.clone() }
        }
        By::Client => {
            let user = format!("publisher-{index}");
            let token = plan
                .token
                .as_ref()
                .and_then(|token| Minter::new(&token.secret, token.lifetime_seconds).mint(&user, index).ok());
            let destinations = plan.routes.destinations();
            Way::Client {
                address: destinations[index as usize % destinations.len()],
                upgrade: Upgrade::new(&plan.host, &plan.target, plan.dialect.subprotocol(), &plan.headers),
                dialect: plan.dialect.clone(),
                token: token.unwrap_or_default(),
                user,
            }
        }
    }
}

struct State {
    plan: Arc<Plan>,
    clock: Clock,
    flow: Arc<Flow>,
    how: Publishing,
    lanes: Vec<Lane>,
    /// Lanes that may take a message, longest idle first.
    free: VecDeque<usize>,
    /// When each lane's unanswered messages were sent.
    sent: Vec<VecDeque<u64>>,
    schedule: Schedule,
    timer: Timer,
    /// Since when a message has been due without a free lane; such waiting is the server's doing.
    blocked_until_ns: u64,
    next_channel: u32,
    result: Published,
    stalled_since: (u64, u64),
    stop: Arc<AtomicBool>,
}

impl State {
    fn new(
        plan: Arc<Plan>,
        clock: Clock,
        flow: Arc<Flow>,
        how: Publishing,
        lanes: Vec<Lane>,
        timer: Timer,
    ) -> Self {
        let start = clock.nanos();
        let end = start.saturating_add(u64::try_from(how.duration.as_nanos()).unwrap_or(u64::MAX));
        let result = Published {
            lateness: proof::histogram(),
            answers: proof::histogram(),
            errors: 0,
            stalls: 0,
            failure: None,
        };
        Self {
            plan,
            clock,
            flow,
            free: (0..lanes.len()).collect(),
            sent: lanes.iter().map(|_| VecDeque::new()).collect(),
            lanes,
            schedule: Schedule::new(how.pace, start, end),
            timer,
            blocked_until_ns: start,
            next_channel: how.channels.start,
            how,
            result,
            stalled_since: (0, start),
            stop: Arc::default(),
        }
    }

    fn run(mut self, poll: &mut Poll) -> Result<Published, LaneError> {
        if let Err(error) = self.drive(poll) {
            // Where nothing was ever answered or delivered, there was no way to publish from the start.
            if self.result.answers.is_empty() && self.flow.delivered() == 0 {
                return Err(error);
            }
            self.result.failure = Some(error);
        }
        self.result.errors = self.lanes.iter().map(|lane| lane.errors + u64::from(lane.outstanding)).sum();
        Ok(self.result)
    }

    /// Publishes to the end.
    fn drive(&mut self, poll: &mut Poll) -> Result<(), LaneError> {
        let mut events = Events::with_capacity(256);
        loop {
            let wait = self.send_due()?;
            let Some(wait) = wait else { return Ok(()) };
            match poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    DOOR => {}
                    TIMER => self.timer.clear(),
                    Token(lane) => self.on_event(lane, event)?,
                }
            }
        }
    }

    fn on_event(&mut self, lane: usize, event: &mio::event::Event) -> Result<(), LaneError> {
        if event.is_writable() {
            self.lanes[lane].flush()?;
        }
        if event.is_readable() || event.is_read_closed() {
            let now = self.clock.nanos();
            for _ in 0..self.lanes[lane].read()? {
                if let Some(sent) = self.sent[lane].pop_front() {
                    proof::record(&mut self.result.answers, now.saturating_sub(sent) / 1000);
                }
                if !self.free.contains(&lane) {
                    self.blocked_until_ns = if self.free.is_empty() { now } else { self.blocked_until_ns };
                    self.free.push_back(lane);
                }
            }
        }
        Ok(())
    }

    /// Sends what is due; how long to wait for the next event, `None` when all is done.
    fn send_due(&mut self) -> Result<Option<Duration>, LaneError> {
        const LONG: Duration = Duration::from_millis(100);
        loop {
            let (now, delivered) = (self.clock.nanos(), self.flow.delivered());
            if self.stop.swap(false, Ordering::AcqRel) {
                self.schedule.end(now);
            }
            let step = self.schedule.step(now, delivered);
            match step {
                Step::Send(_) if self.free.is_empty() => return Ok(Some(LONG)),
                Step::Send(intended) => self.send(intended)?,
                Step::Until(at) => {
                    self.timer.set(Duration::from_nanos(at.saturating_sub(now)))?;
                    return Ok(Some(LONG));
                }
                Step::Delivered(mark) => {
                    self.watch_for_stall(now, delivered);
                    if self.flow.wake_at(mark) {
                        return Ok(Some(
                            LONG.min(Duration::from_nanos(self.schedule.end_ns().saturating_sub(now))),
                        ));
                    }
                }
                Step::Over => return Ok(self.awaits_answers(now).then_some(Duration::from_millis(10))),
            }
        }
    }

    /// After the last message: whether answers are still worth waiting for.
    fn awaits_answers(&self, now: u64) -> bool {
        let patience = u64::try_from(ANSWERS.as_nanos()).unwrap_or(u64::MAX);
        self.lanes.iter().any(|lane| lane.outstanding > 0)
            && now < self.schedule.end_ns().saturating_add(patience)
    }

    fn watch_for_stall(&mut self, now: u64, delivered: u64) {
        if self.stalled_since.0 != delivered {
            self.stalled_since = (delivered, now);
        } else if u128::from(now - self.stalled_since.1) > STALL.as_nanos() {
            self.result.stalls += 1;
            self.schedule.give_up(delivered);
            self.stalled_since.1 = now;
        }
    }

    fn send(&mut self, intended_ns: u64) -> Result<(), LaneError> {
        let Some(lane) = self.free.pop_front() else { return Ok(()) };
        let channel = self.next_channel;
        self.next_channel =
            if channel + 1 < self.how.channels.end { channel + 1 } else { self.how.channels.start };
        let number = u32::try_from(lane).unwrap_or(0);
        let sequence = self.flow.next_sequence(channel, number);
        let marker = Marker { run: self.flow.run, channel, lane: number, sequence, intended_ns };
        let mut data = Vec::with_capacity(self.how.size.max(64));
        marker.write_json(self.how.size, &mut data);
        let now = self.clock.nanos();
        let possible = intended_ns.max(self.blocked_until_ns);
        proof::record(&mut self.result.lateness, now.saturating_sub(possible) / 1000);
        self.sent[lane].push_back(now);
        self.schedule.sent(self.flow.subscribers(channel));
        self.lanes[lane].publish(&self.plan.channels.name(channel), &data)?;
        // A WebSocket takes the next command before the last is answered; HTTP/1.1 does not.
        if matches!(self.how.by, By::Client) {
            self.free.push_back(lane);
        }
        Ok(())
    }
}
