//! The log as the rest of the process sees it: open, append, read, close.
//!
//! Requests come over one bounded queue from any number of appenders to the writer thread; answers go to the appenders'
//! sinks. No appender waits for the writer, and the writer waits for no appender.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::compact::{Maintenance, MaintenanceReport};
use super::engine::Engine;
use super::error::{AppendError, OpenError, RefuseError, StorageError};
use super::reader::Reader;
use super::record::KeyHasher;
use super::recover::RecoveryReport;
use super::request::{Ack, AckSink, AppendRequest, Prepared};
use super::settings::LogSettings;
use super::shared::LogStatus;
use super::storage::Storage;
use super::writer::{Writer, now, unix_seconds};

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
    /// A group's acknowledgements come together, so that they wake the receiver once.
    groups: Receiver<Vec<Ack>>,
    taken: VecDeque<Ack>,
    lane: Arc<Lane>,
}

/// Where the acknowledgements of an appender go.
pub(super) struct Lane {
    pub(super) sink: Box<dyn AckSink>,
    /// Requests whose acknowledgement has not been released.
    outstanding: AtomicUsize,
    allowance: usize,
}

/// What comes to the writer.
pub(super) enum Letter {
    Append(Prepared, Arc<Lane>),
    /// Note the watermark and say so.
    Watermark(Sender<()>),
    /// Look whether there is room again.
    Room,
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
        let writer = Writer::new(engine, letters, Arc::clone(&closed))?;
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
            let mut rounds = Rounds::new(interval);
            while stopped.recv_timeout(rounds.step()) == Err(RecvTimeoutError::Timeout) {
                let status = reader.status();
                if rounds.is_due(&status) {
                    if maintain(&queue, &maintenance).is_err() {
                        reader.note_maintenance_fault();
                    }
                    rounds.done(&status);
                } else if status.fault.is_some() {
                    // Room may have been made elsewhere, and nobody may be sending.
                    let _ = queue.try_send(Letter::Room);
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
        let (sender, groups) = bounded(allowance.max(1));
        let appender = self.appender(Box::new(AckQueue { sender }), allowance.max(1));
        let lane = Arc::clone(&appender.lane);
        (appender, AckReceiver { groups, taken: VecDeque::new(), lane })
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
    pub fn try_recv(&mut self) -> Option<Ack> {
        if self.taken.is_empty() {
            self.taken.extend(self.groups.try_recv().ok()?);
        }
        self.next()
    }

    /// Waits for the next acknowledgement; `None` once the log is gone and all have been taken, or after `timeout`.
    #[must_use]
    pub fn recv_timeout(&mut self, timeout: Duration) -> Option<Ack> {
        if self.taken.is_empty() {
            self.taken.extend(self.groups.recv_timeout(timeout).ok()?);
        }
        self.next()
    }

    fn next(&mut self) -> Option<Ack> {
        self.taken.pop_front().inspect(|_| self.lane.release(1))
    }
}

#[derive(Debug)]
struct AckQueue {
    sender: Sender<Vec<Ack>>,
}

impl AckSink for AckQueue {
    fn acknowledge(&self, acks: &[Ack]) {
        // Full is impossible within the allowance; disconnected means that nobody wants to know.
        let _ = self.sender.try_send(acks.to_vec());
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
    let report = maintenance.lock().unwrap_or_else(PoisonError::into_inner).pass(unix_seconds());
    let _ = queue.try_send(Letter::Room);
    report
}

/// When segments are looked through: every interval, and on a full disk soon after something was acknowledged or purged.
struct Rounds {
    interval: Duration,
    begun: Instant,
    /// How long the last one took.
    took: Duration,
    /// Records that there were when it began.
    records: u64,
}

impl Rounds {
    /// How often is looked whether the disk is full.
    const STEP: Duration = Duration::from_secs(1);

    fn new(interval: Duration) -> Self {
        Self { interval, begun: now(), took: Duration::ZERO, records: 0 }
    }

    fn step(&self) -> Duration {
        self.interval.min(Self::STEP)
    }

    fn is_due(&mut self, status: &LogStatus) -> bool {
        let due = self.begun.elapsed();
        // Reading everything again and again is left to where it may help, and takes at most half of the disk's time.
        let full = status.fault == Some(StorageError::DiskFull);
        let helps = full && status.records != self.records && due >= self.took.saturating_mul(2);
        if !helps && due < self.interval {
            return false;
        }
        self.begun = now();
        true
    }

    fn done(&mut self, before: &LogStatus) {
        self.took = self.begun.elapsed();
        self.records = before.records;
    }
}
