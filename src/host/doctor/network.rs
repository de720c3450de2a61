//! What the kernel keeps for established connections: tables, buffers, ports.

use super::Goal;
use crate::host::coefficients::{CACHE_MISS_MICROS, CONNTRACK_BYTES, UNREAD_BYTES};
use crate::host::facts::{HostFacts, Reading};
use crate::host::finding::{Finding, bytes, grouped};

/// Bytes of a page in which `tcp_mem` counts, on the architectures that millpond runs on by default.
const PAGE: u64 = 4096;

/// The most buckets that `thash_entries` sensibly asks for: 128 MiB of table.
const BUCKETS_MAX: u64 = 1 << 24;

/// What a reader that stopped may hold before it is worth a word.
const STUCK_READER_BYTES: u64 = 1 << 20;

pub(super) fn conntrack(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "conntrack";
    const WHY: &str = "where netfilter tracks connections (a firewall with state, NAT, most Docker hosts), each takes an \
        entry; with the table full, new connections are dropped. Documentation/networking/nf_conntrack-sysctl.rst";
    let (most, count) = match (facts.conntrack.max, facts.conntrack.count) {
        (Reading::Known(most), count) => (most, count.known().unwrap_or(0)),
        (Reading::Absent, _) => return Finding::fine(ID, "connections are not tracked here", WHY),
        (Reading::Unreadable, _) => return Finding::unknown(ID, "net.netfilter.nf_conntrack_max", WHY),
    };
    let enough = goal.connections + goal.connections / 4 + 65_536;
    let memory = bytes((goal.connections as f64 * CONNTRACK_BYTES.value) as u64);
    let idle = if count == 0 { ", so no rule seems to ask for tracking here" } else { "" };
    let found = format!("a table of {}, {} in use{idle}", grouped(most), grouped(count));
    let place = if facts.net.is_namespace() { "on the host (read-only here) " } else { "" };
    let fix = || {
        format!(
            "`nft -f tuning/nftables/millpond-notrack.nft` where the port is tracked, to leave it out; else {place}sysctl \
             -w net.netfilter.nf_conntrack_max={enough} net.netfilter.nf_conntrack_buckets={enough} ({memory} more)"
        )
    };
    let finding = Finding::fine(ID, found, WHY);
    if count == 0 {
        // The module is there but nothing is tracked, so the table bounds nobody until a rule asks for it.
        return finding.costing(most < goal.connections, fix);
    }
    let buckets = facts.conntrack.buckets.known().unwrap_or(most);
    let load = goal.connections as f64 / buckets.max(1) as f64;
    finding
        .bounding(most.saturating_sub(count), goal.connections, fix)
        .costing(load > 2.0, fix)
        .taking(load / 2.0 * CACHE_MISS_MICROS.value)
}

pub(super) fn tcp_mem(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "tcp-mem";
    const WHY: &str = "socket buffers of all connections together. An idle connection has none, an unread small message 1.1 kB; \
        above the pressure mark the kernel shrinks windows, above the maximum it drops. \
        Documentation/networking/ip-sysctl.rst";
    const WHY_OLD: &str = "socket buffers of all connections together. Kernels before 6.0 keep up to a page reserved for every \
        socket that sent or received (\"net: keep sk->sk_forward_alloc as small as possible\"), so each connection \
        counts a page. Documentation/networking/ip-sysctl.rst";
    let [_, pressure, most] = match facts.net.tcp_mem {
        Reading::Known(pages) => pages,
        Reading::Absent => {
            return Finding::fine(
                ID,
                "the host's number holds here and cannot be seen from this namespace",
                WHY,
            );
        }
        Reading::Unreadable => return Finding::unknown(ID, "net.ipv4.tcp_mem", WHY),
    };
    let fix = || {
        let pages = goal.connections;
        format!(
            "sysctl -w net.ipv4.tcp_mem=\"{} {} {pages}\" (pages of 4 KiB; an upper bound, nothing is reserved)",
            pages / 2,
            pages / 4 * 3
        )
    };
    if matches!(facts.kernel, Reading::Known(version) if version < (6, 0)) {
        return Finding::fine(ID, format!("{} pages, one for each connection", grouped(most)), WHY_OLD)
            .bounding(most, goal.connections, fix);
    }
    let unread = (pressure as f64 * PAGE as f64 / UNREAD_BYTES.value) as u64;
    let found = format!(
        "{} of buffers before pressure, {} at most: one unread message for each of {} connections",
        bytes(pressure.saturating_mul(PAGE)),
        bytes(most.saturating_mul(PAGE)),
        grouped(unread)
    );
    Finding::fine(ID, found, WHY).costing(unread < goal.connections, fix)
}

