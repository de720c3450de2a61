//! Writes groups on a thread of its own while the writer stages the next ones.

use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::error::StorageError;
use super::group::GroupWrite;

/// Groups on their way at once: while one is written the next one waits for the disk, not the disk for it.
pub(super) const MAX_FLIGHTS: usize = 2;

/// A write and how it went.
pub(super) type Landing = (GroupWrite, Result<(), StorageError>);

/// The thread and its two channels.
pub(super) struct Flights {
    departures: Option<Sender<GroupWrite>>,
    landings: Receiver<Landing>,
    flying: usize,
    thread: Option<JoinHandle<()>>,
}

impl Flights {
    pub(super) fn new() -> Result<Self, StorageError> {
        let (departures, writes) = bounded::<GroupWrite>(MAX_FLIGHTS);
        let (landed, landings) = bounded(MAX_FLIGHTS);
        let run = move || {
            let mut failed = None;
            while let Ok(write) = writes.recv() {
                let void = failed == Some(write.attempt);
                let result = if void { Err(StorageError::Other(0)) } else { write.run() };
                if result.is_err() {
                    failed = Some(write.attempt);
                }
                if landed.send((write, result)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("log-sync".to_owned()).spawn(run)?;
        Ok(Self { departures: Some(departures), landings, flying: 0, thread: Some(thread) })
    }

    /// Groups in flight.
    pub(super) fn count(&self) -> usize {
        self.flying
    }

    /// Sends a group off; at most [`MAX_FLIGHTS`] may be in flight with it. Gives it back if the thread is gone.
    pub(super) fn start(&mut self, write: GroupWrite) -> Option<GroupWrite> {
        let Some(departures) = &self.departures else { return Some(write) };
        match departures.send(write) {
            Ok(()) => {
                self.flying = self.flying.saturating_add(1);
                None
            }
            Err(refused) => Some(refused.0),
        }
    }

    /// Waits for the next group to come back, at most until `patience` has passed if there is one.
    pub(super) fn land(&mut self, patience: Option<Duration>) -> Option<Landing> {
        let landing = match patience {
            Some(patience) => self.landings.recv_timeout(patience).ok(),
            None => self.landings.recv().ok(),
        };
        landing.inspect(|_| self.flying = self.flying.saturating_sub(1))
    }
}

impl Drop for Flights {
    fn drop(&mut self) {
        self.departures = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
