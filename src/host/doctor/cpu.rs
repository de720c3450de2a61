//! CPU, clock, kernel, container.

use super::Goal;
use crate::host::coefficients::{CONNECT_MICROS, PING_MICROS};
use crate::host::facts::{HostFacts, Reading};
use crate::host::finding::{Finding, grouped, seconds};

/// Clocks that a program reads without a system call (vDSO).
const QUICK_CLOCKS: &[&str] =
    &["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "riscv_clocksource"];

/// CPUs' worth of time: what the affinity names, or the quota of the control group if that is less.
fn cores(facts: &HostFacts) -> f64 {
    let cpus = facts.cpus as f64;
    facts.cgroup.cpus.map_or(cpus, |quota| quota.min(cpus))
}

pub(super) fn at_rest(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "cpu-at-rest";
    const WHY: &str = "pings are what quiet connections cost: a write and a read each (docs/BENCHMARKS.md, the floor of the kernel); \
        half of the cores should be left for messages and reconnects. A quota of the control group stops all shards at once \
        when it is used up";
    let cores = cores(facts);
    let quota = match facts.cgroup.cpus {
        Some(quota) if quota < facts.cpus as f64 => format!(" (quota {quota:.1} of {} CPUs)", facts.cpus),
        _ => String::new(),
    };
    if goal.ping_seconds == 0 {
        return Finding::fine(ID, format!("no pings, {cores:.1} cores{quota}"), WHY);
    }
    let each = PING_MICROS.value / goal.ping_seconds as f64;
    let most = (cores * 1e6 / each) as u64;
    let used = goal.connections as f64 * each / 1e6;
    let back = goal.connections as f64 * CONNECT_MICROS.value / 1e6 / cores;
    let found = format!(
        "a second for each connection at {} s pings: {used:.2} of {cores:.1} cores{quota}; all of them take {} to \
         come back after a restart",
        goal.ping_seconds,
        seconds(back)
    );
    let fix = || {
        let slower = (goal.connections as f64 * PING_MICROS.value / (cores * 0.5 * 1e6)).ceil();
        format!("more cores, or client.ping_interval = \"{slower}s\"")
    };
    let finding = Finding::fine(ID, found, WHY).taking(each).bounding(most, goal.connections, fix);
    finding.costing(used > cores * 0.5, fix)
}

pub(super) fn clock(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "clocksource";
    const WHY: &str = "each turn of a shard reads the clock; tsc and the clocks of hypervisors are read in 0.03 µs without a system \
        call, hpet and acpi_pm in one to four. Documentation/timers/timekeeping.rst";
    match &facts.clocksource {
        Reading::Known(name) if QUICK_CLOCKS.contains(&name.as_str()) => Finding::fine(ID, name.as_str(), WHY),
        Reading::Known(name) => Finding::fine(ID, format!("for each reading of the clock ({name})"), WHY)
            .taking(2.0)
            .costing(true, || {
                "see /sys/devices/system/clocksource/clocksource0/available_clocksource; where tsc is missing, the kernel's log \
                 says why it was found unstable"
                    .into()
            }),
        Reading::Absent => Finding::fine(ID, "not to be seen here", WHY),
        Reading::Unreadable => Finding::unknown(ID, "the clock source", WHY),
    }
}

pub(super) fn governor(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "cpu-frequency";
    const WHY: &str = "a core that sleeps between messages starts slow under `powersave` or `conservative`, and a lone message pays. \
        Documentation/admin-guide/pm/cpufreq.rst";
    match &facts.governor {
        Reading::Known(name) => {
            let slow = matches!(name.as_str(), "powersave" | "conservative");
            let finding = Finding::fine(ID, format!("governor {name}"), WHY)
                .costing(slow, || "cpupower frequency-set -g performance (or schedutil)".into());
            if slow { finding.taking(100.0) } else { finding }
        }
        _ => Finding::fine(ID, "not in the hands of this system", WHY),
    }
}

pub(super) fn kernel(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "kernel";
    const WHY: &str = "before 5.4 the default of somaxconn is 128, before 6.0 every used socket keeps a page of tcp_mem, before 6.1 \
        the table of connections cannot be read; Documentation/networking/ip-sysctl.rst";
    match facts.kernel {
        Reading::Known((major, minor)) => Finding::fine(ID, format!("Linux {major}.{minor}"), WHY)
            .costing((major, minor) < (6, 0), || "Linux 6.1 or newer, if you have the choice".into()),
        _ => Finding::unknown(ID, "the version of the kernel", WHY),
    }
}

pub(super) fn container(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "container";
    const WHY: &str = "in a container, what concerns the host (fs., vm., conntrack, tcp_mem, huge pages) is set on the host or node; \
        tuning/kubernetes/README.md says what a pod can set";
    let cpus = grouped(facts.cpus);
    match facts.container {
        Some(kind) => Finding::fine(ID, format!("a {kind} with {cpus} CPUs"), WHY),
        None => Finding::fine(ID, format!("none to be seen; {cpus} CPUs"), WHY),
    }
}
