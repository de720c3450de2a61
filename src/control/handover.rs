//! The receiving half of a socket's way from a shard to the control plane (see `net::handover` for the sending half).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use bytes::Bytes;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::Interest;

/// Room for one datagram; at least what the sending half lets through.
const DATAGRAM_BYTES: usize = 128 * 1024;

/// The control plane's end of the pair. Make it before the shards take their private descriptor tables.
#[derive(Debug)]
pub struct HandoverReceiver {
    socket: OwnedFd,
}

impl From<OwnedFd> for HandoverReceiver {
    /// Takes the second half of `net::handover::handover_pair`.
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

/// A client's socket with the bytes that were already read from it.
pub(crate) struct HandedOver {
    pub(crate) socket: TcpStream,
    pub(crate) already_read: Bytes,
}

/// The receiver, registered with the runtime.
pub(crate) struct Handovers {
    socket: tokio::net::UnixDatagram,
    buffer: Vec<u8>,
}

impl HandoverReceiver {
    /// Registers the socket with the runtime of the calling task.
    pub(crate) fn register(self) -> io::Result<Handovers> {
        let socket = UnixDatagram::from(self.socket);
        socket.set_nonblocking(true)?;
        Ok(Handovers { socket: tokio::net::UnixDatagram::from_std(socket)?, buffer: vec![0; DATAGRAM_BYTES] })
    }
}

impl Handovers {
    /// The next socket; `None` once the shard is gone.
    ///
    /// # Errors
    /// Those of `recvmsg(2)`. A datagram whose descriptor did not fit into the table is lost and reported as such;
    /// the next call goes on with the next one.
    pub(crate) async fn next(&mut self) -> io::Result<Option<HandedOver>> {
        let Self { socket, buffer } = self;
        socket.async_io(Interest::READABLE, || receive(socket, buffer)).await
    }
}

fn receive(from: &tokio::net::UnixDatagram, buffer: &mut [u8]) -> io::Result<Option<HandedOver>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let length = recvmsg(from, &mut [IoSliceMut::new(buffer)], &mut control, flags)?.bytes;
    let passed = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match passed {
        Some(descriptor) => {
            let socket = TcpStream::from(descriptor);
            socket.set_nonblocking(true)?;
            let already_read = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
            Ok(Some(HandedOver { socket, already_read }))
        }
        None if length == 0 => Ok(None),
        None => Err(io::Error::other("a handed-over socket did not fit into the descriptor table")),
    }
}
