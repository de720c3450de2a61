//! Where connections come from and go to: source addresses and destinations, and how many connections they allow.
//!
//! A connection is a four-tuple. The kernel has about 28,000 ephemeral ports per (source address, destination), so a
//! million connections need either many source addresses or many listening ports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// The share of the port range that is planned for: the kernel's search for a free port slows down as it fills.
const PORTS_USED_PERCENT: u64 = 60;

/// A choice of source addresses, as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceChoice {
    /// Loopback addresses for loopback destinations, else whatever the kernel picks.
    Auto,
    /// The kernel picks.
    Kernel,
    /// All addresses of this host but loopback.
    Aliases,
    /// `10.0.0.5`, `10.0.0.5-10.0.0.20` or `10.1.0.0/24`, several with commas.
    Listed(Vec<(Ipv4Addr, Ipv4Addr)>),
}

/// A source that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a source: use auto, kernel, aliases, ADDRESS, FIRST-LAST or NETWORK/BITS, several with commas"
)]
pub struct SourceError(String);

impl FromStr for SourceChoice {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "kernel" => Ok(Self::Kernel),
            "aliases" => Ok(Self::Aliases),
            _ => text.split(',').map(parse_range).collect::<Result<_, _>>().map(Self::Listed),
        }
    }
}

fn parse_range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), SourceError> {
    let bad = || SourceError(text.to_owned());
    let address = |text: &str| text.trim().parse::<Ipv4Addr>().map_err(|_| bad());
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (address(first)?, address(last)?);
        return if first <= last { Ok((first, last)) } else { Err(bad()) };
    }
    let Some((network, bits)) = text.split_once('/') else {
        return address(text).map(|single| (single, single));
    };
    let bits = bits.parse::<u32>().ok().filter(|bits| (8..=32).contains(bits)).ok_or_else(bad)?;
    let size = 1_u32.checked_shl(32 - bits).unwrap_or(u32::MAX);
    let first = u32::from(address(network)?) & !(size - 1);
    // The network and the broadcast address of a network are nobody's, where it has room for both.
    let (skip, span) = if size > 2 { (1, size - 2) } else { (0, size) };
    Ok((Ipv4Addr::from(first + skip), Ipv4Addr::from(first + skip + span - 1)))
}

/// The pairs of addresses that connections are spread over.
#[derive(Debug, Clone)]
pub struct Routes {
    /// Inclusive ranges; empty where the kernel picks.
    ranges: Vec<(u32, u32)>,
    sources: u32,
    destinations: Vec<SocketAddr>,
}

impl Routes {
    /// Spreads `connections` over the sources chosen and all `destinations`, which must not be empty.
    #[must_use]
    pub fn plan(choice: &SourceChoice, destinations: Vec<SocketAddr>, connections: u32) -> Self {
        let loopback = destinations.iter().all(|to| to.ip().is_loopback() && to.is_ipv4());
        let listed = match choice {
            SourceChoice::Auto if loopback => vec![loopback_range(connections, destinations.len())],
            SourceChoice::Auto | SourceChoice::Kernel => Vec::new(),
            SourceChoice::Aliases => local_addresses().into_iter().map(|one| (one, one)).collect(),
            SourceChoice::Listed(ranges) => ranges.clone(),
        };
        let ranges: Vec<_> =
            listed.iter().map(|&(first, last)| (u32::from(first), u32::from(last))).collect();
        let sources = ranges.iter().map(|(first, last)| last - first + 1).fold(0, u32::saturating_add);
        Self { ranges, sources, destinations }
    }

    /// Where client `number` connects to, and from where. `None` leaves the source to the kernel.
    #[must_use]
    pub fn route(&self, number: u32) -> (Option<IpAddr>, SocketAddr) {
        let destinations = u32::try_from(self.destinations.len()).unwrap_or(u32::MAX).max(1);
        let to = self.destinations[(number % destinations) as usize];
        if self.sources == 0 {
            return (None, to);
        }
        let mut index = number / destinations % self.sources;
        for &(first, last) in &self.ranges {
            let size = last - first + 1;
            if index < size {
                return (Some(Ipv4Addr::from(first + index).into()), to);
            }
            index -= size;
        }
        (None, to)
    }

