//! The loop of a shard's thread: poll, accept, read, take mail, finish the turn, send mail. It holds no decisions.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::base::hash::NameHash;
use crate::base::heartbeat::Heartbeats;
use crate::base::ids::ShardId;
use crate::base::mesh::Mesh;
use crate::base::tick::{TICK_MS, Tick};
use crate::hub::mail::{Answer, Mail};
use crate::hub::metrics::Refusal;
use crate::hub::shard::{Outlook, Shard};
use crate::hub::store::StoreAsk;
use crate::net::clock::Clock;
use crate::net::handover::HandoverSender;
use crate::net::listener::{Keepalive, listen};
use crate::net::reserve::Reserve;
use crate::net::socket::SocketTable;
use crate::net::wakers::Wakers;

/// Bytes read at once, and from one connection per turn (F25).
const READ_BUFFER: usize = 64 * 1024;

/// What the system gives memory in, on most hosts; only figures depend on it.
const PAGE: usize = 4096;
/// Sockets read per turn: with a command and its answer about 10 µs each, so that a publication that comes meanwhile
/// waits 0.7 ms for a rush of commands at most. Fewer a turn showed no gain (docs/BENCHMARKS.md).
const EVENTS_PER_TURN: usize = 64;

/// Connections accepted per turn; the backlog holds the rest (R01).
const ACCEPTS_PER_TURN: usize = 32;

/// Letters handled per turn.
const MAIL_PER_TURN: usize = 2048;

/// Letters between two looks at the frames under way, of which there may be many; each adds one frame at most.
const SATURATION_EVERY: usize = 16;

/// How soon a shard tries again to send what did not fit an inbox, and how often it waits twice as long as the time
/// before while nothing leaves: up to 3.2 ms, in which a reader empties about half of the smallest inbox.
const BACKED_UP: Duration = Duration::from_micros(200);
const BACKED_UP_DOUBLINGS: u32 = 4;

/// Longest sleep: metrics are refreshed once a second.
const IDLE: Duration = Duration::from_secs(1);

/// Ticks that a letter may lie for which nobody waits. A shard that was busy looks again within as much.
const PATIENCE_TICKS: u32 = 1;

/// Token of the waker; listeners count down from the one below. No slot reaches it (slabs hold less than 2^32).
const WAKE: Token = Token(usize::MAX);

/// Takes the figures of a shard and of its shell.
pub type PublishMetrics = Box<dyn FnMut(&mut Shard, ShellFigures) + Send>;

/// Takes one thing to ask of the store, or gives it back.
pub type StoreDoor = Box<dyn Fn(StoreAsk) -> Result<(), StoreAsk> + Send>;

/// What a shard's thread needs to run.
pub struct ReactorParts {
    /// The state machine.
    pub shard: Shard,
    /// Its name.
    pub id: ShardId,
    /// Addresses to listen on.
    pub addresses: Vec<SocketAddr>,
    /// Probes of the kernel on client sockets.
    pub keepalive: Option<Keepalive>,
    /// Inboxes of all shards.
    pub mesh: Arc<Mesh<Mail>>,
    /// Wakers of all shards.
    pub wakers: Arc<Wakers>,
    /// Where the shard shows that it goes on.
    pub hearts: Arc<Heartbeats>,
    /// Number of shards.
    pub shards: u16,
    /// Client sockets this shard may hold.
    pub capacity: usize,
    /// Where answers for the control plane go.
    pub answers: Box<dyn Fn(Answer) + Send>,
    /// Takes what the store is asked, or gives it back while the store's queue is full; `None` without storage.
    pub store: Option<StoreDoor>,
    /// Where figures go, once a second.
    pub publish_metrics: PublishMetrics,
    /// Where sockets for the control plane go.
    pub handover: Option<Arc<HandoverSender>>,
    /// The process's clock.
    pub clock: Clock,
    /// Keyed hash for source addresses.
    pub hasher: NameHash,
}

