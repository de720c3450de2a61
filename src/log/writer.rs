//! The log's writer thread and the doors to it.
//!
//! Requests come over one bounded queue from any number of appenders; the thread gathers a group, commits it, hands the
//! acknowledgements to the appenders' sinks and begins again. While a group is being synced the next one gathers in the
//! queue. Nothing here waits for an appender, and no appender waits for the thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::compact::{Maintenance, MaintenanceReport};
use super::engine::Engine;
use super::error::{AppendError, OpenError, RefuseError, StorageError};
use super::reader::Reader;
use super::record::KeyHasher;
use super::recover::RecoveryReport;
use super::request::{Ack, AckSink, AppendRequest, Prepared};
use super::settings::{LogSettings, SyncPolicy};
use super::storage::Storage;

/// After so long without a request the newest records get their watermark on the disk.
const IDLE_WATERMARK: Duration = Duration::from_millis(100);

/// An open log with its writer and maintenance threads. Dropping it closes it.
#[derive(Debug)]
pub struct Log {
    queue: Sender<Letter>,
    janitor: Option<Janitor>,
    maintenance: Arc<Mutex<Maintenance>>,
    /// A second receiver, to answer what still comes in while the log closes.
    leftovers: Receiver<Letter>,
    closed: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), StorageError>>>,
    reader: Reader,
    hasher: KeyHasher,
    max_body: usize,
}

/// Appends to the log from one thread or several; cheap to clone.
#[derive(Clone, Debug)]
pub struct Appender {
    queue: Sender<Letter>,
    closed: Arc<AtomicBool>,
    lane: Arc<Lane>,
    hasher: KeyHasher,
    max_body: usize,
}

/// Takes acknowledgements out of a queue that holds as many as may be outstanding.
#[derive(Debug)]
pub struct AckReceiver {
    acks: Receiver<Ack>,
    lane: Arc<Lane>,
}

/// Where the acknowledgements of an appender go.
struct Lane {
    sink: Box<dyn AckSink>,
    /// Requests whose acknowledgement has not been released.
    outstanding: AtomicUsize,
    allowance: usize,
}

enum Letter {
    Append(Prepared, Arc<Lane>),
    /// Note the watermark and say so.
    Watermark(Sender<()>),
    Close,
}

/// The thread that runs the maintenance; it ends when `stop` is dropped.
#[derive(Debug)]
struct Janitor {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Log {
    /// Opens the log in `storage`, recovering it if need be, and starts its writer.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing has been changed then.
    pub fn open(
        storage: Box<dyn Storage>,
        settings: LogSettings,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let queue_length = settings.queue_length;
        let (engine, report) = Engine::open(storage, settings, unix_seconds())?;
        let (queue, letters) = bounded(queue_length);
        let closed = Arc::new(AtomicBool::new(false));
        let reader = engine.reader();
        let hasher = engine.shared().hasher;
        let max_body = engine.settings().max_body_bytes();
        let leftovers = letters.clone();
        let maintenance = Arc::new(Mutex::new(engine.maintenance()));
        let interval = engine.settings().maintenance_interval;
        let writer =
            Writer { engine, letters, closed: Arc::clone(&closed), group: Vec::new(), lanes: Vec::new() };
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::Storage(error.into()))?;
        let thread = Some(thread);
        let mut log =
            Self { queue, janitor: None, maintenance, leftovers, closed, thread, reader, hasher, max_body };
        if !interval.is_zero() {
            log.janitor = Some(log.start_janitor(interval)?);
        }
        Ok((log, report))
    }

    /// Removes and rewrites segments of which little is needed, now. Appends and reads go on meanwhile; the caller
    /// waits.
    ///
    /// # Errors
    /// What the storage says; the log is whole whatever has been done.
    pub fn maintain(&self) -> Result<MaintenanceReport, StorageError> {
        maintain(&self.queue, &self.maintenance)
    }

