//! The log's writer thread: gathers requests, stages a group, has it written, hands the answers out.
//!
//! While a group is in flight the next one gathers and is staged, so that the disk does not wait for the processor. A
//! group is written on this thread if nothing is left to do meanwhile, since a hand-over costs some microseconds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use super::door::{Lane, Letter};
use super::engine::Engine;
use super::error::StorageError;
use super::flight::{Flights, MAX_FLIGHTS};
use super::group::GroupWrite;
use super::request::{Ack, Prepared};
use super::settings::SyncPolicy;

/// Requests that must be waiting for a group to be written on the other thread.
const BACKLOG: usize = 16;
/// How long the writer waits for a group in flight before it looks for more requests.
const PATIENCE: Duration = Duration::from_micros(100);
/// After so long without a request the newest records get their watermark on the disk.
const IDLE_WATERMARK: Duration = Duration::from_millis(100);

/// The state of the thread.
pub(super) struct Writer {
    engine: Engine,
    letters: Receiver<Letter>,
    closed: Arc<AtomicBool>,
    flights: Flights,
    /// Requests without an answer: those in flight, then those staged in the engine, then the rest.
    requests: VecDeque<Prepared>,
    /// How many of them are in each flight.
    departed: VecDeque<usize>,
    staged: usize,
    /// Bytes of those that are not in flight.
    bytes: usize,
    /// Where the answers go: one for each request.
    lanes: VecDeque<Arc<Lane>>,
    acks: Vec<Ack>,
    /// Who waits for the watermark.
    waiting: Vec<Sender<()>>,
    /// The last group had more than one request: the next one may get company too.
    company: bool,
    closing: bool,
    /// See [`Engine::look_for_room`].
    look_for_room: bool,
    timers: Timers,
}

impl Writer {
    pub(super) fn new(
        engine: Engine,
        letters: Receiver<Letter>,
        closed: Arc<AtomicBool>,
    ) -> Result<Self, StorageError> {
        Ok(Self {
            engine,
            letters,
            closed,
            flights: Flights::new()?,
            requests: VecDeque::new(),
            departed: VecDeque::new(),
            staged: 0,
            bytes: 0,
            lanes: VecDeque::new(),
            acks: Vec::new(),
            waiting: Vec::new(),
            company: false,
            closing: false,
            look_for_room: false,
            timers: Timers::default(),
        })
    }

    pub(super) fn run(mut self) -> Result<(), StorageError> {
        while !self.closing || !self.requests.is_empty() {
            if self.requests.is_empty() {
                self.gather();
            }
            self.turn();
            self.do_chores();
        }
        self.engine.close(unix_seconds())
    }

    /// One step: stage what has come, then write it, hand it over, or wait for a group to come back.
    fn turn(&mut self) {
        self.fill(None);
        self.stage();
        match self.flights.count() {
            0 => self.depart(),
            // The disk goes on with it as soon as it is through with the one before.
            flights if flights < MAX_FLIGHTS && self.engine.is_full() => self.hand_over(),
            _ => self.land(),
        }
    }

