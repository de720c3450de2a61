//! Descriptors, open files, polled sockets, threads.

use super::{Goal, in_container};
use crate::base::ids::ShardId;
use crate::host::coefficients::SWITCH_MICROS;
use crate::host::facts::{HostFacts, Reading};
use crate::host::finding::{Finding, grouped};
use crate::host::shards;

/// Threads besides the shards: main, log, control plane with its blocking pool.
const OTHER_THREADS: u64 = 16;

/// A number so large that it is meant as none.
const NO_LIMIT: u64 = 1 << 62;

/// What one table may hold: the hard limit, which millpond raises its soft limit to.
fn table(facts: &HostFacts) -> Reading<u64> {
    facts.files.hard
}

pub(super) fn descriptor_table(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "descriptor-table";
    const WHY: &str = "RLIMIT_NOFILE bounds one descriptor table, and each shard has its own; where one per core does not \
        hold the connections, millpond runs more shards (at most 1024). getrlimit(2), unshare(2) CLONE_FILES";
    let Reading::Known(hard) = table(facts) else {
        return Finding::unknown(ID, "the limit of open files (/proc/self/limits)", WHY);
    };
    let fix = || {
        let enough = shards::table_for(goal.connections, facts.cpus);
        format!(
            "LimitNOFILE={enough} in the unit (tuning/systemd), or `ulimit -n {enough}` in a shell of root; a service has \
             its own limit: look at it with --pid{}",
            open_files_in_container(facts, enough)
        )
    };
    if facts.files.private_tables == Reading::Known(false) {
        // All shards share one table then, wakers and listeners of all in it.
        let finding = Finding::fine(ID, format!("all shards share one table of {}", grouped(hard)), WHY);
        return finding.bounding(shards::capacity(1, hard), goal.connections, || {
            let enough = goal.connections + 4096;
            let container = open_files_in_container(facts, enough);
            format!("LimitNOFILE={enough} in the unit, or let the shards have their own tables{container}")
        });
    }
    let most = shards::most(hard);
    let Some(count) = shards::needed(goal.connections, facts.cpus, hard) else {
        let found =
            format!("no number of shards (at most 1024) with a table of {} each holds more", grouped(hard));
        return Finding::fine(ID, found, WHY).bounding(most, goal.connections, fix);
    };
    let more = count > facts.cpus;
    let extra = if more { " (more shards than cores: each turn of a core visits them all)" } else { "" };
    let found =
        format!("{count} shards on {} cores, each with a table of {}{extra}", facts.cpus, grouped(hard));
    let finding = Finding::fine(ID, found, WHY).bounding(most, goal.connections, fix).costing(more, fix);
    if more { finding.taking(SWITCH_MICROS.value * count.div_ceil(facts.cpus) as f64) } else { finding }
}

fn open_files_in_container(facts: &HostFacts, enough: u64) -> String {
    let docker = format!("--ulimit nofile={enough}:{enough}");
    in_container(facts, &docker, "LimitNOFILE of the container runtime on the node (tuning/kubernetes)")
}

pub(super) fn private_tables(facts: &HostFacts, _: Goal) -> Finding {
    const ID: &str = "private-tables";
    const WHY: &str = "a table of its own spares each shard the reference count of every file it touches, and stalls of 14 \
        to 24 ms when a shared table grows (docs/BENCHMARKS.md); Docker's and Kubernetes' RuntimeDefault seccomp profile \
        refuses unshare(2) without CAP_SYS_ADMIN";
    match facts.files.private_tables {
        Reading::Known(true) => Finding::fine(ID, "a thread may have its own descriptor table", WHY),
        Reading::Known(false) => Finding::fine(ID, "unshare(CLONE_FILES) is refused here", WHY)
            .costing(true, || {
                "allow unshare in the seccomp profile (tuning/kubernetes/README.md); until then the limit of open files \
                 must hold all connections"
                    .into()
            })
            .taking(24_000.0),
        _ => Finding::unknown(ID, "whether a thread may have its own descriptor table", WHY),
    }
}

pub(super) fn nr_open(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "nr-open";
    const WHY: &str = "fs.nr_open is the most that LimitNOFILE may be, so the most one shard can hold after raising it. \
        Documentation/admin-guide/sysctl/fs.rst";
    match facts.files.nr_open {
        Reading::Known(most) => {
            let enough = shards::table_for(goal.connections, facts.cpus);
            Finding::fine(ID, format!("fs.nr_open = {}, for each shard", grouped(most)), WHY)
                .bounding(shards::most(most), goal.connections, || format!("sysctl -w fs.nr_open={enough}"))
                .costing(enough > most, || {
                    format!(
                        "sysctl -w fs.nr_open={enough}, then LimitNOFILE={enough}, for one shard per core"
                    )
                })
        }
        _ => Finding::unknown(ID, "fs.nr_open", WHY),
    }
}

