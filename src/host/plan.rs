//! Memory, cores and bandwidth for a load, foretold from [`super::coefficients`]. Everything that is multiplied is said.

use std::fmt;

use serde::Serialize;

use super::coefficients::{
    ALL, BASE_BYTES, Basis, CONNECT_MICROS, Coefficient, DELIVERY_RATIO, JOINED_DELIVERY_MICROS,
    KERNEL_BYTES, PING_MICROS, PUBLISH_MICROS, UNREAD_BYTES, USER_BYTES, WRITE_MICROS,
};
use super::finding::{bytes, grouped, seconds};
use super::shards;

/// Headers of a segment on Ethernet: IPv4 20, TCP 20, timestamps 12 (RFC 7323), Ethernet with preamble and gap 38.
const SEGMENT_BYTES: f64 = 90.0;
/// Payload of a full segment: 1500 less the headers of IPv4 and TCP with timestamps.
const SEGMENT_PAYLOAD: f64 = 1448.0;
/// A ping in JSON, `{}`, with its frame; the pong has a mask of 4 bytes more (RFC 6455, 5.2).
const PING_FRAME: f64 = 4.0;
const PONG_FRAME: f64 = 8.0;
/// Load that a core should have at most, so that bursts and reconnects find room.
const COMFORT: f64 = 0.6;
/// The descriptor limit that systemd gives by default.
const DEFAULT_TABLE: u64 = 524_288;

/// What is planned for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Load {
    /// Connections.
    pub connections: u64,
    /// Publications a second on the node.
    pub rate: f64,
    /// Connections that each publication reaches.
    pub fanout: f64,
    /// Bytes of one push as the client gets it, without the frame.
    pub message_bytes: u64,
    /// Seconds between two pings; 0: none.
    pub ping_seconds: u64,
    /// Connections a second that come and go.
    pub churn: f64,
}

/// What it takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// What was planned for.
    pub load: Load,
    /// Bytes.
    pub memory: Memory,
    /// Cores fully used.
    pub cpu: Cpu,
    /// Bits a second on the wire.
    pub network: Network,
    /// Shards with a core each, and descriptors each needs.
    pub shards: u64,
    /// Least `LimitNOFILE` for that.
    pub descriptors: u64,
    /// What it was made of.
    pub coefficients: &'static [Coefficient],
}

/// Bytes of memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// Kernel memory of idle connections.
    pub kernel: f64,
    /// User memory of idle connections.
    pub user: f64,
    /// One publication unread by everybody it reaches.
    pub unread: f64,
    /// The process without connections.
    pub base: f64,
    /// All of it.
    pub total: f64,
}

/// Cores, as if fully used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cpu {
    /// Pings and pongs.
    pub rest: f64,
    /// Deliveries, one write each.
    pub deliveries: f64,
    /// The same deliveries where 32 share each write, as the sweep does under load; a floor.
    pub deliveries_joined: f64,
    /// Taking publications in.
    pub publications: f64,
    /// Taking connections in.
    pub churn: f64,
    /// All of it, with a write for each delivery.
    pub total: f64,
    /// Cores to buy: at most 60 % busy each.
    pub cores: u64,
    /// The same where 32 deliveries share each write.
    pub cores_joined: u64,
    /// Seconds until all connections are back after a restart, with all those cores.
    pub reconnect_seconds: f64,
}

/// The wire.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Network {
    /// Deliveries a second.
    pub deliveries_per_second: f64,
    /// Bits a second to the clients.
    pub out_bits: f64,
    /// Bits a second from the clients.
    pub in_bits: f64,
    /// Packets a second, both ways.
    pub packets: f64,
}

/// Foretells.
#[must_use]
pub fn plan(load: Load) -> Plan {
    let cpu = cpu(load);
    Plan {
        load,
        memory: memory(load),
        cpu,
        network: network(load),
        shards: cpu.cores,
        descriptors: shards::table_for(load.connections, cpu.cores),
        coefficients: ALL,
    }
}

fn memory(load: Load) -> Memory {
    let connections = load.connections as f64;
    let (kernel, user) = (connections * KERNEL_BYTES.value, connections * USER_BYTES.value);
    let each = UNREAD_BYTES.value.max(load.message_bytes as f64 * 1.5);
    let unread = if load.rate > 0.0 { load.fanout * each } else { 0.0 };
    let base = BASE_BYTES.value;
    Memory { kernel, user, unread, base, total: kernel + user + unread + base }
}

