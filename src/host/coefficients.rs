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
const DENSITY: Basis = Basis::Measured("docs/BENCHMARKS.md, density and million");
const FANOUT: Basis = Basis::Measured("docs/BENCHMARKS.md, fanout");
const BY_HAND: Basis = Basis::Measured("docs/BENCHMARKS.md, runs by hand");

const fn measured(name: &'static str, value: f64, unit: &'static str, basis: Basis) -> Coefficient {
    Coefficient { name, value, unit, basis }
}

const fn assumed(name: &'static str, value: f64, unit: &'static str, why: &'static str) -> Coefficient {
    Coefficient { name, value, unit, basis: Basis::Assumed(why) }
}

/// Kernel memory of an idle connection: tcp_sock 2520, inode 861, file 195, dentry 194, LSM 56, epoll 206, rounded. The
/// server's end alone; both ends of a million on one machine took 8.2 kB each.
pub const KERNEL_BYTES: Coefficient = measured("kernel memory of an idle connection", 4040.0, "B", FLOOR);
/// User memory of an idle connection.
///
/// With a user name and a personal channel of about 15 bytes; longer names add their length, each at most three times.
/// 169 B with 1,000,000 connections, 172 B with 100,000.
pub const USER_BYTES: Coefficient = measured("user memory of an idle connection", 172.0, "B", DENSITY);
/// One small message that the client has not read yet.
pub const UNREAD_BYTES: Coefficient = measured("an unread small message in the kernel", 1100.0, "B", FLOOR);
/// Everything of the process that does not grow with its connections.
///
/// 12 to 14 MB with a few shards, 20 MB with 53; the rest is room for messages under way.
pub const BASE_BYTES: Coefficient =
    assumed("memory of a process without connections", 64e6, "B", "20 MB at rest, and messages under way");

/// One `write` of a message to one socket; about the same from 80 B to 10 kB.
pub const WRITE_MICROS: Coefficient = measured("one write to a socket, 80 B to 10 kB", 5.9, "µs", FLOOR);
/// One `recv` of a small message.
pub const READ_MICROS: Coefficient = measured("one read from a socket", 1.3, "µs", FLOOR);
/// `accept4`, `epoll_ctl` and the first `recv`.
pub const ACCEPT_MICROS: Coefficient = measured("accept, poll and read a new socket", 4.1, "µs", FLOOR);
/// What millpond adds to a write: the worst of four runs, in rate.
pub const DELIVERY_RATIO: Coefficient =
    measured("raw write loop ÷ delivery of a lone message", 0.94, "", FANOUT);
/// A delivery where 32 publications share each write.
///
/// The worst of three runs; the sending thread's share, the reader's included where both ends are one machine.
pub const JOINED_DELIVERY_MICROS: Coefficient =
    measured("a delivery with 32 publications in flight", 0.1, "µs", FANOUT);
/// A ping and its pong, with everything around them.
///
/// 0.45 µs a second and connection at 25 s with 1,000,000 on 53 shards; 0.34 (8.5 µs) with 100,000 on 6.
pub const PING_MICROS: Coefficient = measured("a ping and its pong", 11.3, "µs", DENSITY);
/// Upgrade, token check, connect and one subscription.
///
/// 22 µs with 100,000 on 6 shards, 35 µs with 400,000 on 53 shards and 2 cores; the million's 59 µs hold the pings of a
/// ramp of 53 s and what other programs took.
pub const CONNECT_MICROS: Coefficient =
    measured("taking in a connection with token and subscription", 35.0, "µs", BY_HAND);
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
    fn a_million_idle_connections_take_4_2_gigabytes() {
        assert_eq!(bytes_per_connection() * 1_000_000, 4_212_000_000);
    }
}
