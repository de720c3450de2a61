//! Turns the records of a queue into batches of the right size.

use std::collections::VecDeque;
use std::sync::Arc;

use super::batch::Batch;
use super::source::{EventPages, EventSource, Place, StoredEvents, Unreadable};

/// Reads one queue from where its backend stands. Calls wait for the disk.
pub(super) struct Feed {
    source: Arc<dyn EventSource>,
    queue: String,
    batch_max_events: usize,
    pages: Option<Box<dyn EventPages>>,
    /// Read, and in no batch yet.
    read: VecDeque<StoredEvents>,
    /// The last record that went into a batch; `None`: none since the start.
    after: Option<Place>,
}

/// What a queue has to offer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Events, and whether more are known to wait behind them.
    Batch(Batch, bool),
    /// What waited up to here has expired or is damaged.
    Gone(Place),
    /// Nothing waits.
    Nothing,
}

impl Feed {
    pub(super) fn new(source: Arc<dyn EventSource>, queue: String, batch_max_events: usize) -> Self {
        Self { source, queue, batch_max_events, pages: None, read: VecDeque::new(), after: None }
    }

    /// The next events. A record is never split, so a batch is larger than asked for where records are.
    pub(super) fn next(&mut self) -> Result<Next, Unreadable> {
        let mut batch: Option<Batch> = None;
        loop {
            if self.read.is_empty() {
                match self.read_on() {
                    Ok(true) => {}
                    Ok(false) => break,
                    // What was read goes out; the fault shows again at the next look.
                    Err(_) if batch.is_some() => break,
                    Err(fault) => return Err(fault),
                }
            }
            let max = self.batch_max_events;
            let fits = |next: &mut StoredEvents| batch.as_ref().is_none_or(|batch| batch.takes(next, max));
            let Some(next) = self.read.pop_front_if(fits) else { break };
            self.after = Some(next.place);
            match &mut batch {
                Some(batch) => batch.push(next),
                None => batch = Some(Batch::new(next)),
            }
        }
        Ok(match batch {
            Some(batch) => Next::Batch(batch, !self.read.is_empty()),
            None => self.end(),
        })
    }

    /// False at the end of what waited when the queue was opened.
    fn read_on(&mut self) -> Result<bool, Unreadable> {
        if self.pages.is_none() {
            self.pages = self.source.open(&self.queue, self.after);
        }
        let Some(pages) = &mut self.pages else { return Ok(false) };
        self.read.extend(pages.next()?);
        Ok(!self.read.is_empty())
    }

    /// Nothing is left of what waited: the next look opens the queue anew.
    fn end(&mut self) -> Next {
        match self.pages.take().map(|pages| pages.end()).filter(|end| Some(*end) != self.after) {
            Some(end) => {
                self.after = Some(end);
                Next::Gone(end)
            }
            None => Next::Nothing,
        }
    }
}