fn cpu(load: Load) -> Cpu {
    let deliveries_per_second = load.rate * load.fanout;
    let rest = load.connections as f64 * per_second(load.ping_seconds) * PING_MICROS.value / 1e6;
    let deliveries = deliveries_per_second * WRITE_MICROS.value / DELIVERY_RATIO.value / 1e6;
    let deliveries_joined = deliveries_per_second * JOINED_DELIVERY_MICROS.value / 1e6;
    let publications = load.rate * PUBLISH_MICROS.value / 1e6;
    let churn = load.churn * CONNECT_MICROS.value / 1e6;
    let fixed = rest + publications + churn;
    let to_buy = |used: f64| (used / COMFORT).ceil().max(1.0) as u64;
    let cores = to_buy(fixed + deliveries);
    Cpu {
        rest,
        deliveries,
        deliveries_joined,
        publications,
        churn,
        total: fixed + deliveries,
        cores,
        cores_joined: to_buy(fixed + deliveries_joined),
        reconnect_seconds: load.connections as f64 * CONNECT_MICROS.value / 1e6 / cores as f64,
    }
}

fn network(load: Load) -> Network {
    let deliveries_per_second = load.rate * load.fanout;
    let frame = load.message_bytes as f64 + frame_header(load.message_bytes);
    let segments = (frame / SEGMENT_PAYLOAD).ceil().max(1.0);
    let pings = load.connections as f64 * per_second(load.ping_seconds);
    // Each delivery is acknowledged by a segment without payload, at worst; a pong carries the acknowledgement of its
    // ping and is acknowledged itself.
    let out = deliveries_per_second * (frame + segments * SEGMENT_BYTES)
        + pings * (PING_FRAME + 2.0 * SEGMENT_BYTES);
    let back = deliveries_per_second * segments * SEGMENT_BYTES + pings * (PONG_FRAME + SEGMENT_BYTES);
    Network {
        deliveries_per_second,
        out_bits: out * 8.0,
        in_bits: back * 8.0,
        packets: deliveries_per_second * segments * 2.0 + pings * 3.0,
    }
}

fn per_second(seconds: u64) -> f64 {
    if seconds == 0 { 0.0 } else { 1.0 / seconds as f64 }
}

/// Header of a server's frame (RFC 6455, 5.2): 2, 4 or 10 bytes.
fn frame_header(payload: u64) -> f64 {
    match payload {
        0..126 => 2.0,
        126..65_536 => 4.0,
        _ => 10.0,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = &self.load;
        writeln!(
            out,
            "{} connections, {} publications/s to {} each ({} deliveries/s of {} B), pings every {} s, {} connects/s\n",
            grouped(load.connections),
            load.rate,
            grouped(load.fanout as u64),
            grouped(self.network.deliveries_per_second as u64),
            load.message_bytes,
            load.ping_seconds,
            load.churn
        )?;
        self.write_memory(out)?;
        self.write_cpu(out)?;
        self.write_network(out)?;
        writeln!(
            out,
            "limits     LimitNOFILE of at least {} with {} (systemd's default is {})\n",
            grouped(self.descriptors),
            counted(self.shards, "shard"),
            grouped(DEFAULT_TABLE)
        )?;
        write_coefficients(out)
    }
}

impl Plan {
    fn write_memory(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = &self.memory;
        writeln!(
            out,
            "memory     {} = {} kernel + {} user + {} unread (one publication, by all it reaches) + {} process",
            bytes(memory.total as u64),
            bytes(memory.kernel as u64),
            bytes(memory.user as u64),
            bytes(memory.unread as u64),
            bytes(memory.base as u64)
        )?;
        writeln!(out, "           history, presence of large channels and queues of slow readers come on top")
    }