    /// How many source addresses there are; 0 where the kernel picks.
    #[must_use]
    pub fn sources(&self) -> u32 {
        self.sources
    }

    /// The destinations.
    #[must_use]
    pub fn destinations(&self) -> &[SocketAddr] {
        &self.destinations
    }

    /// Connections that the addresses allow, given `ports` ephemeral ports.
    #[must_use]
    pub fn capacity(&self, ports: u64) -> u64 {
        u64::from(self.sources.max(1)) * self.destinations.len() as u64 * ports
    }
}

/// Enough of 127.0.0.0/8 that no pair of addresses uses more than its share of ports.
fn loopback_range(connections: u32, destinations: usize) -> (Ipv4Addr, Ipv4Addr) {
    let per_pair = (ephemeral_ports() * PORTS_USED_PERCENT / 100 / 2).max(1);
    let pairs = u64::from(connections).div_ceil(per_pair).max(1);
    let sources = pairs.div_ceil(destinations.max(1) as u64).clamp(1, 1 << 22);
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    let last = first + u32::try_from(sources).unwrap_or(1) - 1;
    (Ipv4Addr::from(first), Ipv4Addr::from(last))
}

/// How many ephemeral ports the kernel hands out, by `/proc/sys/net/ipv4/ip_local_port_range`.
#[must_use]
pub fn ephemeral_ports() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if last >= first => last - first + 1,
        _ => 28_232,
    }
}

/// This host's own IPv4 addresses but loopback, in order, by `/proc/net/fib_trie`.
fn local_addresses() -> Vec<Ipv4Addr> {
    let text = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    parse_local_addresses(&text)
}

fn parse_local_addresses(fib_trie: &str) -> Vec<Ipv4Addr> {
    let mut leaf = None;
    let mut found = Vec::new();
    for line in fib_trie.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("|-- ") {
            leaf = text.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(leaf.filter(|address| !address.is_loopback()));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn ranges_are_read() {
        let listed = |text: &str| match text.parse() {
            Ok(SourceChoice::Listed(ranges)) => ranges,
            other => panic!("{other:?}"),
        };
        let pair = |a: &str, b: &str| (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(listed("10.0.0.5"), [pair("10.0.0.5", "10.0.0.5")]);
        assert_eq!(
            listed("10.0.0.5-10.0.0.9,10.1.0.0/30"),
            [pair("10.0.0.5", "10.0.0.9"), pair("10.1.0.1", "10.1.0.2")]
        );
        assert!("10.0.0.9-10.0.0.5".parse::<SourceChoice>().is_err());
        assert!("10.0.0.0/33".parse::<SourceChoice>().is_err());
    }

    #[test]
    fn a_million_connections_spread_evenly_over_loopback() {
        let to: SocketAddr = "127.0.0.1:8000".parse().unwrap();
        let routes = Routes::plan(&SourceChoice::Auto, vec![to], 100_000);
        let mut pairs = HashMap::new();
        for number in 0..100_000 {
            *pairs.entry(routes.route(number)).or_insert(0_u64) += 1;
        }
        let most = pairs.values().max().copied().unwrap();
        assert!(most * 100 <= ephemeral_ports() * PORTS_USED_PERCENT, "{most} on one pair");
        assert_eq!(pairs.len() as u32, routes.sources());
    }

    #[test]
    fn local_addresses_are_those_marked_local() {
        let text = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.7\n        \
                    /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\nLocal:\n     |-- 10.0.0.7\n        /32 host LOCAL\n";
        assert_eq!(parse_local_addresses(text), [Ipv4Addr::new(10, 0, 0, 7)]);
    }
}
