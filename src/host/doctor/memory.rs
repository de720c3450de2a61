//! Memory of the host and of the control group.

use super::Goal;
use crate::host::coefficients::{BASE_BYTES, KERNEL_BYTES, USER_BYTES, bytes_per_connection};
use crate::host::facts::{HostFacts, Reading};
use crate::host::finding::{Finding, bytes, grouped};

/// Connections that fit into `free` bytes, with a twentieth left for everything else.
fn fitting(free: u64) -> u64 {
    let usable = (free - free / 20).saturating_sub(BASE_BYTES.value as u64);
    usable / bytes_per_connection()
}

/// Bytes for so many connections, so that [`fitting`] finds them enough.
fn needed(connections: u64) -> u64 {
    let usable = connections * bytes_per_connection() + BASE_BYTES.value as u64;
    usable + usable / 19 + 1
}

fn each() -> String {
    format!("{} kernel + {} user each", bytes(KERNEL_BYTES.value as u64), bytes(USER_BYTES.value as u64))
}

pub(super) fn host_memory(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "memory";
    const WHY: &str = "an idle connection costs 4.04 kB in the kernel (tcp_sock, inode, file, dentry, epoll; docs/BENCHMARKS.md), \
        which cannot be swapped, and its user memory; buffers of messages under way come on top";
    let Reading::Known(available) = facts.memory.available else {
        return Finding::unknown(ID, "/proc/meminfo", WHY);
    };
    let total = facts.memory.total.known().unwrap_or(available);
    let found = format!("{} of {} available, {}", bytes(available), bytes(total), each());
    Finding::fine(ID, found, WHY).bounding(fitting(available), goal.connections, || {
        let short = needed(goal.connections).saturating_sub(available);
        format!("{} more memory, or {} connections here", bytes(short), grouped(fitting(available)))
    })
}

pub(super) fn cgroup_memory(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "cgroup-memory";
    const WHY: &str = "a control group's limit counts kernel memory of sockets and their buffers as well; at the limit the kernel \
        kills the process. Documentation/admin-guide/cgroup-v2.rst, memory.max";
    match &facts.cgroup.memory {
        None => Finding::fine(ID, "no limit of memory in the control group", WHY),
        Some(limit) => {
            let found = format!(
                "{} of {} left ({}), {}",
                bytes(limit.left()),
                bytes(limit.limit),
                limit.file,
                each()
            );
            Finding::fine(ID, found, WHY).bounding(fitting(limit.left()), goal.connections, || {
                format!(
                    "MemoryMax= in the unit, --memory of the container or resources.limits.memory of the pod: {} and \
                     what messages need",
                    bytes(limit.used.saturating_add(needed(goal.connections)))
                )
            })
        }
    }
}

pub(super) fn swap(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "swap";
    const WHY: &str = "memory of a quiet connection looks cold, and a page from swap costs 100 µs (flash) to 10 ms (disk), in which \
        every connection of the shard waits. Documentation/admin-guide/sysctl/vm.rst, swappiness";
    let Reading::Known(swap) = facts.memory.swap else { return Finding::unknown(ID, "/proc/meminfo", WHY) };
    if swap == 0 {
        return Finding::fine(ID, "there is none", WHY);
    }
    if facts.cgroup.version > 0 && !facts.cgroup.may_swap {
        return Finding::fine(ID, format!("{}, not for this control group", bytes(swap)), WHY);
    }
    let eagerness = facts.memory.swappiness.known().unwrap_or(60);
    let found =
        format!("for a page that was swapped out; {} of swap, vm.swappiness = {eagerness}", bytes(swap));
    Finding::fine(ID, found, WHY).taking(100.0).costing(eagerness > 10, || {
        "MemorySwapMax=0 in the unit (only millpond), or sysctl -w vm.swappiness=1 (the host)".into()
    })
}

pub(super) fn huge_pages(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "huge-pages";
    const WHY: &str = "with `always`, sparse tables are rounded up to 2 MiB, memory that was given back is filled again, and a page \
        fault may wait for compaction. Documentation/admin-guide/mm/transhuge.rst";
    let enabled = match &facts.memory.huge_pages {
        Reading::Known(enabled) => enabled,
        Reading::Absent => return Finding::fine(ID, "the kernel has none", WHY),
        Reading::Unreadable => return Finding::unknown(ID, "transparent_hugepage/enabled", WHY),
    };
    let defrag = facts.memory.huge_page_defrag.clone().known().unwrap_or_default();
    let stalls = enabled == "always" && defrag == "always";
    let found = if stalls {
        "in a page fault that compacts memory: enabled and defrag are both `always`".to_owned()
    } else {
        format!("enabled: {enabled}, defrag: {defrag}")
    };
    let finding = Finding::fine(ID, found, WHY).costing(enabled == "always", || {
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (at boot: tuning/tmpfiles.d)".into()
    });
    if stalls { finding.taking(1000.0) } else { finding }
}

pub(super) fn aborted_for_memory(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "memory-aborts";
    const WHY: &str = "connections that the kernel reset because tcp_mem or tcp_max_orphans was exhausted (nstat -az \
        TcpExtTCPAbortOnMemory)";
    match facts.drops.memory_aborts {
        Reading::Known(count) => {
            Finding::fine(ID, format!("{} so far", grouped(count)), WHY).costing(count > 0, || {
                "raise net.ipv4.tcp_mem and net.ipv4.tcp_max_orphans (millpond tune --profile density-1m)"
                    .into()
            })
        }
        _ => Finding::unknown(ID, "/proc/net/netstat", WHY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_fits() {
        for connections in [1, 1000, 1_000_000, 10_000_000] {
            assert!(fitting(needed(connections)) >= connections, "{connections}");
        }
        assert_eq!(fitting(0), 0);
    }
}
