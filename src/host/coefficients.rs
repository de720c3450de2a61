//! What things cost, each with where the number comes from. The only place where `doctor` and `plan` get costs.
//!
//! Times are CPU time of one core. Measured ones are of a 2-core virtual machine with Linux 6.18 over loopback, where
//! the receiver's share of a delivery is charged to the sender: an upper bound for a server with a network card.

use serde::Serialize;

/// Where a coefficient comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "basis", content = "from", rename_all = "lowercase")]
pub enum Basis {
    /// Measured, and where that is written.
    Measured(&'static str),
    /// Not measured, and why it is believed.
    Assumed(&'static str),
}

/// A number with its unit and its origin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Coefficient {
    /// What it is the cost of.
    pub name: &'static str,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// Where from.
    #[serde(flatten)]
    pub basis: Basis,
}

const FLOOR: Basis = Basis::Measured("docs/BENCHMARKS.md, the floor of the kernel");

const fn measured(name: &'static str, value: f64, unit: &'static str) -> Coefficient {
    Coefficient { name, value, unit, basis: FLOOR }
}

const fn assumed(name: &'static str, value: f64, unit: &'static str, why: &'static str) -> Coefficient {
    Coefficient { name, value, unit, basis: Basis::Assumed(why) }
}

/// Kernel memory of an idle connection: tcp_sock 2520, inode 861, file 195, dentry 194, LSM 56, epoll 206, rounded.
pub const KERNEL_BYTES: Coefficient = measured("kernel memory of an idle connection", 4040.0, "B");
/// User memory of an idle connection.
pub const USER_BYTES: Coefficient = assumed(
    "user memory of an idle connection",
    256.0,
    "B",
    "the bound that the million bench holds millpond to; it aims at 192 B",
);
/// One small message that the client has not read yet.
pub const UNREAD_BYTES: Coefficient = measured("an unread small message in the kernel", 1100.0, "B");
/// Everything of the process that does not grow with its connections.
pub const BASE_BYTES: Coefficient =
    assumed("memory of a process without connections", 64e6, "B", "buffers, queues and code, rounded up");

/// One `write` of a message to one socket; about the same from 80 B to 10 kB.
pub const WRITE_MICROS: Coefficient = measured("one write to a socket, 80 B to 10 kB", 5.9, "µs");
/// One `recv` of a small message.
pub const READ_MICROS: Coefficient = measured("one read from a socket", 1.3, "µs");
/// `accept4`, `epoll_ctl` and the first `recv`.
pub const ACCEPT_MICROS: Coefficient = measured("accept, poll and read a new socket", 4.1, "µs");
/// What millpond adds to a write.
pub const DELIVERY_RATIO: Coefficient = assumed(
    "raw write loop ÷ delivery of a lone message",
    0.9,
    "",
    "the bound that the fan-out bench holds millpond to",
);
/// A delivery where 32 publications share each write.
pub const JOINED_DELIVERY_MICROS: Coefficient = assumed(
    "a delivery with 32 publications in flight",
    0.67,
    "µs",
    "the bound of the fan-out bench, 1.5 M deliveries/s",
);
/// A ping and its pong, with everything around them.
pub const PING_MICROS: Coefficient = assumed(
    "a ping and its pong",
    12.5,
    "µs",
    "the bound of the million bench, 0.5 µs a second at 25 s; 7.2 µs of it, a write and a read, are measured",
);
/// Upgrade, token check, connect and one subscription.
pub const CONNECT_MICROS: Coefficient = assumed(
    "taking in a connection with token and subscription",
    40.0,
    "µs",
    "the bound of the accept bench, 25,000 a second and core",
);
/// A publication through the server API.
pub const PUBLISH_MICROS: Coefficient = assumed(
    "taking in a publication through the server API",
    20.0,
    "µs",
    "an HTTP request with a small JSON body, not measured yet",
);

/// A miss of the cache, when a chain of the table of connections is walked.
pub const CACHE_MISS_MICROS: Coefficient =
    assumed("a cache miss", 0.1, "µs", "80 to 120 ns of memory latency on present servers");
/// Receive processing of a packet before TCP.
pub const PACKET_MICROS: Coefficient =
    assumed("receiving a small packet, up to the socket", 2.0, "µs", "1 to 3 µs on present servers");
/// Switching to another thread of the process.
pub const SWITCH_MICROS: Coefficient =
    assumed("a switch between two shards on one core", 2.0, "µs", "1 to 3 µs on present servers");
/// Kernel memory of a tracked connection.
pub const CONNTRACK_BYTES: Coefficient =
    assumed("a tracked connection", 320.0, "B", "size of nf_conn in /proc/slabinfo, with extensions");

/// All of them, for listings.
pub const ALL: &[Coefficient] = &[
    KERNEL_BYTES,
    USER_BYTES,
    UNREAD_BYTES,
    BASE_BYTES,
    WRITE_MICROS,
    READ_MICROS,
    ACCEPT_MICROS,
    DELIVERY_RATIO,
    JOINED_DELIVERY_MICROS,
    PING_MICROS,
    CONNECT_MICROS,
    PUBLISH_MICROS,
    CACHE_MISS_MICROS,
    PACKET_MICROS,
    SWITCH_MICROS,
    CONNTRACK_BYTES,
];

const _: () =
    assert!(PING_MICROS.value >= WRITE_MICROS.value + READ_MICROS.value, "a ping is a write and a read");

/// Memory of one idle connection in bytes, both kinds.
#[must_use]
pub fn bytes_per_connection() -> u64 {
    (KERNEL_BYTES.value + USER_BYTES.value) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_idle_connections_take_4_3_gigabytes() {
        assert_eq!(bytes_per_connection() * 1_000_000, 4_296_000_000);
    }
}