/// Figures only the shell knows.
#[derive(Clone, Copy, Debug)]
pub struct ShellFigures {
    /// Letters in the inbox.
    pub inbox: usize,
    /// Bytes of the socket table and of the part of the read buffer that was used.
    pub buffer_bytes: usize,
    /// Bytes of this shard's share of the mesh.
    pub mesh_bytes: usize,
}

/// A shard's thread.
pub struct Reactor {
    parts: ReactorParts,
    poll: Poll,
    listeners: Vec<TcpListener>,
    sockets: SocketTable,
    reserve: Reserve,
    buffer: Vec<u8>,
    /// Most bytes read at once: beyond them the system has not given the buffer any memory yet.
    read_most: usize,
    accept_pending: bool,
    accept_again_at: Option<Tick>,
    metrics_at: Tick,
    /// Turns since mail left last.
    stuck_turns: u32,
}

impl Reactor {
    /// Opens poller and listeners. Call on the shard's own thread, after its descriptor table became private.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`, `bind(2)`, `listen(2)`.
    pub fn open(parts: ReactorParts) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry();
        if let Some(descriptor) = parts.wakers.descriptor(parts.id) {
            registry.register(&mut SourceFd(&descriptor), WAKE, Interest::READABLE)?;
        }
        let mut listeners = Vec::new();
        for (index, address) in parts.addresses.iter().enumerate() {
            let mut listener = TcpListener::from_std(listen(*address, parts.keepalive)?);
            registry.register(&mut listener, Token(usize::MAX - 1 - index), Interest::READABLE)?;
            listeners.push(listener);
        }
        let sockets = SocketTable::new(registry.try_clone()?, parts.handover.clone());
        Ok(Self {
            poll,
            listeners,
            sockets,
            reserve: Reserve::open(),
            buffer: vec![0; READ_BUFFER],
            read_most: 0,
            accept_pending: true,
            accept_again_at: None,
            metrics_at: Tick(0),
            stuck_turns: 0,
            parts,
        })
    }

    /// Runs until all shards are drained.
    ///
    /// # Errors
    /// Those of `epoll_wait(2)`, which leave nothing to go on with.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let mut timeout = Duration::ZERO;
        loop {
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
                result => result?,
            }
            self.parts.hearts.wake(self.parts.id);
            let (now, now_ms) = self.parts.clock.now_with_ms();
            self.parts.shard.begin_at(now, now_ms);
            self.read_held_back();
            for event in &events {
                self.event(event);
            }
            self.accept();
            let (mail, more_mail) = self.take_mail();
            self.parts.shard.settle();
            self.read_overdue();
            let mut sent = self.send_mail();
            let outlook = self.parts.shard.finish(&mut self.sockets);
            self.parts.shard.handovers_refused(self.sockets.take_handovers_refused());
            sent += self.send_mail();
            self.stuck_turns = if sent > 0 { 0 } else { self.stuck_turns.saturating_add(1) };
            self.refresh_metrics();
            let was_busy = mail > 0 || !events.is_empty();
            timeout = self.timeout(outlook, was_busy, more_mail);
            self.parts.hearts.sleep(self.parts.id);
            if self.parts.shard.is_drained() && self.parts.mesh.len(self.parts.id) == 0 {
                return Ok(());
            }
        }
    }

    fn event(&mut self, event: &mio::event::Event) {
        let token = event.token();
        if token == WAKE {
            return self.parts.wakers.reset(self.parts.id);
        }
        if token.0 >= usize::MAX - 1 - self.listeners.len() {
            self.accept_pending = true;
            return;
        }
        let (slot, generation) = (token.0 as u32, (token.0 >> 32) as u32);
        if !self.parts.shard.is_current(slot, generation) {
            return;
        }
        if event.is_writable() && !event.is_error() {
            self.parts.shard.writable(slot);
        }
        // What came before an RST is still to be read, a goodbye say; the error comes behind it, from the read.
        let is_over = event.is_read_closed() || event.is_error();
        if event.is_readable() || is_over {
            if self.parts.shard.holds_back_input() {
                self.parts.shard.unread(slot, generation);
            } else {
                self.read(slot, generation, is_over);
            }
            if is_over {
                self.parts.shard.read_closed(slot, generation);
            }
        }
    }

    /// Reads what an edge announced: until it is drained, held back, or had its share. True in the last case.
    fn read(&mut self, slot: u32, generation: u32, until_the_end: bool) -> bool {
        let mut share = READ_BUFFER;
        while let Some(socket) = self.parts.shard.readable_socket(slot, generation) {
            if share == 0 {
                self.parts.shard.unread(slot, generation);
                return true;
            }
            match self.sockets.read(socket, &mut self.buffer) {
                Ok(0) => {
                    self.parts.shard.hang_up(slot);
                    return false;
                }
                Ok(count) => {
                    self.read_most = self.read_most.max(count);
                    self.parts.shard.input(slot, &mut self.buffer[..count]);
                    share = share.saturating_sub(count);
                    if count < READ_BUFFER && !until_the_end {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => {
                    self.parts.shard.lose(slot);
                    return false;
                }
            }
        }
        false
    }

    fn read_held_back(&mut self) {
        for _ in 0..self.parts.shard.resumable().min(EVENTS_PER_TURN) {
            if self.parts.shard.holds_back_input() {
                return;
            }
            if let Some((slot, generation)) = self.parts.shard.resume_one() {
                self.read(slot, generation, true);
            }
        }
    }

    /// Reads whoever is about to be closed for silence: what it sent may wait in a queue that was not polled yet.
    fn read_overdue(&mut self) {
        if self.parts.shard.holds_back_input() {
            return;
        }
        for (slot, generation) in self.parts.shard.take_overdue(EVENTS_PER_TURN) {
            if self.read(slot, generation, true) {
                // It sent more than its share, and what is asked for may stand behind that.
                self.parts.shard.still_overdue(slot, generation);
            }
        }
    }

    fn accept(&mut self) {
        let now = self.parts.clock.now().tick;
        if self.accept_again_at.is_some_and(|at| at <= now) {
            (self.accept_again_at, self.accept_pending) = (None, true);
        }
        if self.parts.shard.is_draining() && !self.listeners.is_empty() {
            return self.close_listeners();
        }
        if !self.accept_pending || self.accept_again_at.is_some() {
            return;
        }
        self.accept_pending = false;
        for index in 0..self.listeners.len() {
            self.accept_from(index, ACCEPTS_PER_TURN);
        }
    }

    fn accept_from(&mut self, index: usize, budget: usize) {
        for _ in 0..budget {
            match self.listeners[index].accept() {
                Ok((socket, peer)) => self.take_in(TcpStream::from(socket), peer.ip()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_out_of_descriptors(&error) => return self.out_of_descriptors(index),
                // The connection ended before it began (R26): the next one may be fine.
                Err(_) => {}
            }
        }
        self.accept_pending = true;
    }

    fn take_in(&mut self, socket: TcpStream, peer: IpAddr) {
        if self.parts.shard.connections() >= self.parts.capacity {
            self.parts.shard.refused(Refusal::ConnectionLimit);
            return Reserve::refuse(&socket);
        }
        let source = self.source_of(peer);
        let descriptor = crate::net::socket::descriptor_of(&socket);
        let (slot, generation) = self.parts.shard.accept(descriptor, source);
        let token = Token(generation as usize * (1 << 32) + slot as usize);
        if self.sockets.add(socket, token).is_err() {
            self.parts.shard.refused(Refusal::Descriptors);
            self.parts.shard.lose(slot);
        }
    }

    /// The hash a source address is counted under: an IPv6 host counts by its /64.
    fn source_of(&self, peer: IpAddr) -> u32 {
        let hash = match peer {
            IpAddr::V4(address) => self.parts.hasher.of(&address.octets()),
            IpAddr::V6(address) => self.parts.hasher.of(&address.octets()[..8]),
        };
        hash as u32
    }

    /// Stops accepting for a tick (an edge-triggered listener gets no second event) and refuses one politely.
    fn out_of_descriptors(&mut self, index: usize) {
        self.parts.shard.refused(Refusal::Descriptors);
        self.accept_again_at = Some(self.parts.clock.now().tick.after(1));
        self.reserve.refuse_one(&self.listeners[index]);
    }

    /// Serves what the kernel already accepted for us (it is told 503), then lets the port go (D04).
    fn close_listeners(&mut self) {
        for index in 0..self.listeners.len() {
            self.accept_from(index, usize::MAX >> 1);
        }
        self.listeners.clear();
        self.accept_pending = false;
    }

    /// How many letters were taken, and true if more are left.
    fn take_mail(&mut self) -> (usize, bool) {
        self.parts.mesh.begin(self.parts.id);
        let (mut letters, mut weight) = (0, 0);
        while weight < MAIL_PER_TURN {
            if letters % SATURATION_EVERY == 0 && self.parts.shard.is_saturated() {
                return (letters, true);
            }
            let Some(mail) = self.parts.mesh.pop(self.parts.id) else { return (letters, false) };
            letters += 1;
            weight += mail.weight();
            self.parts.shard.receive(mail);
        }
        (letters, true)
    }

    /// Sends what can be sent, and returns how much that was.
    fn send_mail(&mut self) -> usize {
        let mut sent = 0;
        let Self {
            parts: ReactorParts { shard, mesh, wakers, shards, id, answers, clock, store, .. }, ..
        } = self;
        let watched = shard.tells_of_users();
        let post = shard.post();
        if !post.has_no_letters() {
            let soon = clock.now().tick.after(PATIENCE_TICKS);
            for to in (0..*shards).map(ShardId).filter(|to| to != id) {
                let mut is_urgent = false;
                let left = post.drain_to(to, |mail| {
                    is_urgent |= !mail.is_patient(watched);
                    mesh.push(to, mail)
                });
                // A letter that found the inbox full waits for its reader, whoever waits for the letter.
                is_urgent |= post.waits(to);
                sent += left;
                let is_due = is_urgent || (left > 0 && !mesh.looks_by(to, soon));
                if is_due && mesh.needs_wake(to) {
                    wakers.wake(to);
                }
            }
        }
        sent += post.drain_answers(|answer| {
            answers(answer);
            Ok(())
        });
        if let Some(door) = store {
            sent += post.drain_store(door);
        }
        sent
    }

    fn refresh_metrics(&mut self) {
        let now = self.parts.clock.now().tick;
        if now < self.metrics_at {
            return;
        }
        self.metrics_at = now.after(u32::try_from(1000 / TICK_MS).unwrap_or(1));
        let figures = ShellFigures {
            inbox: self.parts.mesh.len(self.parts.id),
            buffer_bytes: self.read_most.next_multiple_of(PAGE) + self.sockets.memory_bytes(),
            mesh_bytes: self.parts.mesh.memory_bytes() / usize::from(self.parts.shards.max(1)),
        };
        (self.parts.publish_metrics)(&mut self.parts.shard, figures);
    }

    fn timeout(&mut self, outlook: Outlook, was_busy: bool, more_mail: bool) -> Duration {
        let backed_up = !self.parts.shard.post().is_empty();
        let put_off = self.parts.shard.has_put_off();
        if outlook.busy || put_off || more_mail || (self.accept_pending && self.accept_again_at.is_none()) {
            return Duration::ZERO;
        }
        if backed_up {
            // Another shard's inbox is full; it is running, so look again soon, but not so often that whoever reads it
            // gets no processor for all that look.
            return BACKED_UP * (1 << self.stuck_turns.min(BACKED_UP_DOUBLINGS));
        }
        let (now, now_ms) = self.parts.clock.now_with_ms();
        let now = now.tick;
        let look = was_busy.then_some(now.after(PATIENCE_TICKS));
        let due = [outlook.wake_at, self.accept_again_at, Some(self.metrics_at), look];
        let due = due.into_iter().flatten().min().unwrap_or(now);
        if !self.parts.mesh.sleep_until(self.parts.id, due) {
            return Duration::ZERO;
        }
        let ticks = due.since(now);
        let flush = outlook.flush_at_ms.map_or(IDLE, |at| Duration::from_millis(at.saturating_sub(now_ms)));
        Duration::from_millis(u64::from(ticks) * TICK_MS).min(IDLE).min(flush)
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
