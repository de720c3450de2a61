//! What an operator should hear of, for whoever writes the process's log: this layer writes none.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::error::StorageError;
use super::scan::Damage;

/// Notices that wait to be taken; of more only the number is kept.
const MOST: usize = 64;

/// Something that happened while the log was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Messages are refused from here on.
    Refusing {
        /// Why.
        error: StorageError,
        /// Where the log ends.
        end: End,
    },
    /// Messages are taken again.
    Storing,
    /// A write or a sync failed, and the segment takes no more.
    GaveUp {
        /// Why.
        error: StorageError,
        /// What was written from here on was answered with an error.
        end: End,
    },
    /// Damage was found in a segment, which is in quarantine now.
    Quarantined(Damage),
}

/// Where the log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Id of the segment; 0 if there is none.
    pub segment: u64,
    /// Where in its file.
    pub offset: u64,
}

/// Notices that wait to be taken.
#[derive(Debug, Default)]
pub(super) struct Notices {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    notices: VecDeque<Notice>,
    left_out: u64,
}

impl Notices {
    pub(super) fn add(&self, notice: Notice) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.notices.len() < MOST {
            waiting.notices.push_back(notice);
        } else {
            waiting.left_out = waiting.left_out.saturating_add(1);
        }
    }

    /// All of them, and how many more there were.
    pub(super) fn take(&self) -> (Vec<Notice>, u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        (waiting.notices.drain(..).collect(), std::mem::take(&mut waiting.left_out))
    }
}