    fn start_janitor(&self, interval: Duration) -> Result<Janitor, OpenError> {
        let (stop, stopped) = bounded::<()>(0);
        let (queue, maintenance, reader) =
            (self.queue.clone(), Arc::clone(&self.maintenance), self.reader.clone());
        let run = move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                if maintain(&queue, &maintenance).is_err() {
                    reader.note_maintenance_fault();
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("log-maintenance".to_owned())
            .spawn(run)
            .map_err(|error| OpenError::Storage(error.into()))?;
        Ok(Janitor { stop, thread })
    }

    /// A door for requests whose acknowledgements go to `sink`. At most `allowance` of them are outstanding: the owner
    /// calls [`Appender::release`] once it has taken acknowledgements out of the sink.
    #[must_use]
    pub fn appender(&self, sink: Box<dyn AckSink>, allowance: usize) -> Appender {
        let lane = Arc::new(Lane { sink, outstanding: AtomicUsize::new(0), allowance });
        Appender {
            queue: self.queue.clone(),
            closed: Arc::clone(&self.closed),
            lane,
            hasher: self.hasher,
            max_body: self.max_body,
        }
    }

    /// A door for requests with a queue for their acknowledgements, which releases them as they are taken out.
    #[must_use]
    pub fn channel(&self, allowance: usize) -> (Appender, AckReceiver) {
        let (sender, acks) = bounded(allowance.max(1));
        let appender = self.appender(Box::new(AckQueue { sender }), allowance.max(1));
        let lane = Arc::clone(&appender.lane);
        (appender, AckReceiver { acks, lane })
    }

    /// A reader of the durable records.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Commits what is queued, makes everything durable and leaves the directory ready for a fast start.
    ///
    /// # Errors
    /// What the storage says; the next start then recovers from the records.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<(), StorageError> {
        if let Some(Janitor { stop, thread }) = self.janitor.take() {
            drop(stop);
            let _ = thread.join();
        }
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.closed.store(true, Ordering::SeqCst);
        // The writer drains the queue, so this waits only for room; if the writer is gone the join says why.
        let _ = self.queue.send(Letter::Close);
        let result = thread.join().unwrap_or(Err(StorageError::Other(0)));
        while let Ok(letter) = self.leftovers.try_recv() {
            if let Letter::Append(request, lane) = letter {
                lane.sink.acknowledge(&[Ack { token: request.token, result: Err(AppendError::Closed) }]);
            }
        }
        result
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Whoever wants to know how it went calls `close`.
        let _ = self.finish();
    }
}

impl Appender {
    /// Queues a request. Never waits.
    ///
    /// # Errors
    /// See [`RefuseError`]; then no acknowledgement follows and nothing is stored.
    pub fn try_append(&self, request: AppendRequest) -> Result<(), RefuseError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(RefuseError::Closed);
        }
        if self.queue.is_full() {
            return Err(RefuseError::Full);
        }
        let before = self.lane.outstanding.fetch_add(1, Ordering::Relaxed);
        let sent = if before >= self.lane.allowance { Err(RefuseError::Full) } else { self.send(request) };
        if sent.is_err() {
            self.lane.release(1);
        }
        sent
    }

    /// Says that `count` acknowledgements were taken out of the sink, so that as many more requests may be made.
    pub fn release(&self, count: usize) {
        self.lane.release(count);
    }

    fn send(&self, request: AppendRequest) -> Result<(), RefuseError> {
        let prepared = Prepared::new(request, &self.hasher, self.max_body)?;
        self.queue.try_send(Letter::Append(prepared, Arc::clone(&self.lane))).map_err(|error| match error {
            TrySendError::Full(_) => RefuseError::Full,
            TrySendError::Disconnected(_) => RefuseError::Closed,
        })
    }
}

impl AckReceiver {
    /// The next acknowledgement, if there is one.
    #[must_use]
    pub fn try_recv(&self) -> Option<Ack> {
        self.acks.try_recv().ok().inspect(|_| self.lane.release(1))
    }

    /// Waits for the next acknowledgement; `None` once the log is gone and all have been taken, or after `timeout`.
    #[must_use]
    pub fn recv_timeout(&self, timeout: Duration) -> Option<Ack> {
        self.acks.recv_timeout(timeout).ok().inspect(|_| self.lane.release(1))
    }
}

#[derive(Debug)]
struct AckQueue {
    sender: Sender<Ack>,
}

impl AckSink for AckQueue {
    fn acknowledge(&self, acks: &[Ack]) {
        for ack in acks {
            // Full is impossible within the allowance; disconnected means that nobody wants to know.
            let _ = self.sender.try_send(*ack);
        }
    }
}

impl Lane {
    fn release(&self, count: usize) {
        // Releasing too often is the owner's mistake; it must not let the counter wrap.
        let lower = |outstanding: usize| Some(outstanding.saturating_sub(count));
        let _ = self.outstanding.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower);
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("outstanding", &self.outstanding).finish_non_exhaustive()
    }
}

