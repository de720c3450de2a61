//! Queues that packets and new connections pass, and who serves them.

use super::files::shards_wanted;
use super::{Goal, in_container};
use crate::host::coefficients::{CONNECT_MICROS, PACKET_MICROS};
use crate::host::facts::{Device, HostFacts, Reading};
use crate::host::finding::{Finding, grouped, seconds, since_start};

/// What millpond asks for with `listen(2)`.
const BACKLOG: u64 = 65_535;

/// Packets that a CPU's queue should hold, as the profiles say.
const DEVICE_BACKLOG: u64 = 16_384;

/// A client whose SYN was dropped tries again after this (RFC 6298, initial RTO): a second.
const RETRY_MICROS: f64 = 1e6;

pub(super) fn somaxconn(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "somaxconn";
    const WHY: &str = "connections that wait to be accepted, for each listener; every shard has one. When it is full, a client's \
        connect is dropped and tried again after 1 s, 3 s, 7 s. Documentation/networking/ip-sysctl.rst";
    let Reading::Known(most) = facts.net.somaxconn else {
        return Finding::unknown(ID, "net.core.somaxconn", WHY);
    };
    let queue = most.min(BACKLOG);
    let shards = shards_wanted(facts, goal);
    // As if half of the connections came back at once.
    let burst = (goal.connections / shards / 2).min(BACKLOG);
    let found = format!(
        "{} may wait at each of {shards} shards, which serve that many in {}",
        grouped(queue),
        seconds(queue as f64 * CONNECT_MICROS.value * shards as f64 / facts.cpus as f64 / 1e6)
    );
    let finding = Finding::fine(ID, found, WHY).costing(queue < burst, || {
        let (docker, pod) =
            ("--sysctl net.core.somaxconn=65535", "securityContext.sysctls (tuning/kubernetes)");
        format!(
            "sysctl -w net.core.somaxconn=65535, then restart millpond{}",
            in_container(facts, docker, pod)
        )
    });
    if queue < burst { finding.taking(RETRY_MICROS) } else { finding }
}

pub(super) fn syn_backlog(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "syn-backlog";
    const WHY: &str = "half-open connections. With SYN cookies, an overflow costs options of that connection only; without, \
        connects are dropped. Documentation/networking/ip-sysctl.rst, tcp_max_syn_backlog, tcp_syncookies";
    let (Reading::Known(most), Reading::Known(cookies)) = (facts.net.syn_backlog, facts.net.syncookies)
    else {
        return Finding::unknown(ID, "net.ipv4.tcp_max_syn_backlog or tcp_syncookies", WHY);
    };
    if cookies > 0 {
        return Finding::fine(ID, format!("SYN cookies are on; backlog {}", grouped(most)), WHY);
    }
    let found = format!("for a dropped connect, when {} are half open: SYN cookies are off", grouped(most));
    Finding::fine(ID, found, WHY).taking(RETRY_MICROS).costing(most < goal.connections.min(BACKLOG), || {
        "sysctl -w net.ipv4.tcp_syncookies=1 net.ipv4.tcp_max_syn_backlog=65535".into()
    })
}

pub(super) fn dropped_connects(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "dropped-connects";
    const WHY: &str = "connects that found an accept queue full, since this host or namespace came up (nstat -az \
        TcpExtListenOverflows): each cost its client a second and more";
    match facts.drops.listen_overflows {
        Reading::Known(count) => {
            Finding::fine(ID, format!("{} so far", grouped(count)), WHY).costing(count > 0, || {
                let is_long = matches!(facts.net.somaxconn, Reading::Known(most) if most >= BACKLOG);
                let remedy = if is_long {
                    "net.core.somaxconn is raised: add cores"
                } else {
                    "raise net.core.somaxconn"
                };
                format!(
                    "look at the number again; if it grows and the port is millpond's (ss -ltn): {remedy}"
                )
            })
        }
        _ => Finding::unknown(ID, "/proc/net/netstat", WHY),
    }
}

pub(super) fn dropped_packets(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "dropped-packets";
    const WHY: &str = "packets dropped in front of TCP because a CPU's queue was full (second column of /proc/net/softnet_stat); \
        each is sent again after 200 ms. Documentation/admin-guide/sysctl/net.rst, netdev_max_backlog";
    let count = match facts.drops.backlog_drops {
        Reading::Known(0) => return Finding::fine(ID, "none so far", WHY),
        Reading::Known(count) => count,
        _ => return Finding::unknown(ID, "/proc/net/softnet_stat", WHY),
    };
    let time =
        facts.uptime.known().map_or_else(|| "so far".into(), |time| format!("in {}", since_start(time)));
    let (queue, is_long) = match facts.net.device_backlog {
        Reading::Known(most) => (format!("; the queue holds {}", grouped(most)), most >= DEVICE_BACKLOG),
        _ => (String::new(), false),
    };
    let found = format!("for each of the {} {time}{queue}", grouped(count));
    Finding::fine(ID, found, WHY).taking(200_000.0).costing(true, || {
        if is_long {
            "the queue was raised already: look at the number again, and if it grows, spread the packets over more CPUs \
             (receive-queues)"
                .into()
        } else {
            format!("sysctl -w net.core.netdev_max_backlog={DEVICE_BACKLOG} on the host")
        }
    })
}

