//! Writes a group on a thread of its own while the writer stages the next one.

use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::error::StorageError;
use super::group::GroupWrite;

/// A write and how it went.
pub(super) type Landing = (GroupWrite, Result<(), StorageError>);

/// The thread that writes a group while the next one is staged.
pub(super) struct Flights {
    departures: Option<Sender<GroupWrite>>,
    landings: Receiver<Landing>,
    flying: bool,
    thread: Option<JoinHandle<()>>,
}

impl Flights {
    pub(super) fn new() -> Result<Self, StorageError> {
        let (departures, writes) = bounded::<GroupWrite>(1);
        let (landed, landings) = bounded(1);
        let run = move || {
            while let Ok(write) = writes.recv() {
                let result = write.run();
                if landed.send((write, result)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("log-sync".to_owned()).spawn(run)?;
        Ok(Self { departures: Some(departures), landings, flying: false, thread: Some(thread) })
    }

    /// True if a group is in flight.
    pub(super) fn is_flying(&self) -> bool {
        self.flying
    }

    /// Where the group in flight comes back; then call [`landed`](Self::landed).
    pub(super) fn landings(&self) -> &Receiver<Landing> {
        &self.landings
    }

    pub(super) fn landed(&mut self) {
        self.flying = false;
    }

    /// Sends a group off; nothing may be in flight. Gives it back if the thread is gone.
    pub(super) fn start(&mut self, write: GroupWrite) -> Option<GroupWrite> {
        let Some(departures) = &self.departures else { return Some(write) };
        // Only one is ever in flight, so there is room.
        match departures.send(write) {
            Ok(()) => {
                self.flying = true;
                None
            }
            Err(refused) => Some(refused.0),
        }
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