    fn write_cpu(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = &self.cpu;
        writeln!(
            out,
            "cpu        {:.2} cores busy = {:.2} pings + {:.2} deliveries + {:.2} publications + {:.2} connects: \
             {} at {:.0} %",
            cpu.total,
            cpu.rest,
            cpu.deliveries,
            cpu.publications,
            cpu.churn,
            counted(cpu.cores, "core"),
            COMFORT * 100.0
        )?;
        writeln!(
            out,
            "           where 32 deliveries share each write: {:.2} for deliveries, {} in all",
            cpu.deliveries_joined,
            counted(cpu.cores_joined, "core")
        )?;
        writeln!(
            out,
            "           after a restart everybody is back in {}, if the clients come so fast",
            seconds(cpu.reconnect_seconds)
        )
    }

    fn write_network(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = &self.network;
        writeln!(
            out,
            "network    {:.1} Mbit/s out, {:.1} Mbit/s in, {} packets/s (Ethernet, IPv4, no TLS; an upper bound: joined \
             writes share headers)",
            network.out_bits / 1e6,
            network.in_bits / 1e6,
            grouped(network.packets as u64)
        )
    }
}

/// So many of a thing.
fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{} {thing}s", grouped(count)) }
}

/// With its unit.
fn amount(coefficient: &Coefficient) -> String {
    match coefficient.unit {
        "B" => bytes(coefficient.value as u64),
        unit => format!("{} {unit}", coefficient.value).trim_end().to_owned(),
    }
}

/// First the measured ones, each kind with its origin.
fn write_coefficients(out: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        out,
        "measured (2-core virtual machine, Linux 6.18, loopback, where the receiver's share is in the figure):"
    )?;
    for coefficient in ALL {
        if let Basis::Measured(at) = coefficient.basis {
            writeln!(out, "  {:>9}  {}; {at}", amount(coefficient), coefficient.name)?;
        }
    }
    writeln!(out, "assumed:")?;
    for coefficient in ALL {
        if let Basis::Assumed(why) = coefficient.basis {
            writeln!(out, "  {:>9}  {}; {why}", amount(coefficient), coefficient.name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Load = Load {
        connections: 1_000_000,
        rate: 0.0,
        fanout: 0.0,
        message_bytes: 100,
        ping_seconds: 25,
        churn: 0.0,
    };

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() <= wanted.abs() * 1e-9 + 1e-12, "{found} is not {wanted}");
    }

    #[test]
    fn a_quiet_million_costs_memory_and_pings() {
        let plan = plan(QUIET);
        near(plan.memory.total, 1e6 * (4040.0 + 172.0) + 64e6);
        near(plan.cpu.total, 0.452);
        assert_eq!((plan.cpu.cores, plan.shards), (1, 1));
        // 40,000 pings/s: 4 + 180 bytes out, 8 + 90 in, 3 packets.
        near(plan.network.out_bits, 40_000.0 * 184.0 * 8.0);
        near(plan.network.in_bits, 40_000.0 * 98.0 * 8.0);
        near(plan.network.packets, 120_000.0);
        assert!(plan.descriptors > 1_000_000);
    }

    #[test]
    fn deliveries_cost_a_write_each_or_less() {
        let busy = plan(Load { rate: 10.0, fanout: 18_000.0, ping_seconds: 0, ..QUIET });
        near(busy.cpu.deliveries, 180_000.0 * 5.9 / 0.94 / 1e6);
        assert!(busy.cpu.deliveries_joined < busy.cpu.deliveries && busy.cpu.cores_joined <= busy.cpu.cores);
        near(busy.memory.unread, 18_000.0 * 1100.0);
        near(busy.network.out_bits, 180_000.0 * (102.0 + 90.0) * 8.0);
    }

    #[test]
    fn large_messages_take_more_segments_and_memory() {
        let large = plan(Load { rate: 1.0, fanout: 1.0, message_bytes: 10_000, ping_seconds: 0, ..QUIET });
        near(large.network.packets, 14.0);
        near(large.memory.unread, 15_000.0);
        near(frame_header(65_536), 10.0);
    }

    #[test]
    fn every_coefficient_is_said_to_be_measured_or_assumed() {
        let text = plan(QUIET).to_string();
        let (measured, assumed) = text.split_once("\nassumed:\n").unwrap();
        for coefficient in ALL {
            let side = if matches!(coefficient.basis, Basis::Measured(_)) { measured } else { assumed };
            assert!(side.contains(coefficient.name), "{}", coefficient.name);
        }
    }
}