pub(super) fn socket_buffers(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "socket-buffers";
    const WHY: &str = "a reader that stopped holds up to tcp_wmem's third number in the kernel before millpond's own queue and \
        its policy for slow readers begin; idle sockets hold nothing, whatever stands here. \
        Documentation/networking/ip-sysctl.rst";
    let (Reading::Known([_, _, write]), Reading::Known([_, _, read])) =
        (facts.net.tcp_wmem, facts.net.tcp_rmem)
    else {
        return Finding::unknown(ID, "net.ipv4.tcp_wmem and tcp_rmem", WHY);
    };
    let stuck = goal.connections / 1000;
    let found = format!(
        "tcp_wmem up to {}, tcp_rmem up to {}; if one reader in a thousand stops: {}",
        bytes(write),
        bytes(read),
        bytes(stuck.saturating_mul(write))
    );
    Finding::fine(ID, found, WHY).costing(write > STUCK_READER_BYTES && stuck >= 100, || {
        "sysctl -w net.ipv4.tcp_wmem=\"4096 16384 1048576\" (10 MB/s over 100 ms); for all sockets of the namespace".into()
    })
}

pub(super) fn connection_table(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "ehash";
    const WHY: &str = "the kernel finds the socket of every packet in a hash table of fixed size (512 Ki buckets at most by \
        default); longer chains are cache misses. Documentation/networking/ip-sysctl.rst (tcp_ehash_entries), \
        admin-guide/kernel-parameters.txt (thash_entries)";
    let entries = match facts.net.ehash {
        Reading::Known(entries) => entries,
        Reading::Absent => {
            return Finding::fine(
                ID,
                "the kernel does not say (before 6.1); see `dmesg | grep 'TCP established'`",
                WHY,
            );
        }
        Reading::Unreadable => return Finding::unknown(ID, "net.ipv4.tcp_ehash_entries", WHY),
    };
    let buckets = entries.unsigned_abs().max(1);
    let load = goal.connections as f64 / buckets as f64;
    let whose = if entries < 0 { " (the host's)" } else { "" };
    let found =
        format!("for each packet, at {load:.1} connections in each of {} buckets{whose}", grouped(buckets));
    let enough = goal.connections.next_power_of_two().min(BUCKETS_MAX);
    Finding::fine(ID, found, WHY).taking(load / 2.0 * CACHE_MISS_MICROS.value).costing(load > 2.0, || {
        format!(
            "thash_entries={enough} on the kernel's command line and reboot ({}); or run millpond in a network namespace \
             made after sysctl -w net.ipv4.tcp_child_ehash_entries={enough} (Linux 6.1)",
            bytes(enough * 8)
        )
    })
}

pub(super) fn orphans(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "orphans";
    const WHY: &str = "sockets that millpond closed and whose last bytes are not acknowledged; beyond the limit the kernel resets \
        them, so a drain of everybody at once ends roughly. Documentation/networking/ip-sysctl.rst";
    match facts.net.orphans {
        Reading::Known(most) => {
            let enough = goal.connections / 4;
            Finding::fine(ID, format!("{} at a time", grouped(most)), WHY)
                .costing(most < enough / 2, || format!("sysctl -w net.ipv4.tcp_max_orphans={enough}"))
        }
        Reading::Absent => Finding::fine(ID, "the host's number holds here and cannot be seen", WHY),
        Reading::Unreadable => Finding::unknown(ID, "net.ipv4.tcp_max_orphans", WHY),
    }
}

pub(super) fn port_range(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "port-range";
    const WHY: &str = "a connection is told apart by both addresses and both ports, and a server's are the same for all: it needs \
        no ports of its own, whatever the range. Only who connects does: the load generator, a proxy in front. \
        Documentation/networking/ip-sysctl.rst, ip_local_port_range";
    match facts.net.ports {
        Reading::Known([first, last]) => {
            let ports = last.saturating_add(1).saturating_sub(first);
            Finding::fine(
                ID,
                format!(
                    "no bound for a server; a load generator or proxy here gets {} connections for each pair of its own \
                     address and a target (more: sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\", or more source \
                     addresses)",
                    grouped(ports)
                ),
                WHY,
            )
        }
        _ => Finding::fine(ID, "no bound for a server; the range cannot be read", WHY),
    }
}

pub(super) fn namespace(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "network-namespace";
    const WHY: &str = "a network namespace has its own somaxconn and buffer sizes, at the kernel's defaults and not the host's; \
        tcp_mem, orphans, conntrack's size and everything below fs. are the host's and are set there";
    let found = if facts.net.is_namespace() {
        "this is a network namespace: what is absent here holds as set on the host"
    } else {
        "this is the host's network namespace"
    };
    Finding::fine(ID, found, WHY)
}

pub(super) fn sockets_in_use(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "sockets-in-use";
    const WHY: &str = "what is open now has its memory, files and tracking already: the numbers of connections here are of what \
        can come on top of it. proc_net(5), sockstat";
    match facts.net.in_use {
        Reading::Known(count) => {
            let found =
                format!("{} TCP sockets are open here now; what is said above comes on top", grouped(count));
            Finding::fine(ID, found, WHY)
        }
        Reading::Absent => Finding::fine(ID, "not to be seen here", WHY),
        Reading::Unreadable => Finding::unknown(ID, "/proc/net/sockstat", WHY),
    }
}
