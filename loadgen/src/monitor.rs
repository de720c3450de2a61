//! What a run costs: memory and CPU of the server and of the generator, and kernel memory per slab cache.
//!
//! All of it comes from files of `/proc` that are cheap to read. `/proc/PID/fd` is never listed: that alone would cost
//! the kernel 920 B per connection.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::kernel;

/// What a process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Anonymous resident memory, in bytes: what the process itself allocated.
    pub rss_anon: u64,
    /// All resident memory, in bytes.
    pub rss: u64,
    /// CPU time, user and system, in seconds.
    pub cpu_s: f64,
    /// Threads.
    pub threads: u64,
}

/// Reads what processes use.
#[derive(Debug, Clone, Default)]
pub struct ProcessWatch {
    pids: Vec<u32>,
}

impl ProcessWatch {
    /// Watches `pids` as one, as for a server of several processes.
    #[must_use]
    pub fn new(pids: &[u32]) -> Self {
        Self { pids: pids.to_vec() }
    }

    /// What they use now; `None` if there are none, or one of them has gone.
    #[must_use]
    pub fn sample(&self) -> Option<Usage> {
        let mut sum = Usage::default();
        for pid in &self.pids {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            sum.rss_anon += kilobytes(&status, "RssAnon:").unwrap_or(0);
            sum.rss += kilobytes(&status, "VmRSS:").unwrap_or(0);
            sum.threads += number(&status, "Threads:").unwrap_or(0);
            sum.cpu_s += cpu_seconds(&stat)?;
        }
        (!self.pids.is_empty()).then_some(sum)
    }
}

fn number(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

fn kilobytes(status: &str, field: &str) -> Option<u64> {
    number(status, field).map(|kilobytes| kilobytes * 1024)
}

/// User and system time of `/proc/PID/stat`: fields 14 and 15, counted behind the command's closing parenthesis, which
/// may itself hold spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / kernel::ticks_per_second() as f64)
}

/// Bytes of kernel memory per slab cache; empty where `/proc/slabinfo` may not be read.
#[must_use]
pub fn slab() -> BTreeMap<String, u64> {
    parse_slab(&fs::read_to_string("/proc/slabinfo").unwrap_or_default())
}

fn parse_slab(text: &str) -> BTreeMap<String, u64> {
    let entry = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let (objects, slabs) = (rest.split(" : ").next()?, rest.rsplit(" : ").next()?);
        let pages: u64 = objects.split_whitespace().nth(4)?.parse().ok()?;
        // slabdata <active_slabs> <num_slabs> <sharedavail>
        let count: u64 = slabs.split_whitespace().nth(2)?.parse().ok()?;
        Some((name.to_owned(), count * pages * 4096))
    };
    text.lines().skip(2).filter_map(entry).collect()
}

/// The caches that grew by at least `floor` bytes, and by how much.
#[must_use]
pub fn growth(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    floor: u64,
) -> BTreeMap<String, u64> {
    let grown = |(name, &bytes): (&String, &u64)| {
        let more = bytes.saturating_sub(before.get(name).copied().unwrap_or(0));
        (more >= floor).then(|| (name.clone(), more))
    };
    after.iter().filter_map(grown).collect()
}

/// A value of `/proc/meminfo`, in bytes.
#[must_use]
pub fn memory(field: &str) -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, field)
}

/// How long threads of this process ran, and how long they were ready to run but had no core.
#[must_use]
pub fn scheduling(thread_ids: &[i32]) -> Vec<(Duration, Duration)> {
    let of = |thread: &i32| {
        let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap_or_default();
        let mut fields =
            text.split_whitespace().map(|field| Duration::from_nanos(field.parse().unwrap_or(0)));
        (fields.next().unwrap_or_default(), fields.next().unwrap_or_default())
    };
    thread_ids.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_watched() {
        let usage = ProcessWatch::new(&[std::process::id()]).sample().unwrap();
        assert!(usage.rss > 100_000 && usage.rss_anon <= usage.rss && usage.threads >= 1);
        assert_eq!(ProcessWatch::default().sample(), None);
    }

    #[test]
    fn the_command_may_hold_spaces_and_parentheses() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        let seconds = 200.0 / kernel::ticks_per_second() as f64;
        assert_eq!(cpu_seconds(stat), Some(seconds));
    }

    #[test]
    fn slab_caches_are_counted_in_whole_slabs() {
        let text = "slabinfo - version: 2.1\n# name\n\
                    TCP   100 104 2496 13 8 : tunables 0 0 0 : slabdata 8 8 0\n\
                    sock  10 10 64 64 1 : tunables 0 0 0 : slabdata 1 1 0\n";
        let after = parse_slab(text);
        assert_eq!(after["TCP"], 8 * 8 * 4096);
        assert_eq!(growth(&BTreeMap::new(), &after, 10_000).len(), 1);
    }
}
