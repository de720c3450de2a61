//! What the operating system says about this process. Reads two small files of `/proc/self` (never its `fd`, which
//! would cost the kernel 920 B for every open socket).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Measures CPU between two looks.
pub(crate) struct ProcessMeter {
    last: Mutex<(Instant, Duration)>,
}

/// One look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessFigures {
    /// User and system time since start.
    pub(crate) cpu_time: Duration,
    /// Percent of one core since the previous look.
    pub(crate) cpu_percent: f64,
    /// Resident bytes.
    pub(crate) rss: u64,
}

/// `USER_HZ` of Linux, fixed by its ABI.
const CLOCK_TICKS_PER_SECOND: u64 = 100;

impl ProcessMeter {
    pub(crate) fn new() -> Self {
        Self { last: Mutex::new((Instant::now(), cpu_time().unwrap_or_default())) }
    }

    /// `None` where `/proc` is not mounted.
    pub(crate) fn look(&self) -> Option<ProcessFigures> {
        let (now, cpu_time, rss) = (Instant::now(), cpu_time()?, rss()?);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, used) = (now - last.0, cpu_time.saturating_sub(last.1));
        *last = (now, cpu_time);
        let cpu_percent = if wall.is_zero() { 0.0 } else { 100.0 * used.as_secs_f64() / wall.as_secs_f64() };
        Some(ProcessFigures { cpu_time, cpu_percent, rss })
    }
}

fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything; the 14th and 15th are times.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / CLOCK_TICKS_PER_SECOND))
}

fn rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim_end().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_its_time_only_grows() {
        let meter = ProcessMeter::new();
        let first = meter.look().unwrap();
        let second = meter.look().unwrap();
        assert!(first.rss > 100_000 && first.rss < 1 << 40, "{first:?}");
        assert!(second.cpu_time >= first.cpu_time);
    }
}
