//! The one door through which the hub touches a socket. `net` implements it with real sockets, tests with simulated
//! ones that write short, block and break.

use std::net::SocketAddr;

use crate::base::ids::Descriptor;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// So many bytes went into the kernel's buffer (all of them, or fewer: the rest waits for writability).
    Bytes(usize),
    /// The peer is gone; the connection must be dropped.
    Broken,
}

/// Non-blocking socket operations, one syscall each.
pub trait Sockets {
    /// Writes one contiguous slice. `Written::Bytes(0)` means the buffer was full.
    fn write(&mut self, socket: Descriptor, bytes: &[u8]) -> Written;
    /// Closes the socket: after flushing kernel buffers (FIN), or at once with RST where `reset` is set.
    fn close(&mut self, socket: Descriptor, reset: bool);
    /// Half-closes the sending side (FIN after what is buffered); reading goes on.
    fn shutdown_write(&mut self, socket: Descriptor);
    /// Passes the socket, with the bytes already read, to the control plane; the shard forgets it.
    fn hand_over(&mut self, socket: Descriptor, already_read: &[u8]);
    /// Address of the peer, where the socket still has one. Asked for rarely, so it is not kept.
    fn peer(&self, socket: Descriptor) -> Option<SocketAddr> {
        let _ = socket;
        None
    }
}