    /// Waits for the first request, and a little longer for more if the last group had company.
    fn gather(&mut self) {
        let first = match self.timers.next() {
            Some(at) => self.letters.recv_deadline(at),
            None => self.letters.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match first {
            Ok(letter) => self.take(letter),
            Err(RecvTimeoutError::Timeout) => return,
            Err(RecvTimeoutError::Disconnected) => self.take(Letter::Close),
        }
        let window = self.engine.settings().commit_window;
        let wait = self.company && !window.is_zero();
        self.fill(wait.then(|| from_now(window)));
    }

    /// Takes what is queued, and until `deadline` what still comes, up to a full group.
    fn fill(&mut self, deadline: Option<Instant>) {
        while !self.is_full() && !self.closing {
            let letter = match (self.letters.try_recv(), deadline) {
                (Ok(letter), _) => Some(letter),
                (Err(_), None) => None,
                (Err(_), Some(at)) => self.letters.recv_deadline(at).ok(),
            };
            let Some(letter) = letter else { return };
            self.take(letter);
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= self.engine.settings().batch_bytes
    }

    fn take(&mut self, letter: Letter) {
        match letter {
            Letter::Append(request, lane) => {
                self.bytes = self.bytes.saturating_add(request.body.len());
                self.requests.push_back(request);
                self.lanes.push_back(lane);
            }
            Letter::Watermark(noted) => self.waiting.push(noted),
            Letter::Room => self.look_for_room = true,
            Letter::Close => {
                self.closed.store(true, Ordering::SeqCst);
                self.closing = true;
                while let Ok(letter) = self.letters.try_recv() {
                    self.take(letter);
                }
            }
        }
    }

    fn stage(&mut self) {
        let before = self.in_flight().saturating_add(self.staged).min(self.requests.len());
        let staged = self.engine.stage(self.requests.range(before..), unix_seconds());
        self.staged = self.staged.saturating_add(staged);
    }

    fn in_flight(&self) -> usize {
        self.departed.iter().copied().fold(0, usize::saturating_add)
    }

    /// Waits for a group to come back, and now and then looks for more requests meanwhile.
    fn land(&mut self) {
        let patience = (!self.is_full() && !self.closing).then_some(PATIENCE);
        let Some((write, result)) = self.flights.land(patience) else { return };
        if result.is_err() {
            // What was handed over after it comes back unwritten.
            while self.flights.count() > 0 && self.flights.land(None).is_some() {}
        }
        self.finish(write, result);
    }

    fn finish(&mut self, write: GroupWrite, result: Result<(), StorageError>) {
        let count = self.departed.pop_front().unwrap_or(0);
        if !self.engine.finish(write, result, &mut self.acks) {
            self.departed.clear();
            self.staged = 0;
            self.bytes =
                self.requests.iter().skip(count).map(|r| r.body.len()).fold(0, usize::saturating_add);
        }
        self.answer(count);
    }

    /// Writes the staged group: here, or on the other thread if there is something to do here meanwhile.
    fn depart(&mut self) {
        if self.staged == 0 {
            return;
        }
        self.company = self.staged > 1;
        self.timers.wrote(self.engine.settings().sync);
        if self.has_something_to_do() {
            self.hand_over();
            return;
        }
        match self.take_write() {
            Some(write) => {
                let result = write.run();
                self.finish(write, result);
            }
            None => {
                self.engine.take_refusals(&mut self.acks);
                self.answer(0);
            }
        }
    }

    fn hand_over(&mut self) {
        let Some(write) = self.take_write() else {
            self.engine.take_refusals(&mut self.acks);
            self.answer(0);
            return;
        };
        // Without its thread this one writes.
        if let Some(write) = self.flights.start(write) {
            let result = write.run();
            self.finish(write, result);
        }
    }

    fn take_write(&mut self) -> Option<GroupWrite> {
        let write = self.engine.take_write()?;
        let first = self.in_flight();
        let last = first.saturating_add(self.staged).min(self.requests.len());
        let bytes = self.requests.range(first..last).map(|r| r.body.len()).fold(0, usize::saturating_add);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.departed.push_back(std::mem::take(&mut self.staged));
        Some(write)
    }

    fn has_something_to_do(&self) -> bool {
        let backlog = self.requests.len().saturating_sub(self.staged).saturating_add(self.letters.len());
        let sync = self.engine.settings().sync == SyncPolicy::Always;
        sync && backlog >= BACKLOG && !self.closing && self.waiting.is_empty()
    }

    /// What is due besides appending, when nothing is staged or in flight.
    fn do_chores(&mut self) {
        if self.flights.count() > 0 || !self.engine.is_empty() {
            return;
        }
        if !self.waiting.is_empty() {
            // A failure has been counted and the segment given up.
            let _ = self.engine.sync();
            self.engine.note_watermark(unix_seconds());
            for noted in self.waiting.drain(..) {
                let _ = noted.try_send(());
            }
        }
        if std::mem::take(&mut self.look_for_room) {
            self.engine.look_for_room();
        }
        self.timers.run(&mut self.engine);
    }

    /// Hands the answers out, of which the first `landed` are for requests that were in flight and the others for staged
    /// ones. Runs of answers for the same appender go together.
    fn answer(&mut self, landed: usize) {
        let mut acks = std::mem::take(&mut self.acks);
        let answered = acks.len().min(self.requests.len());
        let refused = self.requests.range(landed.min(answered)..answered);
        self.staged = self.staged.saturating_sub(refused.len());
        self.bytes = refused.fold(self.bytes, |bytes, request| bytes.saturating_sub(request.body.len()));
        self.requests.drain(..answered);
        let mut rest = acks.as_slice();
        while !rest.is_empty()
            && let Some(lane) = self.lanes.front().cloned()
        {
            let same = self.lanes.iter().take_while(|other| Arc::ptr_eq(other, &lane)).count();
            let run = same.min(rest.len());
            let (mine, after) = rest.split_at_checked(run).unwrap_or((rest, &[]));
            lane.sink.acknowledge(mine);
            rest = after;
            self.lanes.drain(..run);
        }
        acks.clear();
        self.acks = acks;
    }
}

/// What the writer does besides committing.
#[derive(Debug, Default)]
struct Timers {
    /// The next sync under `sync = interval`.
    sync: Option<Instant>,
    /// When the log counts as idle.
    idle: Option<Instant>,
}

impl Timers {
    fn next(&self) -> Option<Instant> {
        self.sync.into_iter().chain(self.idle).min()
    }

    fn wrote(&mut self, policy: SyncPolicy) {
        if let SyncPolicy::Interval(interval) = policy {
            self.sync = self.sync.or_else(|| Some(from_now(interval)));
        }
        self.idle = Some(from_now(IDLE_WATERMARK));
    }

    fn run(&mut self, engine: &mut Engine) {
        let now = now();
        if self.sync.is_some_and(|at| at <= now) {
            self.sync = None;
            // A failure has been counted and the segment given up; the next group goes to a new one.
            let _ = engine.sync();
        }
        if self.idle.is_some_and(|at| at <= now) {
            self.idle = None;
            engine.note_watermark(unix_seconds());
        }
    }
}

fn from_now(period: Duration) -> Instant {
    let now = now();
    now.checked_add(period).unwrap_or(now)
}

#[allow(clippy::disallowed_methods, reason = "the log is a shell: its writer thread reads the clock")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "the log is a shell: its writer thread reads the clock")]
pub(super) fn unix_seconds() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
