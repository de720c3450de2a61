//! Addresses and what else concerns the process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Checks;
use crate::config::problem::Rule;
use crate::config::sections::{Client, HttpServer, Root};
use crate::config::{Heartbeat, ServerConfig};
use crate::net::listener::Keepalive;

impl Checks<'_> {
    pub(super) fn server(&mut self, root: &Root) -> ServerConfig {
        let http = &root.http_server;
        // A file that holds every key, as `default-config` prints it, gives address and port without meaning to.
        let usual = HttpServer::default();
        let moved = http.address != usual.address || http.port != usual.port;
        if moved && !http.listen.0.is_empty() {
            self.contradiction("http_server.listen", Rule::ListenTwice);
        }
        let listen = self.listen(http);
        let internal_ip = self.address("http_server.internal_address", &http.internal_address.0);
        let internal_listen = SocketAddr::new(internal_ip, port(http.internal_port.0));
        if internal_listen.port() != 0 && listen.iter().any(|client| clash(*client, internal_listen)) {
            self.contradiction("http_server.internal_port", Rule::InternalIsPublic);
        }
        ServerConfig {
            listen,
            internal_listen,
            shards: u16::try_from(root.server.shards.0).unwrap_or(u16::MAX),
            shutdown_timeout: root.shutdown.timeout.0,
            memory_limit: root.server.memory_limit.0,
            keepalive: keepalive(&root.client),
        }
    }

    fn listen(&mut self, http: &HttpServer) -> Vec<SocketAddr> {
        if http.listen.0.is_empty() {
            let ip = self.address("http_server.address", &http.address.0);
            return vec![SocketAddr::new(ip, port(http.port.0))];
        }
        let mut addresses = Vec::with_capacity(http.listen.0.len());
        for text in &http.listen.0 {
            match listen_address(text) {
                Ok(address) => addresses.push(address),
                Err(_) => self.reader.wrong_value(
                    "http_server.listen",
                    "a list of IP addresses with ports, such as 0.0.0.0:8000, [::]:8000 or :8000".into(),
                    Some(&text.as_str().into()),
                ),
            }
        }
        addresses
    }

    fn address(&mut self, path: &str, text: &str) -> IpAddr {
        host(text).unwrap_or_else(|| {
            let expected = "an IP address, localhost, or empty for all addresses".into();
            self.reader.wrong_value(path, expected, Some(&text.into()));
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        })
    }

    pub(super) fn demo(&mut self, listen: &[SocketAddr]) {
        if listen.iter().any(|address| !address.ip().is_loopback()) {
            self.contradiction("http_server.listen", Rule::DemoBeyondLoopback);
        }
    }
}

/// The address that a setting names; `None` if it names none. Names are not looked up.
fn host(text: &str) -> Option<IpAddr> {
    match text {
        "" => Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        text => text.trim_start_matches('[').trim_end_matches(']').parse().ok(),
    }
}

/// Text that names no address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address has an IP address and a port, such as 0.0.0.0:8000, [::]:8000 or :8000")]
pub struct NotAnAddress;

/// `address:port`, where the address may be `localhost`, or left out as in `:8000`. Names are not looked up.
///
/// # Errors
/// [`NotAnAddress`]
pub fn listen_address(text: &str) -> Result<SocketAddr, NotAnAddress> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (address, port) = text.rsplit_once(':').ok_or(NotAnAddress)?;
    let ip = host(address).ok_or(NotAnAddress)?;
    Ok(SocketAddr::new(ip, port.parse().map_err(|_| NotAnAddress)?))
}

fn keepalive(client: &Client) -> Option<Keepalive> {
    (client.heartbeat.0 == Heartbeat::Tcp)
        .then_some(Keepalive { quiet: client.ping_interval.0, answer_within: client.pong_timeout.0 })
}

/// The section's type keeps ports in range.
fn port(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// True if both cannot be bound: the same port on the same address or on all of them.
fn clash(left: SocketAddr, right: SocketAddr) -> bool {
    let everywhere =
        |ip: IpAddr| ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let overlap = left.ip() == right.ip() || everywhere(left.ip()) || everywhere(right.ip());
    left.port() == right.port() && overlap
}

/// The configured name, else host name and port, which differ where several nodes share a host.
pub(super) fn node_name(configured: &str, server: &ServerConfig) -> String {
    if !configured.is_empty() {
        return configured.to_owned();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "millpond" } else { host.trim() };
    match server.listen.first() {
        Some(address) => format!("{host}_{}", address.port()),
        None => host.to_owned(),
    }
}
