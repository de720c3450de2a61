//! What is refused, sampled into the log: at most a line a second and kind, with how many there were. The same thread
//! looks after shards that stand still ([`Watchdog`]).
//!
//! The shards only count; this thread reads their figures. So a flood of bad input costs the shards nothing but the
//! counting, and the log a bounded number of lines. Nothing of the input is written.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::app::watchdog::{LOOK, Watchdog};
use crate::base::heartbeat::Heartbeats;
use crate::hub::metrics::{DISCONNECT_CODES, Refusal, ShardMetrics};

/// Looks of the watchdog between two samples: a second, as the shards hand out their figures once in it.
const LOOKS_PER_SAMPLE: u32 = 4;

/// Close codes that tell of bad input: framing, commands too fast (or newcomers too many), and what the client protocol
/// calls terminal.
const TELLING: [std::ops::RangeInclusive<u16>; 3] = [1002..=1009, 3013..=3013, 3500..=3509];

/// Starts the thread that writes the lines.
///
/// # Errors
/// If the thread cannot be made.
pub(super) fn sample(
    figures: &Arc<Vec<Mutex<ShardMetrics>>>,
    hearts: &Arc<Heartbeats>,
    shards: u16,
) -> io::Result<()> {
    let (figures, hearts) = (Arc::clone(figures), Arc::clone(hearts));
    let (mut seen, mut watchdog) = (Counts::default(), Watchdog::default());
    std::thread::Builder::new().name("refusals".to_owned()).stack_size(128 * 1024).spawn(move || {
        loop {
            for _ in 0..LOOKS_PER_SAMPLE {
                std::thread::park_timeout(LOOK);
                watchdog.look(&hearts, shards);
            }
            let now = Counts::of(&figures);
            now.tell(&seen);
            seen = now;
        }
    })?;
    Ok(())
}

/// Sums over all shards.
#[derive(Default)]
struct Counts {
    refusals: [u64; Refusal::COUNT],
    disconnects: [u64; DISCONNECT_CODES.len()],
}

impl Counts {
    fn of(figures: &[Mutex<ShardMetrics>]) -> Self {
        let mut counts = Self::default();
        for shard in figures {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            add(&mut counts.refusals, &shard.refusals);
            add(&mut counts.disconnects, &shard.disconnects);
        }
        counts
    }

    fn tell(&self, before: &Self) {
        let fresh = |now: u64, before: u64| Some(now.saturating_sub(before)).filter(|count| *count > 0);
        for (index, reason) in Refusal::ALL.iter().enumerate() {
            if let Some(count) = fresh(self.refusals[index], before.refusals[index]) {
                tracing::warn!(reason = reason.label(), count, "refused");
            }
        }
        for (index, code) in DISCONNECT_CODES.iter().enumerate() {
            if let Some(count) = fresh(self.disconnects[index], before.disconnects[index])
                && TELLING.iter().any(|codes| codes.contains(code))
            {
                tracing::warn!(code, count, "closed");
            }
        }
    }
}

fn add(sums: &mut [u64], more: &[u64]) {
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum += more;
    }
}
