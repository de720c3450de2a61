//! Mail of the store, in order per shard until the shell moves it into the bounded inboxes.

use std::collections::VecDeque;

use crate::base::ids::ShardId;
use crate::hub::mail::{Answer, Mail};

/// Letters to one shard beyond which nothing new is stored: the shard is far behind.
const FAR_BEHIND: usize = 16_384;

/// Letters that an emptied queue keeps room for.
const KEPT_CAPACITY: usize = 64;

/// Mail that has not left yet.
#[derive(Debug)]
pub(super) struct Letters {
    shards: Vec<VecDeque<Mail>>,
    answers: VecDeque<Answer>,
}

impl Letters {
    pub(super) fn new(shards: u16) -> Self {
        Self { shards: (0..shards).map(|_| VecDeque::new()).collect(), answers: VecDeque::new() }
    }

    pub(super) fn send(&mut self, to: ShardId, mail: Mail) {
        if let Some(queue) = self.shards.get_mut(usize::from(to.0)) {
            queue.push_back(mail);
        }
    }

    pub(super) fn answer(&mut self, answer: Answer) {
        self.answers.push_back(answer);
    }

    /// True while a shard is so far behind that nothing new should be stored.
    pub(super) fn is_congested(&self) -> bool {
        self.shards.iter().any(|queue| queue.len() >= FAR_BEHIND)
    }

    /// Letters and answers that wait.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(VecDeque::len).sum::<usize>() + self.answers.len()
    }

    /// Hands letters out, in order for each shard, until `accept` gives one back. Returns how many left.
    pub(super) fn drain(&mut self, mut accept: impl FnMut(ShardId, Mail) -> Result<(), Mail>) -> usize {
        let mut left = 0;
        for (shard, queue) in (0..).map(ShardId).zip(&mut self.shards) {
            while let Some(mail) = queue.pop_front() {
                if let Err(mail) = accept(shard, mail) {
                    queue.push_front(mail);
                    break;
                }
                left += 1;
            }
            if queue.is_empty() && queue.capacity() > KEPT_CAPACITY {
                queue.shrink_to(KEPT_CAPACITY);
            }
        }
        left
    }

    /// Answers for the control plane.
    pub(super) fn take_answers(&mut self) -> impl Iterator<Item = Answer> {
        std::mem::take(&mut self.answers).into_iter()
    }
}
