//! Listeners: one per shard and address, sharing the port, so that the kernel spreads connections over the shards.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel may hold ready for us, if `net.core.somaxconn` allows as many.
const BACKLOG: i32 = 65_535;

/// Opens a listener. `TCP_NODELAY` is set here once, since accepted sockets inherit it.
///
/// # Errors
/// Those of `bind(2)` and `listen(2)`: address in use, not available, permission denied.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
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
