//! Signals and the way out: stop accepting, disconnect everybody over a window, end.
//!
//! | signal | window |
//! |---|---|
//! | first SIGTERM or SIGINT | the shutdown timeout, less where few are connected |
//! | second | at most 5 s |
//! | third | none |
//!
//! SIGHUP ends nothing: it asks to look at the configuration again, and is passed over during a drain.

use std::io;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals as SignalIterator;

use super::Running;
use crate::base::ids::ShardId;
use crate::base::mesh::Mesh;
use crate::base::tick::ticks_from_ms;
use crate::hub::mail::Mail;

/// Disconnects a second that no herd of returning clients is made of.
const GENTLE_RATE: u32 = 1000;

/// Window after the second signal.
const HASTY: Duration = Duration::from_secs(5);

/// How long closing handshakes and last writes may take beyond the window.
const GRACE: Duration = Duration::from_secs(2);

/// Pause between looks at the shards' threads.
const PAUSE: Duration = Duration::from_millis(20);

/// The signals that the process listens to.
pub(super) struct Signals(std::sync::Mutex<SignalIterator>);

impl Signals {
    /// Takes the signals over. Before any shard starts: the pipe behind it must not be made on a private table.
    pub(super) fn register() -> io::Result<Self> {
        Ok(Self(std::sync::Mutex::new(SignalIterator::new([SIGTERM, SIGINT, SIGHUP])?)))
    }

    /// Waits for the next signal to end.
    fn wait(&self, on_hang_up: &dyn Fn()) {
        let Ok(mut signals) = self.0.lock() else { return };
        for signal in signals.forever() {
            if signal != SIGHUP {
                return;
            }
            on_hang_up();
        }
    }

    /// True if a signal to end came since the last look.
    fn came(&self) -> bool {
        self.0.lock().is_ok_and(|mut signals| signals.pending().any(|signal| signal != SIGHUP))
    }
}

/// Waits for a signal, then drains.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the shell of the process: its clock and its pauses are here"
)]
pub(super) fn wait(signals: &Signals, running: Running, timeout: Duration, on_hang_up: &dyn Fn()) {
    signals.wait(on_hang_up);
    running.readiness.end();
    let connected = running.common.admission.connections();
    let gentle = Duration::from_millis(u64::from(connected) * 1000 / u64::from(GENTLE_RATE));
    let mut window = timeout.min(gentle);
    tracing::info!(connected, seconds = window.as_secs_f32(), "shutting down");
    let everybody = || (0..running.common.shards).map(ShardId).collect();
    let mut untold = tell(&running, everybody(), window);
    let mut deadline = Instant::now() + window + GRACE;
    let mut hastened = false;
    while running.shards.iter().any(|shard| !shard.is_finished()) && Instant::now() < deadline {
        std::thread::sleep(PAUSE);
        if signals.came() {
            window = if hastened { Duration::ZERO } else { window.min(HASTY) };
            hastened = true;
            untold = everybody();
            deadline = deadline.min(Instant::now() + window + GRACE);
        }
        if !untold.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(GRACE);
            untold = tell(&running, untold, left);
        }
    }
    for shard in running.shards.into_iter().filter(|shard| shard.is_finished()) {
        if let Ok(Err(error)) = shard.join() {
            tracing::error!(%error, "a shard has failed");
        }
    }
    if let Some(Err(error)) = running.store.map(crate::store::thread::Store::stop) {
        tracing::error!(%error, "the log was not closed in an orderly way; the next start recovers it");
    }
    running.control.stop();
    tracing::info!("stopped");
}

/// Tells shards to drain within what is left of the window, and those that end. Returns those whose inbox is full: they
/// are told later, however long they stand still, and nobody waits for them.
fn tell(running: &Running, shards: Vec<ShardId>, window: Duration) -> Vec<ShardId> {
    let ends = |shard: &ShardId| running.shards.get(usize::from(shard.0)).is_none_or(|of| of.is_finished());
    let shards = shards.into_iter().filter(|shard| !ends(shard)).collect();
    let untold = send(&running.mesh, shards, window);
    for shard in (0..running.common.shards).map(ShardId) {
        running.wakers.wake(shard);
    }
    untold
}

fn send(mesh: &Mesh<Mail>, shards: Vec<ShardId>, window: Duration) -> Vec<ShardId> {
    let window_ticks = ticks_from_ms(u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
    shards.into_iter().filter(|shard| mesh.push(*shard, Mail::Drain { window_ticks }).is_err()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_shard_with_a_full_inbox() {
        let mesh = Mesh::new(3, 2);
        for _ in 0..2 {
            mesh.push(ShardId(1), Mail::Drain { window_ticks: 7 }).expect("room");
        }
        let untold = send(&mesh, (0..3).map(ShardId).collect(), Duration::from_secs(3));
        assert_eq!(untold, [ShardId(1)]);
        assert_eq!([0, 1, 2].map(|shard| mesh.len(ShardId(shard))), [1, 2, 1]);
        assert!(mesh.pop(ShardId(1)).is_some());
        assert_eq!(send(&mesh, untold, Duration::ZERO), []);
    }
}
