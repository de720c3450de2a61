//! Signals and the way out: stop accepting, disconnect everybody over a window, end.
//!
//! | signal | window |
//! |---|---|
//! | first SIGTERM or SIGINT | the shutdown timeout, less where few are connected |
//! | second | at most 5 s |
//! | third | none |

use std::io;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals as SignalIterator;

use super::Running;
use crate::base::ids::ShardId;
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

/// The signals that end the process.
pub(super) struct Signals(std::sync::Mutex<SignalIterator>);

impl Signals {
    /// Takes the signals over. Before any shard starts: the pipe behind it must not be made on a private table.
    pub(super) fn register() -> io::Result<Self> {
        Ok(Self(std::sync::Mutex::new(SignalIterator::new([SIGTERM, SIGINT])?)))
    }

    /// Waits for the next signal.
    fn wait(&self) {
        if let Ok(mut signals) = self.0.lock() {
            signals.forever().next();
        }
    }

    /// True if a signal came since the last look.
    fn came(&self) -> bool {
        self.0.lock().is_ok_and(|mut signals| signals.pending().next().is_some())
    }
}

/// Waits for a signal, then drains.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the shell of the process: its clock and its pauses are here"
)]
pub(super) fn wait(signals: &Signals, running: Running, timeout: Duration) {
    signals.wait();
    running.readiness.end();
    let connected = running.common.admission.connections();
    let gentle = Duration::from_millis(u64::from(connected) * 1000 / u64::from(GENTLE_RATE));
    let mut window = timeout.min(gentle);
    tracing::info!(connected, seconds = window.as_secs_f32(), "shutting down");
    tell(&running, window);
    let mut deadline = Instant::now() + window + GRACE;
    let mut hastened = false;
    while running.shards.iter().any(|shard| !shard.is_finished()) && Instant::now() < deadline {
        std::thread::sleep(PAUSE);
        if signals.came() {
            window = if hastened { Duration::ZERO } else { window.min(HASTY) };
            hastened = true;
            tell(&running, window);
            deadline = deadline.min(Instant::now() + window + GRACE);
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

fn tell(running: &Running, window: Duration) {
    let window_ticks = ticks_from_ms(u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
    for (shard, thread) in (0..running.common.shards).map(ShardId).zip(&running.shards) {
        let wake = || {
            running.wakers.wake(shard);
            std::thread::yield_now();
        };
        insist(
            Mail::Drain { window_ticks },
            |mail| running.mesh.push(shard, mail),
            || thread.is_finished(),
            wake,
        );
        running.wakers.wake(shard);
    }
}

/// Delivers a letter however long its reader takes, unless that has ended: then nobody makes room any more.
fn insist(
    mut mail: Mail,
    push: impl Fn(Mail) -> Result<(), Mail>,
    has_ended: impl Fn() -> bool,
    wait: impl Fn(),
) {
    while !has_ended()
        && let Err(back) = push(mail)
    {
        mail = back;
        wait();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_reader_is_waited_for_until_it_ends() {
        let (waits, taken) = (Cell::new(0), Cell::new(0));
        let takes_at = |turn| {
            let (waits, taken) = (&waits, &taken);
            move |mail| {
                if waits.get() < turn {
                    return Err(mail);
                }
                taken.set(taken.get() + 1);
                Ok(())
            }
        };
        let ends_at = |turn| {
            let waits = &waits;
            move || waits.get() >= turn
        };
        let wait = || waits.set(waits.get() + 1);
        insist(Mail::Drain { window_ticks: 1 }, takes_at(5), ends_at(100), wait);
        assert_eq!((waits.get(), taken.get()), (5, 1));
        waits.set(0);
        insist(Mail::Drain { window_ticks: 1 }, takes_at(100), ends_at(5), wait);
        assert_eq!((waits.get(), taken.get()), (5, 1), "its inbox stays full for good");
    }
}
