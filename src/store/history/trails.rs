//! The ways through long histories that are being read page by page; of those beyond a bound the one longest unused is
//! forgotten.

use std::collections::VecDeque;

use crate::limits;
use crate::log::history::Trail;

/// See the module documentation. The last one was used last.
#[derive(Debug, Default)]
pub(super) struct Trails {
    trails: VecDeque<(Box<str>, Trail)>,
}

impl Trails {
    /// The way through a channel's history, an empty one if there is none.
    pub(super) fn take(&mut self, channel: &str) -> Trail {
        let at = self.trails.iter().position(|(name, _)| **name == *channel);
        at.and_then(|at| self.trails.remove(at)).map(|(_, trail)| trail).unwrap_or_default()
    }

    /// Gives it back.
    pub(super) fn put(&mut self, channel: &str, trail: Trail) {
        if self.trails.len() >= limits::HISTORY_TRAILS {
            self.trails.pop_front();
        }
        self.trails.push_back((channel.into(), trail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_used_last_are_remembered() {
        let mut trails = Trails::default();
        for number in 0..3 * limits::HISTORY_TRAILS {
            let kept = trails.take("kept");
            trails.put("kept", kept);
            trails.put(&number.to_string(), Trail::default());
        }
        assert_eq!(trails.trails.len(), limits::HISTORY_TRAILS);
        assert!(trails.trails.iter().any(|(name, _)| **name == *"kept"));
        assert!(trails.trails.iter().all(|(name, _)| **name != *"0"));
    }
}