pub(super) fn receive_queues(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "receive-queues";
    const WHY: &str = "a receive queue is served by one CPU; with fewer queues than CPUs, RPS spreads the rest of the work by flow \
        and RFS brings it to the CPU of the shard. Documentation/networking/scaling.rst";
    let short: Vec<_> = facts.devices.iter().filter(|device| is_short(device, facts.cpus)).collect();
    let Some(worst) = short.first() else {
        let found = match facts.devices.len() {
            0 => "no network card to be seen here (a container's is the host's business)".to_owned(),
            _ => "every card has a queue per CPU, or RPS spreads its packets".to_owned(),
        };
        return Finding::fine(ID, found, WHY);
    };
    let (queues, name) = (worst.queues.len(), &worst.name);
    let rate = (queues as f64 * 1e6 / PACKET_MICROS.value) as u64;
    let found = format!(
        "for each packet, all on {queues} of {} CPUs ({name}): about {} packets/s at most",
        facts.cpus,
        grouped(rate)
    );
    Finding::fine(ID, found, WHY).taking(PACKET_MICROS.value).costing(true, || steering(worst, facts.cpus))
}

fn is_short(device: &Device, cpus: u64) -> bool {
    let spread = device.queues.iter().all(|queue| queue.rps_cpus > 0);
    !device.queues.is_empty() && (device.queues.len() as u64) < cpus && !spread
}

/// The commands that switch RPS and RFS on for a card.
fn steering(device: &Device, cpus: u64) -> String {
    const FLOWS: u64 = 32_768;
    let name = &device.name;
    let mask = cpu_mask(cpus);
    let each = FLOWS / device.queues.len().max(1) as u64;
    format!(
        "ethtool -L {name} combined {cpus}, if the card can; else\n\
         for q in /sys/class/net/{name}/queues/rx-*; do echo {mask} > $q/rps_cpus; echo {each} > $q/rps_flow_cnt; done\n\
         sysctl -w net.core.rps_sock_flow_entries={FLOWS}"
    )
}

/// A mask of the first `cpus` CPUs as the kernel reads it: groups of 32 bits, the highest first.
fn cpu_mask(cpus: u64) -> String {
    let whole = cpus / 32;
    let rest = cpus % 32;
    let mut groups = Vec::new();
    if rest > 0 || whole == 0 {
        groups.push(format!("{:x}", (1_u64 << rest) - 1));
    }
    groups.extend((0..whole).map(|_| "ffffffff".to_owned()));
    groups.join(",")
}

pub(super) fn interrupts(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "interrupts";
    const WHY: &str = "where one CPU takes the interrupts of all queues, its shard lags behind the others. \
        Documentation/core-api/irq/irq-affinity.rst, irqbalance(1)";
    let uneven = facts.devices.iter().find_map(|device| {
        let all = device.interrupts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        let busiest = device.interrupts.first().copied()?;
        let is_uneven = device.queues.len() > 1 && all > 10_000 && busiest as f64 > all as f64 * 0.9;
        is_uneven.then(|| (device, (busiest as f64 * 100.0 / all as f64) as u64))
    });
    match uneven {
        None => Finding::fine(ID, "spread as far as the queues allow", WHY),
        Some((device, share)) => {
            let (name, queues) = (&device.name, device.queues.len());
            let found = format!("one CPU takes {share} % of the interrupts of {queues} queues ({name})");
            Finding::fine(ID, found, WHY).costing(true, || {
                format!(
                    "start irqbalance, or give each queue its CPU: grep {name} /proc/interrupts, then echo CPU > \
                     /proc/irq/N/smp_affinity_list"
                )
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_as_the_kernel_reads_them() {
        assert_eq!([cpu_mask(1), cpu_mask(2), cpu_mask(31)], ["1", "3", "7fffffff"]);
        assert_eq!(
            [cpu_mask(32), cpu_mask(64), cpu_mask(40)],
            ["ffffffff", "ffffffff,ffffffff", "ff,ffffffff"]
        );
    }
}
