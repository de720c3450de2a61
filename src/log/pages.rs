//! Pages of streams for readers who come for one at a time.
//!
//! A stream is a chain from its newest record back, so a reader who begins anew for each page would walk over everything
//! that it has not read yet each time. Here the replays that are under way are remembered, so that going on costs a page.
//!
//! Invariant: a page is the same with and without what is remembered, but for records that came meanwhile.

use std::collections::VecDeque;

use super::error::ReadError;
use super::reader::{Reader, Replay, Stored};
use super::record::Class;

/// Replays that are remembered at most; of more, the one that was idle longest is forgotten and begins anew. Each takes
/// 200 bytes and 8 more for each of its pages.
const REMEMBERED: usize = 256;

/// Replays under way.
#[derive(Debug, Default)]
pub struct Pages {
    /// Idle longest first.
    replays: VecDeque<Replay>,
}

/// One page.
#[derive(Clone, Debug, Default)]
pub struct StreamPage {
    /// In order.
    pub messages: Vec<Stored>,
    /// Nothing follows.
    pub is_last: bool,
    /// Messages that are damaged and left out, here or on a later page.
    pub damaged: u64,
}

impl Pages {
    /// At most `page` messages of a stream behind `after` that have not expired at `now` (seconds since 1970). `None` if
    /// the way there is longer than `budget` links: the same question goes on from there. `budget` is what is left of it
    /// afterwards; the messages of the page count too.
    ///
    /// # Errors
    /// [`ReadError::Storage`] if the file system fails.
    pub fn read(
        &mut self,
        reader: &Reader,
        (class, name): (Class, &str),
        after: u64,
        page: usize,
        now: u32,
        budget: &mut usize,
    ) -> Result<Option<StreamPage>, ReadError> {
        let page = page.max(1);
        let remembered = self.resume((class, name), after, page, now);
        let Some(mut replay) = remembered.or_else(|| reader.begin_replay(class, name, after, page, now))
        else {
            return Ok(Some(StreamPage { is_last: true, ..StreamPage::default() }));
        };
        if !replay.survey(budget) {
            self.remember(replay);
            return Ok(None);
        }
        let messages = replay.next_page()?;
        *budget = budget.saturating_sub(messages.len());
        let is_last = replay.is_finished() && !replay.is_outgrown();
        let damaged = replay.skipped_damaged();
        // A damaged stream is surveyed each time, so that the count is that of what follows.
        if !replay.is_finished() && damaged == 0 {
            self.remember(replay);
        }
        Ok(Some(StreamPage { messages, is_last, damaged }))
    }

    fn remember(&mut self, replay: Replay) {
        if self.replays.len() >= REMEMBERED {
            self.replays.pop_front();
        }
        self.replays.push_back(replay);
    }

    /// Replays that are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.replays.len()
    }

    fn resume(&mut self, (class, name): (Class, &str), after: u64, page: usize, now: u32) -> Option<Replay> {
        let mine = |replay: &mut Replay| replay.is_of(class, name, page) && replay.resume(after, now);
        let place = self.replays.iter_mut().position(mine)?;
        self.replays.remove(place)
    }
}
