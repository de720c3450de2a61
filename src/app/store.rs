//! The store in this process: opens the log, tells the operator what was found, starts the thread, ends it.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::herald::Herald;
use crate::base::ids::ShardId;
use crate::base::mesh::Mesh;
use crate::config::StorageConfig;
use crate::control::answers::Answers;
use crate::hub::api::{ApiAnswer, ApiError, STORE};
use crate::hub::mail::{ApiAsk, Mail};
use crate::hub::shard::Common;
use crate::hub::store::{StoreAsk, StoreFigures};
use crate::log::Log;
use crate::log::error::{OpenError, StorageError};
use crate::log::files::Directory;
use crate::log::reader::Reader;
use crate::log::record::Sequence;
use crate::log::recover::RecoveryReport;
use crate::net::clock::Clock;
use crate::net::wakers::Wakers;
use crate::store::thread::{ALLOWANCE, EventQueues, Inbox, Store, StoreParts};

/// Questions that may wait for the store; beyond, shards keep theirs and hold back their clients.
const QUESTIONS: usize = 8192;

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the log in {} cannot be opened: {source}. {}", path.display(), advice(source))]
pub struct LogError {
    /// Where it is.
    pub path: PathBuf,
    /// Why.
    pub source: OpenError,
}

/// The opened log before its thread runs.
pub(super) struct OpenStore {
    log: Log,
    path: PathBuf,
    last: Sequence,
    seed: u64,
    pub(super) inbox: Arc<Inbox>,
    pub(super) figures: Arc<Mutex<Option<StoreFigures>>>,
}

/// How everybody else reaches the store.
#[derive(Clone)]
pub(super) struct StoreDoor {
    inbox: Option<Arc<Inbox>>,
    answers: Answers,
}

impl OpenStore {
    /// Opens the log, before any shard starts: it may read for a while, and may refuse.
    pub(super) fn open(config: &StorageConfig) -> Result<Self, LogError> {
        let failed = |source| LogError { path: config.path.clone(), source };
        let mut settings = config.log.clone();
        let mut random = [0; 8];
        getrandom::fill(&mut settings.seed)
            .and_then(|()| getrandom::fill(&mut random))
            .map_err(|_| failed(OpenError::Storage(StorageError::Other(libc::ENOSYS))))?;
        let directory = Directory::open(&config.path, config.allow_volatile);
        let directory = directory.map_err(|error| failed(OpenError::Storage(error)))?;
        let sync = settings.sync;
        let (log, report) = Log::open(Box::new(directory), settings).map_err(failed)?;
        tell(config, &report, &sync.in_words());
        let inbox = Arc::new(Inbox::new(QUESTIONS, ALLOWANCE));
        let last = report.next.before();
        let seed = u64::from_le_bytes(random);
        let path = config.path.clone();
        Ok(Self { log, path, last, seed, inbox, figures: Arc::default() })
    }

    /// Reads what is durable.
    pub(super) fn reader(&self) -> Reader {
        self.log.reader()
    }

    /// A random number of this run.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Starts the thread.
    pub(super) fn start(
        self,
        common: &Arc<Common>,
        mesh: &Arc<Mesh<Mail>>,
        wakers: &Arc<Wakers>,
        answers: &Answers,
        clock: Clock,
        queues: EventQueues,
    ) -> std::io::Result<Store> {
        let Self { log, path, last, seed, inbox, figures } = self;
        let herald = RefCell::new(Herald::new(log.reader(), path));
        let (mesh, wakers, answers) = (Arc::clone(mesh), Arc::clone(wakers), answers.clone());
        Store::start(StoreParts {
            common: Arc::clone(common),
            log,
            last,
            inbox,
            deliver: Box::new(move |shard: ShardId, mail| {
                let pushed = mesh.push(shard, mail);
                if mesh.needs_wake(shard) {
                    wakers.wake(shard);
                }
                pushed
            }),
            answers: Box::new(move |answer| answers.deliver(answer.id, answer.shard, answer.answer)),
            publish: Box::new(move |latest| {
                herald.borrow_mut().look();
                if let Ok(mut place) = figures.try_lock() {
                    *place = Some(latest);
                }
            }),
            clock: Box::new(move || clock.now()),
            seed,
            queues,
        })
    }
}