/// The newest records may make up for what is dropped, so they get their watermark first.
fn maintain(
    queue: &Sender<Letter>,
    maintenance: &Mutex<Maintenance>,
) -> Result<MaintenanceReport, StorageError> {
    let (noted, wait) = bounded(1);
    if queue.send(Letter::Watermark(noted)).is_ok() {
        // An error means that the writer has ended, and then nothing is appended.
        let _ = wait.recv();
    }
    maintenance.lock().unwrap_or_else(PoisonError::into_inner).pass(unix_seconds())
}

struct Writer {
    engine: Engine,
    letters: Receiver<Letter>,
    closed: Arc<AtomicBool>,
    group: Vec<Prepared>,
    lanes: Vec<Arc<Lane>>,
}

/// What woke the writer.
#[derive(PartialEq, Eq)]
enum Wake {
    Group,
    Timeout,
    Close,
}

impl Writer {
    fn run(mut self) -> Result<(), StorageError> {
        let mut acks = Vec::new();
        let mut company = false;
        let mut timers = Timers::default();
        loop {
            let wake = self.gather(company, timers.next());
            if !self.group.is_empty() {
                company = self.group.len() > 1;
                self.engine.commit(&self.group, unix_seconds(), &mut acks);
                self.deliver(&mut acks);
                timers.wrote(self.engine.settings().sync);
            }
            if wake == Wake::Close {
                return self.engine.close(unix_seconds());
            }
            timers.run(&mut self.engine);
        }
    }

    /// Fills `group` with what is queued, and waits a little for more if the last group had company.
    fn gather(&mut self, company: bool, timer: Option<Instant>) -> Wake {
        self.group.clear();
        self.lanes.clear();
        let first = match timer {
            Some(at) => self.letters.recv_deadline(at),
            None => self.letters.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match first {
            Ok(Letter::Append(request, lane)) => self.take(request, lane),
            Ok(Letter::Watermark(noted)) => {
                self.note_watermark(&noted);
                return Wake::Group;
            }
            Err(RecvTimeoutError::Timeout) => return Wake::Timeout,
            Ok(Letter::Close) | Err(RecvTimeoutError::Disconnected) => {
                self.closed.store(true, Ordering::SeqCst);
                self.drain();
                return Wake::Close;
            }
        }
        let window = self.engine.settings().commit_window;
        let wait = company && !window.is_zero();
        let deadline = wait.then(|| from_now(window));
        self.fill(deadline)
    }

    fn fill(&mut self, deadline: Option<Instant>) -> Wake {
        let batch_bytes = self.engine.settings().batch_bytes;
        let mut bytes = 0_usize;
        while bytes < batch_bytes {
            let letter = match (self.letters.try_recv(), deadline) {
                (Ok(letter), _) => letter,
                (Err(_), None) => break,
                (Err(_), Some(at)) => match self.letters.recv_deadline(at) {
                    Ok(letter) => letter,
                    Err(_) => break,
                },
            };
            match letter {
                Letter::Append(request, lane) => {
                    bytes = bytes.saturating_add(request.body.len());
                    self.take(request, lane);
                }
                Letter::Watermark(noted) => self.note_watermark(&noted),
                Letter::Close => {
                    self.drain();
                    return Wake::Close;
                }
            }
        }
        Wake::Group
    }

    fn note_watermark(&mut self, noted: &Sender<()>) {
        // A failure has been counted and the segment given up.
        let _ = self.engine.sync();
        self.engine.note_watermark(unix_seconds());
        let _ = noted.try_send(());
    }

    fn drain(&mut self) {
        while let Ok(letter) = self.letters.try_recv() {
            if let Letter::Append(request, lane) = letter {
                self.take(request, lane);
            }
        }
    }

    fn take(&mut self, request: Prepared, lane: Arc<Lane>) {
        self.group.push(request);
        self.lanes.push(lane);
    }

    /// Hands runs of acknowledgements for the same appender over together.
    fn deliver(&self, acks: &mut Vec<Ack>) {
        let mut rest = acks.as_slice();
        let mut lanes = self.lanes.as_slice();
        while let Some(lane) = lanes.first() {
            let run = lanes.iter().take_while(|other| Arc::ptr_eq(other, lane)).count();
            let (mine, after) = rest.split_at_checked(run).unwrap_or((rest, &[]));
            lane.sink.acknowledge(mine);
            rest = after;
            lanes = lanes.get(run..).unwrap_or(&[]);
        }
        acks.clear();
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
fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "the log is a shell: its writer thread reads the clock")]
fn unix_seconds() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
