//! The sockets of one shard, found by descriptor: 4 bytes each, so that the hub needs to keep only the number.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::base::ids::Descriptor;
use crate::hub::sockets::{Sockets, Written};
use crate::net::handover::HandoverSender;

const _: () = assert!(size_of::<Option<TcpStream>>() == 4, "a socket costs its descriptor");

/// Places that an almost empty table keeps.
const LEAST_PLACES: usize = 1024;

/// Answer to a request that the control plane cannot take now.
const CONTROL_BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
    Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nbusy\n";

/// All client sockets of a shard.
pub struct SocketTable {
    by_descriptor: Vec<Option<TcpStream>>,
    registry: Registry,
    handover: Option<std::sync::Arc<HandoverSender>>,
    /// Sockets that the control plane did not take, until they are asked for.
    handovers_refused: u64,
}

impl SocketTable {
    /// An empty table whose sockets are polled by `registry`.
    #[must_use]
    pub fn new(registry: Registry, handover: Option<std::sync::Arc<HandoverSender>>) -> Self {
        Self { by_descriptor: Vec::new(), registry, handover, handovers_refused: 0 }
    }

    /// Takes in a socket and polls it, edge-triggered, for everything it may ever be waited for.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`: out of memory, or over `max_user_watches`.
    pub fn add(&mut self, socket: TcpStream, token: Token) -> io::Result<Descriptor> {
        let descriptor = socket.as_raw_fd();
        let at = usize::try_from(descriptor).unwrap_or_default();
        if self.by_descriptor.len() <= at {
            self.by_descriptor.resize_with(at + 1, || None);
        }
        // It stays open where it cannot be polled, until its connection is closed: else the next one accepted would get
        // the same number, and be closed in its place.
        self.by_descriptor[at] = Some(socket);
        let interest = Interest::READABLE.add(Interest::WRITABLE);
        self.registry.register(&mut SourceFd(&descriptor), token, interest)?;
        Ok(Descriptor(descriptor))
    }

    /// Reads once.
    ///
    /// # Errors
    /// Those of `recv(2)`; `NotFound` for a descriptor that is not ours.
    pub fn read(&self, socket: Descriptor, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut stream = self.get(socket).ok_or(io::ErrorKind::NotFound)?;
            match stream.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// How many sockets the control plane did not take since this was asked last.
    pub fn take_handovers_refused(&mut self) -> u64 {
        std::mem::take(&mut self.handovers_refused)
    }

    /// Bytes of the table itself.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.by_descriptor.len() * size_of::<Option<TcpStream>>()
    }

    fn get(&self, socket: Descriptor) -> Option<&TcpStream> {
        self.by_descriptor.get(usize::try_from(socket.0).ok()?)?.as_ref()
    }

    /// The kernel gives out the lowest numbers first, so the table ends where the last socket stands.
    fn take(&mut self, socket: Descriptor) -> Option<TcpStream> {
        let taken = self.by_descriptor.get_mut(usize::try_from(socket.0).ok()?)?.take();
        while let Some(None) = self.by_descriptor.last() {
            self.by_descriptor.pop();
        }
        if self.by_descriptor.capacity() > 4 * self.by_descriptor.len() + LEAST_PLACES {
            self.by_descriptor.shrink_to(2 * self.by_descriptor.len());
        }
        taken
    }
}

impl Sockets for SocketTable {
    fn write(&mut self, socket: Descriptor, bytes: &[u8]) -> Written {
        let Some(mut stream) = self.get(socket) else { return Written::Broken };
        loop {
            match stream.write(bytes) {
                Ok(count) => return Written::Bytes(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Bytes(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Written::Broken,
            }
        }
    }

    fn close(&mut self, socket: Descriptor, reset: bool) {
        let Some(stream) = self.take(socket) else { return };
        if reset {
            // Without this the kernel would keep the connection in FIN-WAIT for a peer that does not answer.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }

    fn shutdown_write(&mut self, socket: Descriptor) {
        if let Some(stream) = self.get(socket) {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    fn peer(&self, socket: Descriptor) -> Option<std::net::SocketAddr> {
        self.get(socket)?.peer_addr().ok()
    }

    fn hand_over(&mut self, socket: Descriptor, already_read: &[u8]) {
        let Some(mut stream) = self.take(socket) else { return };
        // The control plane will hold the same open file, so closing our descriptor would not end the polling.
        let _ = self.registry.deregister(&mut SourceFd(&stream.as_raw_fd()));
        let sent = self.handover.as_ref().map(|handover| handover.send(stream.as_fd(), already_read));
        if !matches!(sent, Some(Ok(()))) {
            let _ = stream.write(CONTROL_BUSY);
            self.handovers_refused += 1;
        }
    }
}

/// The number by which the hub knows a socket.
#[must_use]
pub fn descriptor_of(socket: &TcpStream) -> Descriptor {
    Descriptor(socket.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// The number of a socket that could not be polled is not given to the next one before its connection is closed.
    #[test]
    fn a_socket_that_cannot_be_polled_keeps_its_number_until_it_is_closed() {
        let poll = mio::Poll::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let descriptor = descriptor_of(&socket);
        // What is polled already cannot be polled once more.
        poll.registry().register(&mut SourceFd(&descriptor.0), Token(1), Interest::READABLE).unwrap();
        let mut table = SocketTable::new(poll.registry().try_clone().unwrap(), None);
        assert_eq!(table.add(socket, Token(2)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(table.peer(descriptor).is_some(), "it is the table's");
        peer.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let read = peer.read(&mut [0; 8]);
        assert!(read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock), "it is open");
        table.close(descriptor, false);
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "now it is closed");
        assert!(table.peer(descriptor).is_none());
    }
}