impl StoreDoor {
    pub(super) fn new(store: Option<&OpenStore>, answers: Answers) -> Self {
        Self { inbox: store.map(|store| Arc::clone(&store.inbox)), answers }
    }

    /// For the shards: `None` without storage.
    pub(super) fn of_shards(&self) -> Option<crate::net::reactor::StoreDoor> {
        let inbox = Arc::clone(self.inbox.as_ref()?);
        Some(Box::new(move |ask| inbox.ask(ask)))
    }

    /// A question of the control plane; it comes back where there is no room.
    pub(super) fn call(&self, ask: ApiAsk) -> Result<(), Box<ApiAsk>> {
        let refuse = |error| {
            self.answers.deliver(ask.id, STORE, ApiAnswer::Error(error));
            Ok(())
        };
        let Some(inbox) = &self.inbox else { return refuse(ApiError::NotAvailable) };
        if inbox.is_closed() {
            return refuse(ApiError::StorageUnavailable);
        }
        match inbox.ask(StoreAsk::Api(Box::new(ask))) {
            Err(StoreAsk::Api(back)) => return Err(back),
            _ if inbox.is_closed() => {
                // The store ended between the two looks: whatever still lies there is answered here.
                for late in inbox.leftover_calls() {
                    let error = ApiAnswer::Error(ApiError::StorageUnavailable);
                    self.answers.deliver(late.id, STORE, error);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What a start found, for the operator.
fn tell(config: &StorageConfig, report: &RecoveryReport, promise: &str) {
    tracing::info!(
        path = %config.path.display(),
        streams = report.streams,
        segments = report.segments,
        records_read = report.records,
        clean = report.clean,
        "the log is open: {promise}"
    );
    if let Some(tail) = &report.tail {
        tracing::warn!(?tail, "the end of the log was torn and was cut: nothing of it had been acknowledged");
    }
    for damage in &report.damage {
        tracing::error!(?damage, "the log is damaged: what is readable is served; see `millpond log verify`");
    }
    if report.new_losses > 0 {
        tracing::error!(
            "records are lost of which not even the streams are known: every mailbox and history that may have lost its \
             newest ones has a new epoch, and clients that come back with a position in it are told recovered: false"
        );
    }
    if !report.quarantined.is_empty() {
        tracing::error!(segments = ?report.quarantined, "segments are in quarantine");
    }
    if !report.foreign.is_empty() {
        tracing::warn!(files = ?report.foreign, "files in the log directory are not the log's and are left alone");
    }
}

fn advice(error: &OpenError) -> &'static str {
    match error {
        OpenError::Locked => "Is another millpond running? Give each its own storage.path",
        OpenError::Unsuitable(_) => "Choose another storage.path",
        OpenError::FutureVersion { .. } | OpenError::UnknownKind { .. } => {
            "Start the version of millpond that wrote it, or a later one"
        }
        OpenError::ByteOrder { .. } => "It can be read on the kind of machine that wrote it only",
        OpenError::Foreign { .. } => "Remove what does not belong there, or choose another storage.path",
        OpenError::Setting(_) => "Change it in the section [storage]",
        OpenError::Storage(StorageError::ReadOnly) => "Is the directory writable for this user?",
        OpenError::Storage(StorageError::NotADirectory) => "Name a directory, or one that can be made",
        OpenError::Storage(StorageError::DiskFull) => "Make room, or choose another storage.path",
        OpenError::NoLog | OpenError::Storage(_) => "Nothing has been changed",
    }
}
