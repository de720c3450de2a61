//! What this host lets the generator do, checked before a run: descriptors, ports, memory, CPU.

use std::fmt;
use std::fs;
use std::time::Duration;

use crate::clock::Clock;
use crate::kernel;
use crate::monitor;
use crate::source::{self, Routes};
use crate::token::Minter;

/// Descriptors of a table that are not connections: standard streams, pollers, wakers, files of /proc.
pub const DESCRIPTOR_RESERVE: u64 = 512;
/// Kernel memory of one end of an idle connection (figures.md).
const KERNEL_BYTES: u64 = 4_100;
/// Memory that is left to everybody else.
const MEMORY_RESERVE: u64 = 512 << 20;

/// What bounds the generator here.
#[derive(Debug, Clone, PartialEq)]
pub struct SelfCheck {
    /// Each bound in connections, and in words.
    pub bounds: Vec<Bound>,
    /// What the caller wants.
    pub wanted: u64,
    /// Cores this process may use.
    pub cores: usize,
    /// Tokens one core signs in a second.
    pub tokens_per_second: u64,
}

/// One bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Connections.
    pub connections: u64,
    /// What it is.
    pub what: String,
}

impl SelfCheck {
    /// Looks at this host. `local_server` says that the server's end of each connection is on this host too.
    #[must_use]
    pub fn look(routes: &Routes, wanted: u32, local_server: bool, client_bytes: u64) -> Self {
        let bounds = vec![
            ports(routes),
            memory(local_server, client_bytes),
            threads(),
            files(local_server),
            tracked(),
        ];
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let bounds = bounds.into_iter().flatten().collect();
        Self { bounds, wanted: u64::from(wanted), cores, tokens_per_second: token_rate() }
    }

    /// The connections that this host can generate.
    #[must_use]
    pub fn possible(&self) -> u64 {
        self.bounds.iter().map(|bound| bound.connections).min().unwrap_or(u64::MAX)
    }

    /// Whether it can generate what is wanted.
    #[must_use]
    pub fn suffices(&self) -> bool {
        self.possible() >= self.wanted
    }
}

impl fmt::Display for SelfCheck {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "This host can generate {} connections; wanted: {}.", self.possible(), self.wanted)?;
        let mut bounds: Vec<_> = self.bounds.iter().collect();
        bounds.sort_by_key(|bound| bound.connections);
        for bound in bounds {
            let mark = if bound.connections < self.wanted { "BOUND" } else { "ok" };
            writeln!(out, "  {mark:5} {:>12}  {}", bound.connections, bound.what)?;
        }
        let (cores, tokens) = (self.cores, self.tokens_per_second);
        write!(
            out,
            "  {cores} cores, shared with a server on the same host; one core signs {tokens} tokens/s"
        )
    }
}

/// Workers needed for `connections` under the descriptor limit.
#[must_use]
pub fn workers_needed(connections: u32, descriptor_limit: u64) -> u32 {
    let each = descriptor_limit.saturating_sub(DESCRIPTOR_RESERVE).max(1);
    u32::try_from(u64::from(connections).div_ceil(each)).unwrap_or(u32::MAX).max(1)
}

fn ports(routes: &Routes) -> Option<Bound> {
    let ports = source::ephemeral_ports();
    let (sources, destinations) = (routes.sources().max(1), routes.destinations().len());
    let what = format!("{ports} ports x {sources} source addresses x {destinations} destinations");
    Some(Bound { connections: routes.capacity(ports), what })
}

fn memory(local_server: bool, client_bytes: u64) -> Option<Bound> {
    let available = monitor::memory("MemAvailable:")?;
    let ends = if local_server { 2 } else { 1 };
    let each = KERNEL_BYTES * ends + client_bytes;
    let connections = available.saturating_sub(MEMORY_RESERVE) / each;
    let megabytes = available >> 20;
    let what =
        format!("{megabytes} MiB available, {each} B per connection (without the server's own memory)");
    Some(Bound { connections, what })
}

/// Each worker is a thread with a table of its own.
fn threads() -> Option<Bound> {
    let (_, hard) = kernel::descriptor_limits();
    let each = hard.saturating_sub(DESCRIPTOR_RESERVE);
    let most = number("/proc/sys/kernel/threads-max")?.min(2_000);
    let what = format!("{each} connections per descriptor table (hard limit {hard}), up to {most} workers");
    Some(Bound { connections: each.saturating_mul(most), what })
}

fn files(local_server: bool) -> Option<Bound> {
    let text = fs::read_to_string("/proc/sys/fs/file-nr").ok()?;
    let mut fields = text.split_whitespace().filter_map(|field| field.parse::<u64>().ok());
    let (used, most) = (fields.next()?, fields.nth(1)?);
    let ends = if local_server { 2 } else { 1 };
    let what = format!("fs.file-max {most}, of which {used} are open");
    Some(Bound { connections: most.saturating_sub(used) / ends, what })
}

/// Where a firewall keeps track of connections, loopback included, its table is a bound too. A table that holds none of
/// this host's connections is loaded but not in use.
fn tracked() -> Option<Bound> {
    let most = number("/proc/sys/net/netfilter/nf_conntrack_max")?;
    let used = number("/proc/sys/net/netfilter/nf_conntrack_count")?;
    let what =
        format!("nf_conntrack_max {most}, of which {used} are used (only if a firewall rule needs it)");
    Some(Bound { connections: most.saturating_sub(used), what })
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn token_rate() -> u64 {
    let (clock, minter) = (Clock::start(), Minter::new(b"a secret of ordinary length", 60));
    let mut minted = 0;
    while clock.elapsed() < Duration::from_millis(20) {
        minted += u64::from(minter.mint("user-1234567", minted as u32).is_ok());
    }
    minted * 50
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SourceChoice;

    #[test]
    fn a_table_of_20_000_needs_52_workers_for_a_million() {
        assert_eq!(workers_needed(1_000_000, 20_000), 52);
        assert_eq!(workers_needed(10, 20_000), 1);
    }

    #[test]
    fn one_source_address_bounds_by_its_ports_and_says_so() {
        let to = vec!["127.0.0.1:8000".parse().unwrap()];
        let one: SourceChoice = "127.0.0.2".parse().unwrap();
        let routes = Routes::plan(&one, to, 1_000_000);
        let check = SelfCheck::look(&routes, 1_000_000, true, 24);
        assert!(!check.suffices() && check.possible() <= source::ephemeral_ports());
        assert!(check.to_string().contains("BOUND"), "{check}");
    }
}
