//! Watches the memory of the process, once a second: tells the shards how near the limit is, and gives memory back to
//! the system after many connections left.
//!
//! What a shard frees stays with the allocator, which keeps it for the next connection. That is right while
//! connections come and go, and wrong after a mass departure: then the shards are asked to give their pools back, and two
//! seconds later, and twice more, every free page of every arena is returned. That holds each arena's lock for
//! milliseconds, so it is done only once the number of connections has halved and does not fall any further, or when
//! memory runs short.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::app::heap;
use crate::hub::pressure::PressureLevel;
use crate::hub::shard::Common;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Fewer connections than this hold no memory worth returning.
const WORTH_RETURNING: u32 = 1000;

/// Looks after which memory is returned, counted from the request to the shards. Each of them answers within a second; on
/// a busy host the letters of a departure may take longer, and what they free is returned by the later ones.
const RETURNED_AFTER: [u32; 3] = [2, 5, 10];

/// Starts the watch. It ends by itself after the last shard has gone.
pub(super) fn watch(common: &Arc<Common>, limit: u64) -> io::Result<()> {
    let common = Arc::downgrade(common);
    std::thread::Builder::new()
        .name("memory".into())
        .stack_size(128 * 1024)
        .spawn(move || run(&common, limit))?;
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "this thread does nothing but wait and look")]
fn run(common: &Weak<Common>, limit: u64) {
    let mut departures = Departures::default();
    let mut level = PressureLevel::Calm;
    let mut looks = u32::MAX;
    loop {
        std::thread::sleep(INTERVAL);
        let Some(common) = common.upgrade() else { return };
        looks = looks.saturating_add(1);
        if RETURNED_AFTER.contains(&looks) {
            heap::trim();
        }
        let now = match resident_bytes() {
            Some(used) => common.admission.pressure.note(used, limit, common.shards),
            None => PressureLevel::Calm,
        };
        if now != level {
            tracing::warn!(level = ?now, limit, "memory pressure");
        }
        if departures.look(common.admission.connections()) || now > level {
            common.admission.pressure.ask_to_shrink();
            looks = 0;
        }
        level = now;
    }
}

/// Notices that many connections have left.
#[derive(Debug, Default)]
struct Departures {
    /// Most connections since memory was returned last.
    peak: u32,
    last: u32,
}

impl Departures {
    /// True if memory should be returned now.
    fn look(&mut self, connections: u32) -> bool {
        let settled = connections >= self.last;
        self.last = connections;
        self.peak = self.peak.max(connections);
        if self.peak < WORTH_RETURNING || connections > self.peak / 2 || !settled {
            return false;
        }
        self.peak = connections;
        true
    }
}

/// Resident bytes; `None` where `/proc` is not mounted.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages = statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_returned_once_after_a_departure_has_settled() {
        let mut departures = Departures::default();
        let mut look = |connections| departures.look(connections);
        assert!(!look(100_000) && !look(60_000), "not yet half");
        assert!(!look(40_000) && !look(10_000), "still leaving");
        assert!(look(10_000), "settled");
        assert!(!look(10_000) && !look(9_000) && !look(9_000), "once");
        assert!(!look(4_000) && look(4_000), "and again");
    }

    #[test]
    fn few_connections_are_not_worth_it() {
        let mut departures = Departures::default();
        assert!(![999, 0, 0].into_iter().any(|connections| departures.look(connections)));
    }

    #[test]
    fn the_process_has_a_size() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
    }
}
