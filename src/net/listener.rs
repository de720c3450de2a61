//! Listeners: one per shard and address, sharing the port, so that the kernel spreads connections over the shards.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// Connections the kernel may hold ready for us, if `net.core.somaxconn` allows as many.
const BACKLOG: i32 = 65_535;

/// How the kernel finds out that a client's host is gone, in place of pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Nothing was heard for so long: a probe goes out. At least 1 s.
    pub quiet: Duration,
    /// How long the answer to probes, or the acknowledgement of data, may take. At least 1 s.
    pub answer_within: Duration,
}

impl Keepalive {
    /// Probes go out twice within `answer_within`, so that one may be lost. `TCP_USER_TIMEOUT` decides (tcp(7)): it
    /// holds for quiet connections, in place of a number of probes, and for unacknowledged data.
    fn apply(self, socket: &Socket) -> io::Result<()> {
        let interval = (self.answer_within / 2).max(Duration::from_secs(1));
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(self.quiet).with_interval(interval))?;
        socket.set_tcp_user_timeout(Some(self.quiet + self.answer_within))
    }
}

/// Opens a listener. Options of client sockets are set here once, since accepted sockets inherit them.
///
/// # Errors
/// Those of `bind(2)` and `listen(2)`: address in use, not available, permission denied.
pub fn listen(address: SocketAddr, keepalive: Option<Keepalive>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(keepalive) = keepalive {
        keepalive.apply(&socket)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Checks that nobody else listens on the address, which the shared ports of the shards would not notice.
///
/// # Errors
/// `AddrInUse` and the other errors of `bind(2)`.
pub fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(1)
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    #[test]
    fn accepted_sockets_inherit_the_options_of_the_listener() {
        let keepalive = Keepalive { quiet: Duration::from_secs(25), answer_within: Duration::from_secs(8) };
        for wanted in [Some(keepalive), None] {
            let listener = listen("127.0.0.1:0".parse().unwrap(), wanted).unwrap();
            listener.set_nonblocking(false).unwrap();
            let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let socket = SockRef::from(&accepted);
            assert!(socket.tcp_nodelay().unwrap());
            assert_eq!(socket.keepalive().unwrap(), wanted.is_some());
            if wanted.is_some() {
                assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(25));
                assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(4));
                assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(33)));
            }
        }
    }
}