pub(super) fn file_max(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "file-max";
    const WHY: &str = "every socket is an open file of the host; beyond it accept fails with ENFILE for everybody without \
        CAP_SYS_ADMIN. Documentation/admin-guide/sysctl/fs.rst";
    match (facts.files.file_max, facts.files.open) {
        (Reading::Known(most), open) => {
            let open = open.known().unwrap_or(0);
            let enough = open.saturating_add(goal.connections + 65_536);
            if most >= NO_LIMIT {
                return Finding::fine(ID, "fs.file-max does not bound this host (systemd sets 2^63-1)", WHY);
            }
            Finding::fine(ID, format!("fs.file-max = {}, {} open now", grouped(most), grouped(open)), WHY)
                .bounding(most.saturating_sub(open), goal.connections, || {
                    format!("sysctl -w fs.file-max={enough} on the host")
                })
        }
        _ => Finding::unknown(ID, "fs.file-max", WHY),
    }
}

pub(super) fn epoll_watches(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "epoll-watches";
    const WHY: &str = "each connection is watched by one epoll set; the limit is per user and over all its processes, and \
        beyond it epoll_ctl fails with ENOSPC. Documentation/admin-guide/sysctl/fs.rst";
    match facts.files.epoll_watches {
        Reading::Known(most) => {
            Finding::fine(ID, format!("fs.epoll.max_user_watches = {}", grouped(most)), WHY).bounding(
                most,
                goal.connections,
                || format!("sysctl -w fs.epoll.max_user_watches={} on the host", goal.connections + 65_536),
            )
        }
        Reading::Absent => Finding::fine(ID, "fs.epoll.max_user_watches does not exist here", WHY),
        Reading::Unreadable => Finding::unknown(ID, "fs.epoll.max_user_watches", WHY),
    }
}

/// Shards that the gateway runs for the goal.
pub(super) fn shards_wanted(facts: &HostFacts, goal: Goal) -> u64 {
    let table = table(facts).known().unwrap_or(u64::MAX);
    shards::needed(goal.connections, facts.cpus, table).unwrap_or(ShardId::MAX_SHARDS as u64)
}

/// Threads that the gateway starts.
fn threads_wanted(facts: &HostFacts, goal: Goal) -> u64 {
    shards_wanted(facts, goal) + OTHER_THREADS
}

pub(super) fn threads(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "threads";
    const WHY: &str = "millpond needs a thread per shard, not per connection; the limits are per user (RLIMIT_NPROC) and per \
        host. setrlimit(2), Documentation/admin-guide/sysctl/kernel.rst";
    let wanted = threads_wanted(facts, goal);
    let running = facts.tasks.running.known().unwrap_or(0);
    let of_host = [facts.tasks.pid_max, facts.tasks.threads_max];
    let left = of_host.into_iter().filter_map(Reading::known).map(|most| most.saturating_sub(running));
    let left = left.chain(facts.tasks.per_user.known()).min();
    let Some(left) = left else { return Finding::unknown(ID, "limits of threads", WHY) };
    let found = format!("{wanted} threads wanted, {} possible", grouped(left));
    few_threads(Finding::fine(ID, found, WHY), facts, goal, left, || {
        format!("LimitNPROC={wanted} in the unit, or sysctl -w kernel.pid_max and kernel.threads-max")
    })
}

/// A finding that costs, or bounds, where `left` threads are fewer than wanted.
fn few_threads(
    finding: Finding,
    facts: &HostFacts,
    goal: Goal,
    left: u64,
    fix: impl Fn() -> String,
) -> Finding {
    if left >= threads_wanted(facts, goal) {
        return finding;
    }
    let shards = left.saturating_sub(OTHER_THREADS).min(ShardId::MAX_SHARDS as u64);
    let most = if shards == 0 { 0 } else { shards::capacity(shards, table(facts).known().unwrap_or(0)) };
    let all = || format!("{}; until then server.shards = {shards}", fix());
    finding.bounding(most, goal.connections, all).costing(true, all)
}

pub(super) fn cgroup_tasks(facts: &HostFacts, goal: Goal) -> Finding {
    const ID: &str = "cgroup-pids";
    const WHY: &str = "a control group may limit its threads; a shard that cannot start ends the gateway's start. \
        Documentation/admin-guide/cgroup-v2.rst, PID";
    let wanted = threads_wanted(facts, goal);
    match &facts.cgroup.tasks {
        None => Finding::fine(ID, "no limit of threads in the control group", WHY),
        Some(limit) => {
            let found = format!("{wanted} threads wanted, {} left ({})", grouped(limit.left()), limit.file);
            few_threads(Finding::fine(ID, found, WHY), facts, goal, limit.left(), || {
                format!("TasksMax={} in the unit, or the pod's PID limit at the kubelet", wanted + 64)
            })
        }
    }
}
