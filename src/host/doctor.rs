//! The facts of a host judged for a number of connections: what bounds them, what costs time, and the fix for each.
//!
//! Each aspect is one pure function from facts to one [`Finding`]. Times and sizes come from [`super::coefficients`].

mod cpu;
mod files;
mod memory;
mod network;
mod queues;

use super::facts::HostFacts;
use super::finding::{Finding, Report};

/// What the host is judged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// Connections to hold.
    pub connections: u64,
    /// Seconds between two pings of the server; 0: none.
    pub ping_seconds: u64,
}

/// How a container is given what a host has a command for, to stand behind that command; nothing on a host.
fn in_container(facts: &HostFacts, docker: &str, pod: &str) -> String {
    match facts.container {
        Some(kind @ ("Docker container" | "Podman container")) => {
            let program = if kind.starts_with("Podman") { "podman" } else { "docker" };
            format!("; for a container of its own: {program} run {docker}")
        }
        Some("Kubernetes pod") => format!("; for a pod: {pod}"),
        _ => String::new(),
    }
}

/// Judges a host.
#[must_use]
pub fn examine(facts: &HostFacts, goal: Goal) -> Report {
    const ASPECTS: &[fn(&HostFacts, Goal) -> Finding] = &[
        files::descriptor_table,
        files::private_tables,
        files::nr_open,
        files::file_max,
        files::epoll_watches,
        files::threads,
        files::cgroup_tasks,
        network::conntrack,
        network::tcp_mem,
        network::socket_buffers,
        network::connection_table,
        network::orphans,
        network::port_range,
        network::namespace,
        network::sockets_in_use,
        queues::somaxconn,
        queues::syn_backlog,
        queues::dropped_connects,
        queues::dropped_packets,
        queues::receive_queues,
        queues::interrupts,
        memory::host_memory,
        memory::cgroup_memory,
        memory::swap,
        memory::huge_pages,
        memory::aborted_for_memory,
        cpu::at_rest,
        cpu::clock,
        cpu::governor,
        cpu::kernel,
        cpu::container,
    ];
    Report::of(goal.connections, ASPECTS.iter().map(|aspect| aspect(facts, goal)).collect())
}
