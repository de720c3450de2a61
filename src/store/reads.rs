//! Reads in their turn: what streams are asked for costs the one thread of the store time, and sends must not wait for it.
//!
//! * A turn of the store looks at [`SHARE`] records for readers, and one short read more at most: what that takes beyond
//!   the share is a debt of the next turns. What is left is done in the next turns, between which sends and
//!   acknowledgements go on.
//! * Questions are answered in order, but for long histories: of those [`WALKS`] are read side by side, each a part of
//!   its way in a turn, so that nobody waits for the longest; others wait in order, and no newcomer overtakes them.
//! * A question that waits is answered by what the log has when its turn comes, so what is delivered live meanwhile is
//!   in the answer: the order of a stream holds whenever it is read.

use std::collections::VecDeque;

use super::archive::Archive;
use super::office::Office;
use crate::base::tick::Now;
use crate::hub::api::{ApiAnswer, ApiCommand, ApiError, Position};
use crate::hub::mail::{HomeAsk, HomeOp, Origin};
use crate::hub::store::StoreAsk;
use crate::log::history::HistoryWalk;

/// Records that a turn looks at for readers: two to three milliseconds, and as much for long histories.
const SHARE: usize = 2048;

/// What a question costs at least, in records: finding the stream, and the letter.
const LEAST: usize = 8;

/// Long histories that are read side by side. Each may hold a page of 16 MiB.
const WALKS: usize = 8;

/// Questions that wait here before no more are taken: about 300 bytes each. A session has one under way at most.
const FAR_BEHIND: usize = 32_768;

/// Letters that may wait for the shards before nothing more is read: each may hold a page of messages.
const LETTERS_AHEAD: usize = 1024;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Reads {
    /// Records that a turn looks at.
    share: usize,
    /// What is left of that.
    pub(super) budget: usize,
    /// What was looked at beyond it: so much less in the next turns.
    debt: usize,
    /// The same of the share of long histories.
    long_debt: usize,
    /// In order; the first may have been begun.
    waiting: VecDeque<StoreAsk>,
    /// Long histories that have not been begun.
    long: VecDeque<HomeAsk>,
    /// Those that have.
    walks: VecDeque<Walk>,
}

/// A long history that is being read.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) channel: Box<str>,
    pub(super) origin: Origin,
    /// The top of the stream when the walk began.
    pub(super) position: Position,
    pub(super) is_long: bool,
    pub(super) way: HistoryWalk,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            share: SHARE,
            budget: SHARE,
            debt: 0,
            long_debt: 0,
            waiting: VecDeque::new(),
            long: VecDeque::new(),
            walks: VecDeque::new(),
        }
    }
}

impl Reads {
    /// True while nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Questions that have no answer yet.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.long.len() + self.walks.len()
    }

    /// True if a question must wait its turn.
    fn is_busy(&self) -> bool {
        self.budget == 0 || !self.waiting.is_empty()
    }

    /// So many records were looked at; what is beyond the share is owed.
    pub(super) fn charge(&mut self, records: usize) {
        self.debt = self.debt.saturating_add(records.saturating_sub(self.budget));
        self.budget = self.budget.saturating_sub(records);
    }

    /// A question was looked at, which is no debt: one that goes on turn by turn would owe for each.
    fn charge_question(&mut self) {
        self.budget = self.budget.saturating_sub(LEAST);
    }

    /// A new share, less what is owed.
    fn begin_share(&mut self) {
        self.budget = self.share.saturating_sub(self.debt);
        self.debt = self.debt.saturating_sub(self.share);
    }

    /// A question that is to go on first in the next turn.
    pub(super) fn put_off(&mut self, ask: StoreAsk) {
        self.waiting.push_front(ask);
    }

    /// True if a long history may be begun.
    fn has_room_for_walk(&self) -> bool {
        self.walks.len() < WALKS
    }

    /// True if it may be begun before those that wait.
    pub(super) fn has_room_for_newcomer(&self) -> bool {
        self.walks.len().saturating_add(self.long.len()) < WALKS
    }

    /// A long history that is to be begun when others are done.
    pub(super) fn queue(&mut self, ask: HomeAsk) {
        self.long.push_back(ask);
    }

    /// A long history goes on in the next turn.
    pub(super) fn walk_on(&mut self, walk: Walk) {
        self.walks.push_back(walk);
    }
}

impl<A: Archive> Office<A> {
    /// True while readers can be served: the next turn is to come at once.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        !self.reads.is_empty() && !self.is_ahead()
    }

    /// True while nothing more should be asked: too many readers wait, or the shards do not take the answers.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.reads.len() >= FAR_BEHIND || self.is_ahead()
    }

    fn is_ahead(&self) -> bool {
        self.letters() >= LETTERS_AHEAD
    }

    /// Sets how many records a turn looks at for readers, and as many for long histories; at least one.
    pub fn set_reading_share(&mut self, records: usize) {
        self.reads.share = records.max(1);
        self.reads.budget = self.reads.budget.min(self.reads.share);
    }

    /// Takes in one question, or keeps it for later if it reads and others are before it.
    pub(super) fn take_in_turn(&mut self, ask: StoreAsk, now: Now) {
        let reads = is_read(&ask);
        if reads && self.reads.is_busy() && !self.is_ending {
            return self.reads.waiting.push_back(ask);
        }
        self.take(ask, now);
        if reads {
            self.reads.charge_question();
        }
    }

    /// A turn's part of everything that is to be read.
    pub(super) fn go_on_reading(&mut self, now: Now) {
        self.reads.begin_share();
        if self.is_ahead() {
            return;
        }
        while self.reads.budget > 0
            && let Some(ask) = self.reads.waiting.pop_front()
        {
            self.take(ask, now);
            self.reads.charge_question();
        }
        let left = self.reads.budget;
        std::mem::swap(&mut self.reads.debt, &mut self.reads.long_debt);
        self.reads.begin_share();
        self.walk_all(now);
        std::mem::swap(&mut self.reads.debt, &mut self.reads.long_debt);
        self.reads.budget = left;
    }

    /// A turn's part of the long histories: those that were begun share it, others begin with what is left.
    fn walk_all(&mut self, now: Now) {
        for to_come in (1..=self.reads.walks.len()).rev() {
            let Some(mut walk) = self.reads.walks.pop_front() else { break };
            let budget = self.reads.budget;
            let share = budget.div_ceil(to_come);
            self.reads.budget = share;
            walk.way.resume();
            self.walk(walk);
            self.reads.budget = budget.saturating_sub(share - self.reads.budget);
        }
        self.reads.budget = self.reads.budget.max(1);
        while self.reads.has_room_for_walk()
            && self.reads.budget > 0
            && let Some(ask) = self.reads.long.pop_front()
        {
            self.read_if_room(ask, true, now);
            self.reads.charge_question();
        }
    }

    /// The process ends: nobody waits any more but callers of the server API.
    pub(super) fn end_reading(&mut self) {
        self.reads.long.clear();
        self.reads.walks.clear();
        for ask in std::mem::take(&mut self.reads.waiting) {
            if let StoreAsk::Api(ask) = ask {
                self.answer(ask.id, ApiAnswer::Error(ApiError::StorageUnavailable));
            }
        }
    }
}

/// True for what looks at the records of a stream.
fn is_read(ask: &StoreAsk) -> bool {
    match ask {
        StoreAsk::Open(_) | StoreAsk::More(_) | StoreAsk::Redeliver(_) => true,
        StoreAsk::History(ask) => matches!(ask.op, HomeOp::Subscribe(_) | HomeOp::History { .. }),
        StoreAsk::Api(ask) => matches!(ask.command, ApiCommand::MailboxList { .. }),
        StoreAsk::Acknowledge(_) | StoreAsk::Events(_) | StoreAsk::Delivered(_) => false,
    }
}
